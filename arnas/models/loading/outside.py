"""Networks of other libraries by name, and the normalisation that a network was trained with."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

from torch import nn

from arnas.runtime.errors import UserError, one_line
from arnas.spaces.network import Normalise

LIBRARIES = {"torchvision": "torchvision:resnet50", "timm": "timm:resnet50"}
"""Where a model may come from, with an example."""
NORMALISATIONS = {
    "cifar10": ([0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]),
    "cifar100": ([0.5071, 0.4865, 0.4409], [0.2673, 0.2564, 0.2762]),
    "imagenet": ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
}
"""Mean and standard deviation of the training images by channel, in input units."""


def is_outside(spec: str) -> bool:
    """Return whether a text names a model of another library."""
    return spec.partition(":")[0] in LIBRARIES and bool(spec.partition(":")[2])


def build_outside(spec: str, num_classes: int) -> nn.Module:
    """Build ``torchvision:NAME`` or ``timm:NAME`` with random weights.

    Raises
    ------
    UserError
        When the library is not installed or has no such model.
    """
    library, _, name = spec.partition(":")
    try:
        if library == "timm":
            import timm

            made: nn.Module = timm.create_model(name, pretrained=False, num_classes=num_classes)
        else:
            from torchvision.models import get_model

            made = get_model(name, weights=None, num_classes=num_classes)
    except ImportError:
        raise UserError(
            f"the model is '{spec}', and {library} is not installed: install it."
        ) from None
    except (RuntimeError, ValueError, TypeError) as error:
        raise UserError(
            f"{library} cannot build '{one_line(name, 60)}' ({one_line(error, 120)}): name one of "
            f"its classification models, as in {LIBRARIES[library]}."
        ) from None
    return made.eval()


def normalisation(text: str, channels: int) -> Normalise:
    """Return the normalisation that a text names.

    Parameters
    ----------
    text
        A name of `NORMALISATIONS`, or ``MEAN:STD`` in input units: one number for all channels, or
        one for each, separated by commas.
    channels
        Of the images.

    Raises
    ------
    UserError
        When it is neither, or has another number of channels.
    """
    if text in NORMALISATIONS:
        mean, std = NORMALISATIONS[text]
    else:
        try:
            mean, std = ([float(v) for v in part.split(",")] for part in text.split(":"))
        except ValueError:
            mean = std = []
        if not mean or not std or min(std) <= 0:
            raise UserError(
                f"normalise is '{one_line(text, 80)}': allowed are {', '.join(NORMALISATIONS)}, "
                "and MEAN:STD in input units, as in 0.5:0.25 or 0.49,0.48,0.45:0.25,0.24,0.26."
            )
    mean, std = (v * channels if len(v) == 1 else v for v in (mean, std))
    if {len(mean), len(std)} != {channels}:
        raise UserError(
            f"normalise is '{one_line(text, 80)}' for {max(len(mean), len(std))} channels, but the "
            f"images have {channels}: give one number, or one for each channel."
        )
    return Normalise(mean, std)


def normalised(model: nn.Module, constants: Normalise) -> nn.Module:
    """Return a model that normalises pixels in [0, 1] before a network sees them."""
    return nn.Sequential(OrderedDict(normalise=constants, network=model)).eval()


def needs_weights(spec: str, path: Path | None) -> Path:
    """Return the weights of a model that comes with none."""
    if path is None:
        raise UserError(
            f"the model is '{spec}', whose weights are drawn at random: name trained weights with "
            "--weights FILE."
        )
    return path
