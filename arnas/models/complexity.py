"""Parameters and multiply-accumulate operations of a model, counted exactly."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def count_parameters(model: nn.Module) -> int:
    """Return the number of trainable scalars."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def count_macs(model: nn.Module, input_shape: tuple[int, int, int]) -> int:
    """Return the multiply-accumulate operations of one forward pass for one image.

    Convolutions and linear layers are counted, as the field does; normalisation, activations,
    pooling and sums are not.

    Parameters
    ----------
    model
        Any model of `nn.Conv2d` and `nn.Linear`; left as it was.
    input_shape
        (C, H, W) of the image.
    """
    total = 0

    def count(module: nn.Module, args: Any, output: Tensor) -> None:
        nonlocal total
        if isinstance(module, nn.Conv2d):
            per_output = module.in_channels // module.groups * module.weight[0, 0].numel()
            total += output.numel() * per_output
        elif isinstance(module, nn.Linear):
            total += output.numel() * module.in_features

    hooks = [module.register_forward_hook(count) for module in model.modules()]
    modes = {module: module.training for module in model.modules()}
    # They change no shape, and on the meta device they would take most of the time.
    norms = [module for module in model.modules() if type(module) is nn.BatchNorm2d]
    skipped = [norm for norm in norms if "forward" not in vars(norm)]
    reference = next(model.parameters())
    try:
        model.eval()
        for norm in skipped:
            norm.forward = lambda x: x  # type: ignore[method-assign, assignment]
        with torch.no_grad():
            model(torch.zeros(1, *input_shape, device=reference.device, dtype=reference.dtype))
    finally:
        for hook in hooks:
            hook.remove()
        for norm in skipped:
            vars(norm).pop("forward", None)
        for module, mode in modes.items():
            module.training = mode
    return total
