"""Weight files of arnas: written with what the model is rebuilt from, checked when read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from arnas.data.splits import DatasetInfo
from arnas.models.origin import REMAKE, Origin, read_origin
from arnas.models.registry import ModelSpec
from arnas.runtime.errors import UserError, one_line
from arnas.runtime.files import check_form, load_tensors, save_tensors
from arnas.runtime.references import is_reference


def save_weights(
    path: str | Path,
    model: nn.Module,
    spec: ModelSpec,
    provenance: Mapping[str, Any],
) -> None:
    """Write a model's weights with what it is rebuilt from.

    Parameters
    ----------
    path
        Ends in ``.safetensors``.
    model
        Its state dict is stored, normalisation constants included, without an auxiliary head, which
        serves training only.
    provenance
        Where the weights come from: run, dataset, epoch and what was measured.
    """
    content = {"model": spec.to_json(), "provenance": dict(provenance)}
    tensors = model.state_dict()
    stored = {name: value for name, value in tensors.items() if not name.startswith("auxiliary.")}
    save_tensors(Path(path), stored, content)


def load_weights(
    path: str | Path, *, run_own_code: bool = False
) -> tuple[nn.Module, dict[str, Any]]:
    """Rebuild a model from a file written by `save_weights`.

    Parameters
    ----------
    run_own_code
        Whether a model that is a function of the user's own, ``package.module:function``, may be
        imported and called; allow it for files that you trust.

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
    spec = ModelSpec.from_json(content["model"], str(path))
    model = _build_checked(path, spec, tensors, run_own_code)
    provenance = content.get("provenance", {})
    if not isinstance(provenance, dict):
        raise UserError(f"{path} does not say where its weights come from: {REMAKE}.")
    model.load_state_dict(tensors)
    return model.eval(), dict(provenance)


class _Trained(Origin):
    epoch: int
    val_clean: float


def load_trained(
    path: Path, info: DatasetInfo, network: str, seed: int
) -> tuple[nn.Module, dict[str, Any]]:
    """Rebuild a network that a run has trained, like `load_weights`.

    `info` is the dataset, and `network` and `seed` what it must have been trained as.
    """
    sizes, origin = read_origin(path, info.name, network, seed)
    check_form(path, origin, _Trained, REMAKE)
    for key in ("num_classes", "in_channels", "image_size"):
        if sizes.get(key) != getattr(info, key):
            raise UserError(
                f"{path} was trained for {key} {sizes.get(key)!r}, but the dataset {info.name} has "
                f"{getattr(info, key)!r} now: {REMAKE}."
            )
    return load_weights(path, run_own_code=True)


def _build_checked(
    path: Path, spec: ModelSpec, tensors: Mapping[str, Tensor], run_own_code: bool
) -> nn.Module:
    """Build the model of a weight file after comparing sizes, before any memory is taken."""
    values = sum(tensor.numel() for tensor in tensors.values())
    most = {"cells": len(tensors), "channels": values, "num_classes": values, "in_channels": values}
    for key, limit in most.items():
        if isinstance(size := getattr(spec, key), int) and size > limit:
            raise UserError(
                f"{path} does not fit the model it describes: {key} is {size}, but it has "
                f"{values} numbers in {len(tensors)} tensors; {REMAKE}."
            )
    own = isinstance(spec.model, str) and is_reference(spec.model)
    if own and not run_own_code:
        raise UserError(
            f"{path} has the weights of {spec.model}, which is not imported for a file alone: name "
            f"it, as in --model {spec.model} --weights {path}, or load_weights(path, "
            "run_own_code=True)."
        )
    try:
        if own:
            model = spec.build()
            wanted = model.state_dict()
        else:
            with torch.device("meta"):
                wanted = spec.build().state_dict()
    except (UserError, RuntimeError) as error:
        raise UserError(f"{path}: {one_line(error).rstrip('.')}; {REMAKE}.") from None
    for name in sorted(wanted.keys() | tensors.keys()):
        stored, needed = _layout(tensors.get(name)), _layout(wanted.get(name))
        if stored != needed:
            raise UserError(
                f"{path} does not fit the model it describes: {one_line(name)} is {stored}, needed "
                f"is {needed}; {REMAKE}."
            )
    return model if own else spec.build()


def _layout(tensor: Tensor | None) -> str:
    """Return type and shape of a tensor in words."""
    return "absent" if tensor is None else f"{tensor.dtype} of shape {tuple(tensor.shape)}"
