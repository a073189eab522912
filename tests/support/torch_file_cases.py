"""A small state dict and its files, as the tests of pickled weights share them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from refusals import refusal_of
from torch import Tensor, nn

from arnas.models.loading.torch_files import read_state_dict


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Linear(4, 3))


def write(path: Path, content: Any, archive: bool = True) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=archive)
    return path


def refusal(path: Path) -> str:
    message = refusal_of(read_state_dict, path)
    assert str(path) in message
    return message


def equal(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> bool:
    return found.keys() == wanted.keys() and all(
        found[key].dtype == value.dtype and torch.equal(found[key], value)
        for key, value in wanted.items()
    )
