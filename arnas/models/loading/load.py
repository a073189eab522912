"""Any model to evaluate: of the zoo, of a weight file, or of the user's own code."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from arnas.data.untrusted import HEAD, read_foreign
from arnas.models.factory import make_model
from arnas.models.loading.outside import (
    build_outside,
    is_outside,
    needs_weights,
    normalisation,
    normalised,
)
from arnas.models.loading.torch_files import ENDINGS, StateDict, read_state_dict
from arnas.models.registry import MODELS, build_model
from arnas.models.weight_files import load_weights
from arnas.models.weights import check_values, load_state_dict_checked, weights_sha256
from arnas.runtime.errors import UserError, one_line
from arnas.runtime.files import load_tensors, read_description, read_json_lines, sha256_bytes
from arnas.runtime.references import FORM, is_reference
from arnas.runtime.seeds import seeded
from arnas.spaces.network import Normalise

CHOSEN = ("selected.safetensors", "model.safetensors")
"""What is taken of a folder that holds several weight files."""
LAST_LAYER = "classifier.weight"
"""The tensor of every model of the zoo that has one row for each class."""
CHOICE = {
    "selected": "the epoch that was best on the validation images",
    "last": "the last epoch",
}
"""How a checkpoint was chosen, by its name."""
SIDE = 32
"""Side of the images in pixels that a model of the zoo is built for where nobody says."""


@dataclass(frozen=True)
class ModelInfo:
    """What is known of a model from its weights and its file; None where nothing is."""

    model_sha256: str
    """Of all weights, see `arnas.models.weights.weights_sha256`."""
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    """Constants of the normalisation inside the model."""
    trained: Mapping[str, Any] | None = None
    """The file's own account of its training."""
    clean_accuracy: float | None = None
    """In percent."""
    clean_accuracy_on: str | None = None
    """On which images."""
    selection: str | None = None
    """How the checkpoint was chosen."""
    training_history: Sequence[float] | None = None
    """Robust accuracy by epoch, in percent."""

    def to_json(self) -> dict[str, Any]:
        """Return what is known, as JSON values by the name of the field."""
        return {key: value for key, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class LoadedModel:
    """A model that can be attacked, and what is known of it."""

    model: nn.Module
    """Pixels in [0, 1] to logits; in evaluation mode, on the CPU."""
    name: str
    source: str
    """Where it comes from, in words."""
    info: ModelInfo
    warnings: tuple[str, ...]
    """Sentences without their full stop."""

    @property
    def sha256(self) -> str:
        """Return the digest of all weights."""
        return self.info.model_sha256


def load_model(
    spec: str,
    *,
    weights: Path | None = None,
    num_classes: int | None = None,
    in_channels: int | None = None,
    image_size: int | tuple[int, int] | None = None,
    normalise: str | None = None,
    weights_key: str | None = None,
) -> LoadedModel:
    """Load the model that a text names. Only a factory runs code of the user's.

    Parameters
    ----------
    spec
        One of: a name of `arnas.models.registry.MODELS`, with `weights`; a weight file that
        `arnas.models.registry.save_weights` has written, or the folder of one;
        ``package.module:factory``, a function that returns a module; it gets the sizes below that
        it takes; ``torchvision:NAME`` or ``timm:NAME``, with `weights`.
    weights
        For a name or a factory: a safetensors file, or a state dict of ``torch.save``.
    weights_key
        Where in the file of `weights` the network is, if there are several: the key of a state dict
        or the first part of the tensors' names.
    num_classes, in_channels, image_size
        Of the images that it is to be attacked on, the size in pixels, (height, width) where they
        differ. None where it is not known; with the last two, the model is tried on two images.

    normalise
        What the network expects its images to be normalised by, see
        `arnas.models.loading.outside.normalisation`; it is put in front of the network.

    Returns
    -------
    LoadedModel
        With the same digest for the same weights, however they were stored.

    Raises
    ------
    UserError
        When the text names nothing, or a file is damaged, unsafe, of another network or of another
        kind, or the model does not take such images.
    """
    path = None if weights is None else _weight_file(Path(weights))
    if spec in MODELS:
        if path is None:
            raise UserError(
                f"the model is '{spec}', a network whose weights are drawn at random, and nothing "
                "can be said of such a one: name trained weights with --weights FILE, or give the "
                "weight file itself as the model."
            )
        side = image_size if isinstance(image_size, int) else min(image_size or [SIDE])
        loaded = _of_zoo(spec, path, num_classes, in_channels or 3, side, weights_key)
    elif is_outside(spec):
        network = build_outside(spec, num_classes or 1000)
        path = needs_weights(spec, path)
        loaded = _with_weights(network, spec, one_line(path), _read(path, weights_key))
    elif is_reference(spec):
        sizes = {"num_classes": num_classes, "in_channels": in_channels, "image_size": image_size}
        taken = {k: v for k, v in sizes.items() if isinstance(v, int)}
        loaded = _of_user(spec, path, taken, weights_key)
    elif path is not None:
        raise UserError(
            f"the model is '{one_line(spec, 100)}' and the weights are {one_line(path, 100)}: "
            f"with weights, the model is a name ({', '.join(MODELS)}) or {FORM}."
        )
    else:
        loaded = _of_file(_weight_file(Path(spec)))
    if normalise is not None:
        constants = normalisation(normalise, in_channels or 3)
        model = normalised(loaded.model, constants)
        known = {key: getattr(constants, key).flatten().tolist() for key in ("mean", "std")}
        info = replace(loaded.info, model_sha256=weights_sha256(model), **known)
        loaded = replace(loaded, model=model, info=info)
    if in_channels is None or image_size is None:
        return loaded
    notes = _try_on_images(loaded, num_classes, in_channels, image_size)
    loaded.model.eval()  # whatever its own code has done
    return replace(loaded, warnings=(*loaded.warnings, *notes))


def _loaded(
    model: nn.Module,
    name: str,
    source: str,
    notes: Sequence[str] = (),
    account: Mapping[str, Any] | None = None,
) -> LoadedModel:
    """Return a model with what its weights and the account of its training say of it."""
    notes = (*notes, *check_values(model, source))
    model.cpu().eval()
    known = dict(account or {})
    if isinstance(inside := getattr(model, "normalise", None), Normalise):
        known |= {key: getattr(inside, key).flatten().tolist() for key in ("mean", "std")}
    info = ModelInfo(weights_sha256(model), **known)
    return LoadedModel(model, name, source, info, notes)


def _with_weights(model: nn.Module, name: str, file: str, content: StateDict) -> LoadedModel:
    """Return a model with the weights of a file that does not say which network it is for."""
    notes = load_state_dict_checked(model, content.tensors, file)
    what = name if is_reference(name) else f"{name} of the zoo"
    return _loaded(model, name, f"{what} with the weights of {file}", (*content.warnings, *notes))


def _of_user(
    spec: str, path: Path | None, sizes: Mapping[str, int], key: str | None
) -> LoadedModel:
    """Return a model of the user's own code, with the weights of a file if there is one."""
    if path is None:
        return _loaded(
            make_model(spec, sizes), spec, f"{spec}, with the weights that it sets itself"
        )
    described = _described(path)
    if described is not None and described.get("model") == spec:
        return _own(path, run_own_code=True)
    content = _read(path, key)  # first: whoever made it is less known than the code
    return _with_weights(make_model(spec, sizes), spec, one_line(path), content)


def _weight_file(path: Path) -> Path:
    """Return the weight file at a path, which may be the folder that holds it."""
    shown = one_line(path, 200)
    # os.path, which finds no fault with names that are too long
    if not os.path.lexists(path):
        raise UserError(
            f"there is no '{shown}': allowed are {', '.join(MODELS)}, a weight file, a folder with "
            f"one, and {FORM}."
        )
    if not os.path.isdir(path):  # noqa: PTH112
        return path
    try:
        names = sorted(item.name for item in path.iterdir() if item.suffix == ".safetensors")
    except OSError as error:
        raise UserError(f"{shown} cannot be read ({error.strerror}): name the file.") from None
    chosen = [name for name in CHOSEN if name in names] or names
    if len(chosen) == 1 or (chosen and chosen[0] in CHOSEN):
        return path / chosen[0]
    what = f"holds {', '.join(one_line(name, 60) for name in names[:4])}" if names else "holds none"
    raise UserError(f"{shown} is a folder, which {what}: name one .safetensors file.")


def _of_file(path: Path) -> LoadedModel:
    """Return the model of a file that says which network it is."""
    if _described(path) is not None:
        return _own(path)
    shown, content = one_line(path), _read(path)
    raise UserError(
        f"{shown} holds {len(content.tensors)} tensors and does not say of which network: write "
        f"--model NAME --weights {shown}, where NAME is one of {', '.join(MODELS)} or "
        f"{FORM}."
    )


def _of_zoo(
    name: str,
    path: Path,
    num_classes: int | None,
    in_channels: int,
    image_size: int,
    key: str | None,
) -> LoadedModel:
    """Return a model of the zoo with the weights of a file."""
    shown, described = one_line(path), _described(path)
    if described is not None:
        own = described.get("model")
        if own != name:
            own = f"'{one_line(own, 60)}'" if isinstance(own, str) else "a genotype of its own"
            raise UserError(
                f"{shown} says that its network is {own}, not '{name}': give the file itself as "
                "the model."
            )
        return _own(path)
    content = _read(path, key)
    rows = [value for key, value in content.tensors.items() if key.endswith(LAST_LAYER)]
    classes = len(rows[0]) if len(rows) == 1 and rows[0].ndim == 2 else num_classes
    if classes is None:
        raise UserError(
            f"{shown} has no tensor '{LAST_LAYER}' that tells how many classes '{name}' has: give "
            "weights that were written for it."
        )
    model = build_model(
        name, num_classes=max(classes, 2), in_channels=in_channels, image_size=image_size
    )
    return _with_weights(model.eval(), name, shown, content)


def _described(path: Path) -> Mapping[str, Any] | None:
    """Return what the header of a safetensors file says of its model, None if it says nothing."""
    if path.suffix != ".safetensors":
        return None
    read_foreign(path, frozenset({"safetensors"}), most=HEAD)
    found = read_description(path).get("model")
    return found if isinstance(found, dict) else None


def _own(path: Path, *, run_own_code: bool = False) -> LoadedModel:
    """Return a model of a weight file of arnas, with what the file says of it."""
    model, provenance = load_weights(path, run_own_code=run_own_code)
    network = provenance.get("network")
    name = network if isinstance(network, str) and network else path.stem
    account = {**_account(provenance), **_history(path.with_name("history.jsonl"), provenance)}
    return _loaded(model, name, f"{one_line(path)}, verified", account=account)


def _account(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a file says of its training, as fields of `ModelInfo`."""
    known: dict[str, Any] = {"trained": dict(provenance)} if provenance else {}
    dataset = provenance.get("dataset")
    for key, where in (
        ("clean_accuracy", "clean_accuracy_on"),
        ("val_clean", None),
        ("selection_clean", None),  # of weights that earlier versions exported
    ):
        value = provenance.get(key)
        if isinstance(value, int | float) and not isinstance(value, bool):
            known["clean_accuracy"] = float(value)
            images = (
                f"the validation images of {dataset}" if where is None else provenance.get(where)
            )
            known["clean_accuracy_on"] = str(images or "images that are not named")
            break
    chosen = CHOICE.get(str(provenance.get("checkpoint")))
    return known if chosen is None else {**known, "selection": chosen}


def _history(path: Path, provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Return the robust accuracies of the epochs of the training, if they lie beside its weights.

    They are a help and no condition: what is damaged, or of another training, is left out.
    """
    if not os.path.isfile(path):  # noqa: PTH113
        return {}
    try:
        rows = read_json_lines(path)
        chosen = rows[provenance["epoch"] - 1]
        fits = all(chosen[key] == provenance[key] for key in ("epoch", "val_clean", "val_robust"))
        course = [float(row["val_robust"]) for row in rows]
    except (UserError, LookupError, TypeError, ValueError):
        return {}
    return {"training_history": course} if fits and len(rows) == provenance.get("epochs") else {}


def _read(path: Path, key: str | None = None) -> StateDict:
    """Return the tensors of a weight file of any kind, those of a key if there is one."""
    shown, name = one_line(path), path.name.lower()
    if name.endswith(ENDINGS):
        content, verified = read_state_dict(path, key), False
    elif name.endswith(".safetensors"):
        sha256 = sha256_bytes(read_foreign(path, frozenset({"safetensors"})))
        with warnings.catch_warnings(record=True) as unverified:
            warnings.simplefilter("always")
            content = StateDict(load_tensors(path).tensors, sha256, ())
        verified = not unverified
    else:
        # Says what it is, if that is known and no weight file.
        read_foreign(path, frozenset({"zip", "pickle", "safetensors"}), most=HEAD)
        raise UserError(
            f"{shown} is no weight file by its name: allowed are the endings .safetensors, "
            f"{', '.join(ENDINGS)}."
        )
    if key is not None:
        part = {k: v for k, v in content.tensors.items() if k.startswith(f"{key}.")}
        content = content._replace(tensors=part or content.tensors)
    if verified:
        return content
    note = f"{shown} comes without a recorded sha256 to verify it by; it has {content.sha256}"
    return content._replace(warnings=(note, *content.warnings))


def _try_on_images(
    loaded: LoadedModel,
    num_classes: int | None,
    in_channels: int,
    image_size: int | tuple[int, int],
) -> list[str]:
    """Let a model classify two grey images, and say what is odd about its answer."""
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    shape = (2, in_channels, *size)
    try:
        with seeded("load_model"), torch.no_grad():
            found = loaded.model(torch.full(shape, 0.5))
    except Exception as error:  # whatever a network of another shape raises
        raise UserError(
            f"{loaded.source} fails on images of shape {shape} ({one_line(error, 200)}): give "
            "images of the shape that it takes, or another model."
        ) from None
    if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != 2:
        what = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        raise UserError(
            f"{loaded.source} answers images of shape {shape} with {what}, needed are logits of "
            "shape (2, classes): wrap it in a module that returns these."
        )
    logits = found.shape[1]
    if num_classes is not None and logits < num_classes:
        raise UserError(
            f"{loaded.source} has {logits} classes, but the images have {num_classes}: give images "
            "of the dataset that it was trained on."
        )
    if num_classes is not None and logits > num_classes:
        return [f"{loaded.source} has {logits} classes, the images have {num_classes}"]
    return []
