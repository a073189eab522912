"""Every model by name: its factory, published size and citation, and how to build it.

Nothing here imports torch until a model is built. A new model takes its file in `families/`, its
test and one entry each of `MODELS` and `SIZES`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from arnas.runtime.errors import UserError, one_line
from arnas.runtime.references import FORM, is_reference, load_reference
from arnas.runtime.registered import Registered
from arnas.spaces.genotype import Genotype, genotype_from_json, load_genotype
from arnas.spaces.layout import MIN_CHANNELS
from arnas.spaces.options import SpaceOptions
from arnas.spaces.published import GENOTYPES, ROBNETS, PublishedGenotype

if TYPE_CHECKING:
    from torch import nn

HALVINGS = {4: "twice", 8: "three times", 16: "twice", 32: "five times"}
"""By the smallest image that allows it."""


@dataclass(frozen=True)
class ModelEntry:
    """A model of the registry."""

    factory: str
    """Dotted reference to a callable that takes `arguments`, num_classes, in_channels and channels;
    cells where the model has some, and auxiliary (the side of the images) for a head."""
    channels: int
    """Published initial channels."""
    citation: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """What tells this model from others of its factory."""
    cells: int | None = None
    """Published number of cells; None where a model has no cells."""
    min_image_size: int = 4
    """Side of the smallest images in pixels that it takes."""
    auxiliary: bool = False
    """Whether it can have an auxiliary head."""
    sized: bool = False
    """Whether its layers depend on the side of the images, so that its factory takes `image_size`.
    """


def _genotype_entry(published: PublishedGenotype) -> ModelEntry:
    """Return the entry of a published genotype."""
    return ModelEntry(
        "arnas.spaces.network:DerivedNetwork",
        published.channels,
        published.genotype.origin,
        {"genotype": published.genotype, "space": published.space},
        published.cells,
        auxiliary=True,
    )


_FAMILIES = "arnas.models.families"
_RESNET = "He, Zhang, Ren, Sun, CVPR 2016, arXiv 1512.03385; CIFAR form"
_WIDE = "Zagoruyko, Komodakis, Wide Residual Networks, BMVC 2016, arXiv 1605.07146"
_ROBUST_WIDE = (
    "Huang, Wang, Erfani, Gu, Bailey, Ma, Exploring Architectural Ingredients of Adversarially "
    "Robust Deep Neural Networks, NeurIPS 2021, arXiv 2110.03825"
)


_PREACT = f"{_FAMILIES}.preact_resnet:PreActivationNetwork"


def _wide_entry(depth: int, widths: tuple[int, int, int], citation: str = _WIDE) -> ModelEntry:
    """Return the entry of a wide residual network; `widths` are in units of the stem's."""
    blocks = (depth - 4) // 6  # of each stage, two convolutions each (arXiv 1605.07146, table 1)
    stages = tuple(zip(widths, (blocks,) * 3, (1, 2, 2), strict=True))
    return ModelEntry(_PREACT, 16, citation, {"stages": stages, "wide": True})


MODELS: dict[str, ModelEntry] = {
    **{name: _genotype_entry(published) for name, published in GENOTYPES.items()},
    **{
        name: ModelEntry(
            "arnas.spaces.robnet:RobNet",
            net.channels,
            net.citation,
            {"codes": net.codes},
            net.cells,
        )
        for name, net in ROBNETS.items()
    },
    "resnet18": ModelEntry(f"{_FAMILIES}.resnet:ResNet", 64, _RESNET, {"counts": (2, 2, 2, 2)}),
    "resnet34": ModelEntry(f"{_FAMILIES}.resnet:ResNet", 64, _RESNET, {"counts": (3, 4, 6, 3)}),
    "preact_resnet18": ModelEntry(
        _PREACT,
        64,
        "He, Zhang, Ren, Sun, Identity Mappings in Deep Residual Networks, ECCV 2016, "
        "arXiv 1603.05027; CIFAR form",
        {"stages": ((1, 2, 1), (2, 2, 2), (4, 2, 2), (8, 2, 2)), "wide": False},
    ),
    "densenet121": ModelEntry(
        f"{_FAMILIES}.densenet:DenseNet121",
        64,
        "Huang, Liu, van der Maaten, Weinberger, Densely Connected Convolutional Networks, "
        "CVPR 2017, arXiv 1608.06993; CIFAR form",
        min_image_size=8,
    ),
    "vgg16_bn": ModelEntry(
        f"{_FAMILIES}.vgg:VGG16",
        64,
        "Simonyan, Zisserman, Very Deep Convolutional Networks, ICLR 2015, arXiv 1409.1556; "
        "CIFAR form",
        min_image_size=32,
    ),
    "mobilenet_v2": ModelEntry(
        f"{_FAMILIES}.mobilenet:MobileNetV2",
        32,
        "Sandler, Howard, Zhu, Zhmoginov, Chen, MobileNetV2: Inverted Residuals and Linear "
        "Bottlenecks, CVPR 2018, arXiv 1801.04381; CIFAR form",
    ),
    "small_cnn": ModelEntry(
        f"{_FAMILIES}.small_cnn:SmallCNN",
        32,
        "Zhang, Yu, Jiao, Xing, El Ghaoui, Jordan, Theoretically Principled Trade-off between "
        "Robustness and Accuracy, ICML 2019, arXiv 1901.08573; released code, MNIST",
        min_image_size=16,
        sized=True,
    ),
    "wrn28_10": _wide_entry(28, (10, 20, 40)),
    "wrn34_10": _wide_entry(34, (10, 20, 40)),
    "wrn34_12": _wide_entry(34, (12, 24, 48)),
    "wrn34_r": _wide_entry(34, (20, 40, 32), _ROBUST_WIDE),
}
"""Name to model."""
SIZES = {
    "arnas": (4_520_394, 1_240_151_040),
    "advrush": (4_158_046, 645_337_728),
    "darts_v1": (3_169_414, 500_987_520),
    "darts_v2": (3_349_342, 528_359_040),
    "pdarts": (3_433_798, 532_174_464),
    "pc_darts": (3_634_678, 556_670_592),
    "racl": (3_571_174, 549_979_776),
    "robnet_large_v1": (6_842_710, 1_030_336_128),
    "robnet_large_v2": (33_326_666, 5_094_615_040),
    "robnet_free": (5_439_790, 780_177_024),
    "resnet18": (11_173_962, 555_422_720),
    "resnet34": (21_282_122, 1_159_402_496),
    "preact_resnet18": (11_171_146, 555_422_720),
    "densenet121": (6_956_298, 888_350_720),
    "vgg16_bn": (14_728_266, 313_201_664),
    "mobilenet_v2": (2_296_922, 91_154_944),
    "small_cnn": (427_978, 14_705_552),
    "wrn28_10": (36_479_194, 5_243_328_768),
    "wrn34_10": (46_160_474, 6_658_906_368),
    "wrn34_12": (66_457_818, 9_582_337_536),
    "wrn34_r": (68_116_698, 19_132_765_184),
}
"""Name to parameters and multiply-accumulates at the published size, for 10 classes and 3x32x32
pixels. Counting them takes seconds."""
ModelName = Annotated[str, Registered(MODELS)]
"""Type of a setting: a name of `MODELS`, or a function of the user's own."""


def cells_refused(model: str, cells: int | None) -> str | None:
    """Return why a model of the zoo cannot have so many cells; None where it can."""
    if cells is None or model in GENOTYPES:
        return None
    if model not in ROBNETS:
        return f"cells is {cells}, but {model} has no cells: leave it out"
    codes = len(ROBNETS[model].codes)
    if codes in (1, cells):
        return None
    return f"cells is {cells}, but {model} has {codes} cells, each of its own code: leave it out"


@dataclass(frozen=True)
class ModelSpec:
    """A model with its sizes: what its weights are stored with, and all that rebuilding it takes.

    See `build_model` for the fields.
    """

    model: str | Genotype
    num_classes: int
    image_size: int = 32
    in_channels: int = 3
    channels: int | None = None
    cells: int | None = None
    space: SpaceOptions | None = None

    def build(self, *, auxiliary: bool = False) -> nn.Module:
        """Return it with fresh weights, with an auxiliary head if asked for."""
        sizes = {key: value for key, value in vars(self).items() if key != "model"}
        return build_model(self.model, **sizes, auxiliary=auxiliary)

    def to_json(self) -> dict[str, Any]:
        """Return JSON values that `from_json` reads."""
        model = self.model.to_json() if isinstance(self.model, Genotype) else self.model
        return {**vars(self), "model": model, "space": self.space and self.space.model_dump()}

    @classmethod
    def from_json(cls, content: Any, source: str) -> ModelSpec:
        """Return the model that JSON values describe; `source` names them in errors."""
        try:
            if not isinstance(content, dict) or content.keys() != cls.__dataclass_fields__.keys():
                raise ValueError(f"needed are {', '.join(cls.__dataclass_fields__)}")
            name, space = content["model"], content["space"]
            if isinstance(name, dict):
                name = genotype_from_json(name, source)
            elif name not in MODELS and not (isinstance(name, str) and is_reference(name)):
                raise ValueError(f"model is {name!r:.80}")  # nor any path
            return cls(**{**content, "model": name, "space": space and SpaceOptions(**space)})
        except UserError:
            raise
        except (TypeError, ValueError) as error:
            raise UserError(
                f"{source} does not describe a model of arnas ({one_line(error)}): rerun what "
                "wrote it, or restore it."
            ) from None


def build_model(
    name: str | Path | Genotype,
    *,
    num_classes: int,
    image_size: int = 32,
    in_channels: int = 3,
    channels: int | None = None,
    cells: int | None = None,
    space: SpaceOptions | None = None,
    auxiliary: bool = False,
) -> nn.Module:
    """Build a model with fresh weights.

    Parameters
    ----------
    name
        A name of `MODELS`, a genotype, the path of a genotype file (``.json``), or a reference to
        a function of your own, ``package.module:function``. It is called with ``num_classes``,
        ``in_channels`` and ``image_size``, as far as it takes these.
    num_classes
        Classes, from 2 up.
    image_size
        Side of the square images in pixels, from 4 up; from 8 up for ``densenet121``, 32 for
        ``vgg16_bn``.
    in_channels
        Channels of the images.
    channels, cells
        Initial channels and number of cells; by default the published size (ARNAS's for a
        genotype file). Models made by hand have no cells.
    space
        Layout of the cells of a genotype; by default the published one, for a file ARNAS's.
    auxiliary
        Whether to add an auxiliary head for training, which genotypes can have: the model then has
        ``with_auxiliary``, and weights named ``auxiliary.*``. All other weights are drawn as
        without it.

    Returns
    -------
    nn.Module
        Takes float pixels in [0, 1] of shape (N, in_channels, H, W), returns logits of shape
        (N, num_classes).

    Raises
    ------
    UserError
        For an unknown name or an impossible size.
    """
    sizes = {"num_classes": num_classes, "image_size": image_size, "in_channels": in_channels}
    sizes |= {k: v for k, v in {"channels": channels, "cells": cells}.items() if v is not None}
    least = {"num_classes": 2, "in_channels": 1, "image_size": 1, "channels": MIN_CHANNELS}
    for key, value in sizes.items():
        if type(value) is not int:
            raise UserError(f"{key} is {value!r}: allowed are whole numbers.")
        if key in least and value < least[key]:
            raise UserError(f"{key} is {value}: allowed are {least[key]} and more.")
    if isinstance(name, str) and is_reference(name):
        if channels or cells or space or auxiliary:
            raise UserError(
                f"model '{name}' is a function of your own, which decides on its size itself: "
                "leave out channels, cells, space and auxiliary."
            )
        from arnas.models.factory import make_model

        return make_model(name, sizes).train()
    entry = _find(name, space)
    if image_size < (smallest := entry.min_image_size):
        raise UserError(
            f"image_size is {image_size}: allowed are {smallest} and more, because the network "
            f"halves the resolution {HALVINGS[smallest]}: take larger images or another model."
        )
    if isinstance(name, str) and name in MODELS and (reason := cells_refused(name, cells)):
        raise UserError(f"{reason}.")
    extra = {} if entry.cells is None else {"cells": entry.cells if cells is None else cells}
    if auxiliary and not entry.auxiliary:
        raise UserError(
            f"model '{name}' cannot have an auxiliary head: leave out `auxiliary`, or take a "
            "genotype."
        )
    model: nn.Module = load_reference(entry.factory)(
        **entry.arguments,
        num_classes=num_classes,
        in_channels=in_channels,
        channels=entry.channels if channels is None else channels,
        **extra,
        **({"auxiliary": image_size} if auxiliary else {}),
        **({"image_size": image_size} if entry.sized else {}),
    )
    return model


def _find(name: str | Path | Genotype, space: SpaceOptions | None) -> ModelEntry:
    """Return the entry of a name, or one made for a genotype."""
    if isinstance(name, str) and name in MODELS:
        if space is None:
            return MODELS[name]
        if name not in GENOTYPES:
            what = "a fixed layout" if name in ROBNETS else "no cells to lay out"
            raise UserError(f"model '{name}' has {what}: leave out `space`.")
        return _genotype_entry(replace(GENOTYPES[name], space=space))
    if not isinstance(name, Genotype):
        if not str(name).endswith(".json"):
            raise UserError(
                f"unknown model '{name}': allowed are {', '.join(MODELS)}, the path of a "
                f"genotype file that ends in .json, or {FORM}."
            )
        name = load_genotype(Path(name))
    published = GENOTYPES["arnas"]
    return _genotype_entry(
        PublishedGenotype(name, space or SpaceOptions(), published.channels, published.cells)
    )


def can_have_auxiliary(name: str | Genotype) -> bool:
    """Return whether a model of `MODELS` or a genotype can have an auxiliary head."""
    return isinstance(name, Genotype) or (name in MODELS and MODELS[name].auxiliary)
