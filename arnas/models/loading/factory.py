"""Networks of the user's own: imported by name, made, and unwrapped."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from torch import nn

from arnas.runtime.errors import UserError, one_line

FORM = "package.module:factory"


def is_factory(spec: str) -> bool:
    """Return whether a text has the form ``package.module:factory``."""
    module, colon, name = spec.partition(":")
    parts = [*module.split("."), *name.split(".")]
    return bool(colon) and all(part.isidentifier() for part in parts)


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
    with _importing():
        value = _imported(spec)
        made = value if isinstance(value, nn.Module) else _called(spec, value)
        if not isinstance(made, nn.Module):
            raise UserError(
                f"{spec} returned an object of type {type(made).__name__}, allowed is a "
                "torch.nn.Module: wrap what it computes in a module's `forward`."
            )
        return _bare(made).eval()


@contextmanager
def _importing() -> Iterator[None]:
    """Let modules of the current folder be imported, as ``python -m`` does."""
    sys.path.insert(0, "")
    importlib.invalidate_caches()  # a file may have been written a moment ago
    try:
        yield
    finally:
        with suppress(ValueError):
            sys.path.remove("")


def _imported(spec: str) -> Any:
    """Return what the text names."""
    module, _, name = spec.partition(":")
    try:
        value: Any = importlib.import_module(module)
    except (Exception, SystemExit) as error:
        absent = error.name if isinstance(error, ModuleNotFoundError) else None
        if absent and f"{module}.".startswith(f"{absent}."):
            raise UserError(
                f"{spec}: there is no module '{absent}' in the current folder or among the "
                f"installed packages; the form is {FORM}."
            ) from None
        raise UserError(
            f"{spec}: importing {module} failed ({_first_line(error)}); correct the module."
        ) from None
    for part in name.split("."):
        if not hasattr(value, part):
            raise UserError(
                f"{spec}: {module} has no '{name}'; name a function without arguments that returns "
                "a torch.nn.Module, or such a module."
            )
        value = getattr(value, part)
    return value


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
            f"{spec} failed when it was called without arguments ({_first_line(error)}); correct "
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


def _first_line(error: BaseException) -> str:
    """Return the kind of an error with the first line of what it says."""
    lines = str(error).strip().splitlines()
    return one_line(f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__, 200)
