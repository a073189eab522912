"""Networks of the user's own: imported by name, made, and unwrapped."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn

from arnas.models.opaque import as_module
from arnas.runtime.errors import UserError
from arnas.runtime.references import first_line, importing, load_reference


def make_model(reference: str, sizes: Mapping[str, int]) -> nn.Module:
    """Import a function, with the current folder first on the path, and call it.

    This runs the code that is named, as ``import`` does.

    Parameters
    ----------
    reference
        ``package.module:function``: a callable that returns a module, or a module.
    sizes
        Keyword arguments that it gets if it takes them: num_classes, in_channels, image_size.

    Returns
    -------
    nn.Module
        In evaluation mode, without the wrappers of data parallelism and compilation.

    Raises
    ------
    UserError
        When it cannot be imported or called, or is something else.
    """
    value = load_reference(reference)
    with importing():
        made = value if isinstance(value, nn.Module) else _called(reference, value, sizes)
        if not isinstance(made, nn.Module):
            raise UserError(
                f"{reference} returned an object of type {type(made).__name__}, allowed is a "
                "torch.nn.Module: wrap what it computes in a module's `forward`."
            )
        return as_module(_bare(made)).eval()


def _called(reference: str, function: Any, sizes: Mapping[str, int]) -> Any:
    """Return what a function returns for the sizes that it takes."""
    if not callable(function):
        raise UserError(
            f"{reference} is of type {type(function).__name__}, allowed are a function that "
            "returns a torch.nn.Module, and such a module."
        )
    taken: dict[str, int] = {}
    try:
        # A module without an __init__ of its own inherits one that seems to take anything.
        if sizes and getattr(function, "__init__", None) is not nn.Module.__init__:
            parameters = inspect.signature(function).parameters.values()
            anything = any(p.kind is p.VAR_KEYWORD for p in parameters)
            names = {p.name for p in parameters if p.kind is not p.POSITIONAL_ONLY}
            taken = {k: v for k, v in sizes.items() if anything or k in names}
        return function(**taken)
    except (Exception, SystemExit) as error:
        given = f"with {', '.join(taken)}" if taken else "without arguments"
        raise UserError(
            f"{reference} failed when it was called {given} ({first_line(error)}); correct it, or "
            "name another function."
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
