"""Weights in the forms that others write, and what compares the models that are loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from refusals import refusal_of
from torch import Tensor, nn

from arnas.models.loading.load import LoadedModel, load_model
from arnas.models.weights import weights_sha256

SIZES: dict[str, Any] = {"num_classes": 4, "image_size": 8, "in_channels": 2}
SMALL = {**SIZES, "channels": 2, "cells": 4}


def images(channels: int = 2) -> Tensor:
    return torch.rand(4, channels, 8, 8, generator=torch.Generator().manual_seed(1))


def refusal(spec: Path | str, **arguments: Any) -> str:
    return refusal_of(load_model, str(spec), **{**SIZES, **arguments})


def same(found: LoadedModel, model: nn.Module) -> bool:
    assert not any(module.training for module in found.model.modules())
    return found.sha256 == weights_sha256(model) and torch.equal(
        found.model(images()), model(images())
    )


def stored(path: Path, tensors: dict[str, Tensor], form: str) -> Path:
    """Write weights in one of the forms that others write."""
    wrapped = {f"module.{key}": value for key, value in tensors.items()}
    twice = {f"_orig_mod.model.{key}": value for key, value in tensors.items()}
    contents = {
        "plain": tensors,
        "legacy": tensors,
        "checkpoint": {"state_dict": wrapped, "epoch": 3},
        "compiled": twice,
    }
    if form == "safetensors":
        path = path.with_suffix(".safetensors")
        safetensors.torch.save_file(tensors, path)
    else:
        torch.save(contents[form], path, _use_new_zipfile_serialization=form != "legacy")
    return path
