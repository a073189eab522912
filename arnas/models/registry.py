"""Models by name, and how to rebuild a model from what a weight file says of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel
from torch import Tensor, nn

from arnas.data.splits import DatasetInfo
from arnas.models.families.entries import BASELINES, ModelEntry
from arnas.models.options import cells_refused
from arnas.runtime.errors import UserError, one_line
from arnas.runtime.files import (
    check_form,
    load_tensors,
    read_description,
    save_tensors,
)
from arnas.spaces.genotype import Genotype, genotype_from_json, load_genotype
from arnas.spaces.layout import MIN_CHANNELS
from arnas.spaces.network import DerivedNetwork
from arnas.spaces.options import SpaceOptions
from arnas.spaces.published import GENOTYPES, ROBNETS, PublishedGenotype
from arnas.spaces.robnet import RobNet

HALVINGS = {4: "twice", 8: "three times", 32: "five times"}
"""By the smallest image that allows it."""
REMAKE = "rerun its training, or restore the file"
"""What to do about weights that are not what they should be."""


def _genotype_entry(published: PublishedGenotype) -> ModelEntry:
    """Return the entry of a published genotype."""
    return ModelEntry(
        partial(DerivedNetwork, published.genotype, published.space),
        published.channels,
        published.cells,
        published.genotype.origin,
        auxiliary=True,
    )


MODELS: dict[str, ModelEntry] = {
    **{name: _genotype_entry(published) for name, published in GENOTYPES.items()},
    **{
        name: ModelEntry(partial(RobNet, net.codes), net.channels, net.cells, net.citation)
        for name, net in ROBNETS.items()
    },
    **BASELINES,
}
"""Name to model."""


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
        A name of `MODELS`, or a genotype, or the path of a genotype file (``.json``).
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
    for key, value in sizes.items():
        if type(value) is not int:
            raise UserError(f"{key} is {value!r}: allowed are whole numbers.")
    if num_classes < 2:
        raise UserError(f"num_classes is {num_classes}: allowed are 2 and more.")
    if in_channels < 1:
        raise UserError(f"in_channels is {in_channels}: allowed are 1 and more.")
    if channels is not None and channels < MIN_CHANNELS:
        raise UserError(f"channels is {channels}: allowed are {MIN_CHANNELS} and more.")
    entry = _find(name, space)
    if image_size < (least := entry.min_image_size):
        raise UserError(
            f"image_size is {image_size}: allowed are {least} and more, because the network halves "
            f"the resolution {HALVINGS[least]}: take larger images or another model."
        )
    known = isinstance(name, str) and name in MODELS
    if known and (reason := cells_refused(str(name), cells)):
        raise UserError(f"{reason}.")
    extra = {} if entry.cells is None else {"cells": entry.cells if cells is None else cells}
    if auxiliary and not entry.auxiliary:
        raise UserError(
            f"model '{name}' cannot have an auxiliary head: leave out `auxiliary`, or take a "
            "genotype."
        )
    return entry.build(
        num_classes=num_classes,
        in_channels=in_channels,
        channels=entry.channels if channels is None else channels,
        **extra,
        **({"auxiliary": image_size} if auxiliary else {}),
    )


def _find(name: str | Path | Genotype, space: SpaceOptions | None) -> ModelEntry:
    """Return the entry of a name, or one made for a genotype."""
    if isinstance(name, str) and name in MODELS:
        if space is None:
            return MODELS[name]
        if name not in GENOTYPES:
            what = "a layout of its own" if name in ROBNETS else "no cells to lay out"
            raise UserError(f"model '{name}' has {what}: leave out `space`.")
        return _genotype_entry(replace(GENOTYPES[name], space=space))
    if not isinstance(name, Genotype):
        if not str(name).endswith(".json"):
            raise UserError(
                f"unknown model '{name}': allowed are {', '.join(MODELS)}, or the path of a "
                "genotype file that ends in .json."
            )
        name = load_genotype(Path(name))
    published = GENOTYPES["arnas"]
    return _genotype_entry(
        PublishedGenotype(name, space or SpaceOptions(), published.channels, published.cells)
    )


def can_have_auxiliary(name: str | Genotype) -> bool:
    """Return whether a model of `MODELS` or a genotype can have an auxiliary head."""
    return isinstance(name, Genotype) or MODELS[name].auxiliary


def describe_model(
    name: str | Genotype,
    *,
    num_classes: int,
    image_size: int,
    in_channels: int,
    channels: int | None,
    cells: int | None,
    space: SpaceOptions | None = None,
) -> dict[str, Any]:
    """Return the JSON description from which `model_from_description` builds the same model."""
    return {
        "model": name.to_json() if isinstance(name, Genotype) else name,
        "space": None if space is None else space.model_dump(),
        "num_classes": num_classes,
        "image_size": image_size,
        "in_channels": in_channels,
        "channels": channels,
        "cells": cells,
    }


def model_from_description(
    description: Mapping[str, Any], source: str, auxiliary: bool = False
) -> nn.Module:
    """Build the model that `describe_model` described; `source` names it in errors.

    With `auxiliary` it has an auxiliary head besides, as in `build_model`.
    """
    try:
        arguments = dict(description)
        name, space = arguments.pop("model"), arguments.pop("space")
        if absent := {"image_size", "in_channels", "channels", "cells"} - arguments.keys():
            raise KeyError(min(absent))
        if isinstance(name, dict):
            name = genotype_from_json(name, source)
        elif name not in MODELS:
            raise ValueError(f"model is {name!r:.80}")  # nor any path
        layout = space and SpaceOptions(**space)
        return build_model(name, space=layout, auxiliary=auxiliary, **arguments)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(
            f"{source} does not describe a model of arnas ({one_line(error)})."
        ) from None
    except UserError as error:
        raise UserError(f"{source}: {one_line(error)}") from None


def save_weights(
    path: str | Path,
    model: nn.Module,
    description: Mapping[str, Any],
    provenance: Mapping[str, Any],
) -> None:
    """Write a model's weights with the description it is rebuilt from.

    Parameters
    ----------
    path
        Ends in ``.safetensors``.
    model
        The model; its state dict is stored, normalisation constants included, without an
        auxiliary head, which serves training only.
    description
        From `describe_model`.
    provenance
        Where the weights come from: run, dataset, epoch and what was measured.
    """
    content = {"model": dict(description), "provenance": dict(provenance)}
    tensors = model.state_dict()
    stored = {name: value for name, value in tensors.items() if not name.startswith("auxiliary.")}
    save_tensors(Path(path), stored, content)


def load_weights(path: str | Path) -> tuple[nn.Module, dict[str, Any]]:
    """Rebuild a model from a file written by `save_weights`.

    Returns
    -------
    model, provenance
        The model in evaluation mode on the CPU, and where its weights come from.

    Raises
    ------
    UserError
        When the file is missing, damaged, undescribed or does not fit its description.
    """
    path = Path(path)
    tensors, content = load_tensors(path)
    if "model" not in content:
        raise UserError(
            f"{path} has no description of its model: load it into a model of your own with "
            "safetensors.torch.load_file."
        )
    model = _build_described(path, content["model"], tensors)
    provenance = content.get("provenance", {})
    if not isinstance(provenance, dict):
        raise UserError(f"{path} does not say where its weights come from: {REMAKE}.")
    model.load_state_dict(tensors)
    return model.eval(), dict(provenance)


class _Origin(BaseModel):
    dataset: str
    network: str
    seed: int
    loss: str


class _Sizes(BaseModel):
    image_size: int
    in_channels: int


class _Described(BaseModel):
    model: _Sizes
    provenance: _Origin


class _Trained(_Origin):
    epoch: int
    val_clean: float


def load_trained(
    path: Path, info: DatasetInfo, network: str, seed: int
) -> tuple[nn.Module, dict[str, Any]]:
    """Rebuild a network that a run has trained, like `load_weights`.

    Parameters
    ----------
    info
        The dataset that it must have been trained on.
    network, seed
        What it must have been trained as.
    """
    sizes, origin = read_origin(path, info.name, network, seed)
    check_form(path, origin, _Trained, REMAKE)
    for key in ("num_classes", "in_channels", "image_size"):
        if sizes.get(key) != getattr(info, key):
            raise UserError(
                f"{path} was trained for {key} {sizes.get(key)!r}, but the dataset {info.name} has "
                f"{getattr(info, key)!r} now: {REMAKE}."
            )
    return load_weights(path)


def read_origin(
    path: Path, dataset: str, network: str, seed: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the model's description and its provenance from the header of a weight file.

    Parameters
    ----------
    dataset, network, seed
        What the weights must have been trained on and as.

    Raises
    ------
    UserError
        When the file is missing, damaged or holds other weights.
    """
    content = read_description(path)
    check_form(path, content, _Described, REMAKE)
    origin = content["provenance"]
    for key, value in (("dataset", dataset), ("network", network), ("seed", seed)):
        if origin[key] != value:
            raise UserError(
                f"{path} is that of another {key}, {origin[key]!r} where {value!r} is needed: "
                f"{REMAKE}."
            )
    return content["model"], origin


def _build_described(path: Path, description: Any, tensors: Mapping[str, Tensor]) -> nn.Module:
    """Build the model of a weight file after comparing sizes, before any memory is taken."""
    values = sum(tensor.numel() for tensor in tensors.values())
    most = {"cells": len(tensors), "channels": values, "num_classes": values, "in_channels": values}
    sizes = description if isinstance(description, dict) else {}
    for key, limit in most.items():
        if isinstance(size := sizes.get(key), int) and size > limit:
            raise UserError(
                f"{path} does not fit the model it describes: {key} is {size}, but it has "
                f"{values} numbers in {len(tensors)} tensors; {REMAKE}."
            )
    try:
        with torch.device("meta"):
            wanted = model_from_description(description, str(path)).state_dict()
    except UserError as error:
        raise UserError(f"{str(error).rstrip('.')}; {REMAKE}.") from None
    for name in sorted(wanted.keys() | tensors.keys()):
        found, needed = _layout(tensors.get(name)), _layout(wanted.get(name))
        if found != needed:
            raise UserError(
                f"{path} does not fit the model it describes: {one_line(name)} is {found}, needed "
                f"is {needed}; {REMAKE}."
            )
    return model_from_description(description, str(path))


def _layout(tensor: Tensor | None) -> str:
    """Return type and shape of a tensor in words."""
    return "absent" if tensor is None else f"{tensor.dtype} of shape {tuple(tensor.shape)}"
