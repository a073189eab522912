"""Networks of the user's own: imported by name, made, and unwrapped."""

from __future__ import annotations

from typing import Any

from torch import nn

from arnas.runtime.errors import UserError
from arnas.runtime.references import first_line, importing, load_reference


def make_model(spec: str) -> nn.Module:
    """Import a factory, with the current folder first on the path, and call it.

    This runs the code that is named, as ``import`` does.

    Parameters
    ----------
    spec
        ``package.module:factory``: a callable without arguments that returns a module, or a module.

    Returns
    -------
    nn.Module
        In evaluation mode, without the wrappers of data parallelism and compilation.

    Raises
    ------
    UserError
        When it cannot be imported or called, or is something else.
    """
    value = load_reference(spec)
    with importing():
        made = value if isinstance(value, nn.Module) else _called(spec, value)
        if not isinstance(made, nn.Module):
            raise UserError(
                f"{spec} returned an object of type {type(made).__name__}, allowed is a "
                "torch.nn.Module: wrap what it computes in a module's `forward`."
            )
        return _bare(made).eval()


def _called(spec: str, value: Any) -> Any:
    """Return what a factory returns."""
    if not callable(value):
        raise UserError(
            f"{spec} is of type {type(value).__name__}, allowed are a function without arguments "
            "that returns a torch.nn.Module, and such a module."
        )
    try:
        return value()
    except (Exception, SystemExit) as error:
        raise UserError(
            f"{spec} failed when it was called without arguments ({first_line(error)}); correct "
            "it, or name another function."
        ) from None


def _bare(model: nn.Module) -> nn.Module:
    """Return a module without its wrappers, which change the names of weights and nothing else."""
    while True:
        inside = getattr(model, "_orig_mod", None)
        if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            inside = model.module
        if not isinstance(inside, nn.Module):
            return model
        model = inside
