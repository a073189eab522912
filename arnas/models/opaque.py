"""Models whose inside is left alone: TorchScript, exported programs and plain functions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn


class Opaque(nn.Module):
    """A module around a callable that lacks part of what modules have: modes, hooks, copies.

    Parameters and buffers are those of the callable, under their own names, if it has any.

    Parameters
    ----------
    function
        Images to logits.
    """

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self._function = (function,)  # in a tuple, so that it is no submodule

    @property
    def _module(self) -> nn.Module | None:
        function = self._function[0]
        return function if isinstance(function, nn.Module) else None

    def forward(self, x: Tensor) -> Any:
        """Return what the callable returns."""
        return self._function[0](x)

    def named_parameters(self, *args: Any, **options: Any) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield those of the callable."""
        if self._module is not None:
            yield from self._module.named_parameters(*args, **options)

    def named_buffers(self, *args: Any, **options: Any) -> Iterator[tuple[str, Tensor]]:
        """Yield those of the callable."""
        if self._module is not None:
            yield from self._module.named_buffers(*args, **options)

    def _apply(self, fn: Any, recurse: bool = True) -> Opaque:
        if self._module is not None:
            self._module._apply(fn)  # type: ignore[no-untyped-call]
        return self


def as_module(model: object) -> nn.Module:
    """Return a model as a module whose mode can be set; a plain module is returned as it is.

    Scripted and exported models are put into evaluation mode where they have one.
    """
    exported = isinstance(model, torch.fx.GraphModule) and not _has_modes(model)
    if isinstance(model, nn.Module) and not isinstance(model, torch.jit.ScriptModule):
        return Opaque(model) if exported else model
    if isinstance(model, torch.jit.ScriptModule) and hasattr(model, "training"):
        model.eval()
    assert callable(model)
    return Opaque(model)


def _has_modes(model: nn.Module) -> bool:
    """Return whether the mode of a module can be set."""
    try:
        model.train(model.training)
    except NotImplementedError:
        return False
    return True
