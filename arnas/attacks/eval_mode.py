"""Putting a model into the state an attack needs, and back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, get_args

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from arnas.runtime.errors import UserError

BatchNorm = Literal["eval", "batch"]


def home(model: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Return the device and the floating type of a model; CPU and float32 without parameters."""
    for value in (*model.parameters(), *model.buffers()):
        if value.is_floating_point():
            return value.device, value.dtype
    return torch.device("cpu"), torch.float32


@contextmanager
def module_modes(model: nn.Module, batch_norm: BatchNorm) -> Iterator[None]:
    """Put every submodule into evaluation mode; afterwards each has its own mode again.

    Modes are restored module by module: a blanket ``train()`` would wake layers that the user had
    frozen. Of `batch_norm`, ``eval`` uses the running statistics; ``batch`` uses those of the batch
    without updating the running ones, as for a supernet whose running statistics mean little.
    """
    if batch_norm not in get_args(BatchNorm):
        raise UserError(
            f"batch_norm is '{batch_norm}': allowed are {', '.join(get_args(BatchNorm))}."
        )
    modes = {module: module.training for module in model.modules()}
    tracked = {m: m.track_running_stats for m in model.modules() if isinstance(m, _BatchNorm)}
    try:
        model.eval()
        if batch_norm == "batch":
            for norm in tracked:
                norm.training = True
                norm.track_running_stats = False
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        for norm, track in tracked.items():
            norm.track_running_stats = track


@contextmanager
def frozen_eval(model: nn.Module, batch_norm: BatchNorm = "eval") -> Iterator[nn.Module]:
    """Yield `model` ready to be attacked; afterwards everything is as it was.

    Besides `module_modes`, every parameter is frozen, so that gradients reach the input only.
    """
    frozen = {p: p.requires_grad for p in model.parameters()}
    try:
        for parameter in frozen:
            parameter.requires_grad_(False)
        with module_modes(model, batch_norm):
            yield model
    finally:
        for parameter, requires_grad in frozen.items():
            parameter.requires_grad_(requires_grad)
