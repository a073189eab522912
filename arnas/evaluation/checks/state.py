"""Leaving a model and the global random numbers as they were."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from arnas.runtime.seeds import derive_seed, seeded


@contextmanager
def own_randomness(name: str, seed: int) -> Iterator[None]:
    """Seed the global random numbers inside the block and restore them afterwards."""
    of_python, of_numpy = random.getstate(), np.random.get_state()
    number = derive_seed("check", name, seed)
    try:
        with seeded("check", name, seed):
            random.seed(number)
            np.random.seed(number % 2**32)
            yield
    finally:
        random.setstate(of_python)
        np.random.set_state(of_numpy)


class _Kept(NamedTuple):
    """A weight or buffer of a module, and a copy of its value."""

    module: nn.Module
    name: str
    tensor: Tensor
    value: Tensor
    requires_grad: bool
    gradient: Tensor | None

    def changed(self) -> bool:
        """Return whether the module has another tensor now, or other values; NaN equals NaN."""
        now = getattr(self.module, self.name, None)
        return now is not self.tensor or not same_values(self.tensor, self.value)

    def restore(self) -> None:
        """Put tensor, values, gradient and whether it asks for one back."""
        if self.changed():
            if getattr(self.module, self.name, None) is not self.tensor:
                setattr(self.module, self.name, self.tensor)
            with torch.no_grad():
                if self.tensor.shape == self.value.shape:
                    self.tensor.copy_(self.value)
                else:
                    self.tensor.data = self.value
        if self.tensor.requires_grad != self.requires_grad:
            self.tensor.requires_grad_(self.requires_grad)
        if self.tensor.is_leaf:
            self.tensor.grad = self.gradient


@contextmanager
def untouched(model: nn.Module) -> Iterator[Callable[[], list[str]]]:
    """Restore modes, weights, buffers, gradients and `requires_grad` after the block.

    Yields a function that names the weights and buffers that differ now from before.
    """
    modes = [(module, module.training) for module in model.modules()]
    kept = {
        f"{path}.{name}".lstrip("."): _Kept(
            module, name, tensor, tensor.detach().clone(), tensor.requires_grad, tensor.grad
        )
        for path, module in model.named_modules()
        for held in (module.named_parameters, module.named_buffers)
        for name, tensor in held(recurse=False)
    }
    try:
        yield lambda: [path for path, one in kept.items() if one.changed()]
    finally:
        for module, mode in modes:
            module.training = mode
        for one in kept.values():
            one.restore()


def same_values(first: Tensor, second: Tensor) -> bool:
    """Return whether two tensors are equal in every value; NaN equals NaN."""
    if first.shape != second.shape or first.dtype != second.dtype:
        return False
    first, second = first.detach(), second.detach()
    return torch.equal(first, second) or (
        first.is_floating_point()
        and bool(((first == second) | (first.isnan() & second.isnan())).all())
    )
