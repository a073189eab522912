"""References to a user's own Python code: ``package.module:function``.

Wherever the settings or the command line take a registry name of a model, a loss or an attack,
they take such a reference too.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from arnas.runtime.errors import UserError, one_line

FORM = "package.module:function"


def is_reference(text: str) -> bool:
    """Return whether a text has the form ``package.module:function``."""
    module, colon, name = text.partition(":")
    parts = [*module.split("."), *name.split(".")]
    return bool(colon) and all(part.isidentifier() for part in parts)


def load_reference(reference: str) -> Any:
    """Import what a reference names; this runs the module, as ``import`` does.

    The current folder comes first on the path.

    Raises
    ------
    UserError
        When there is no such module or name, or the module raises.
    """
    module, _, name = reference.partition(":")
    with importing():
        try:
            value: Any = importlib.import_module(module)
        except (Exception, SystemExit) as error:
            absent = error.name if isinstance(error, ModuleNotFoundError) else None
            if absent and f"{module}.".startswith(f"{absent}."):
                raise _no_module(reference, absent) from None
            raise UserError(
                f"{reference}: importing {module} failed ({first_line(error)}); correct the module."
            ) from None
    for part in name.split("."):
        if not hasattr(value, part):
            raise UserError(
                f"{reference}: {module} has no '{name}'; correct the name, the form is {FORM}."
            )
        value = getattr(value, part)
    return value


def source_file(reference: str) -> Path:
    """Return the file that a reference's module lies in, relative to the current folder if inside.

    The module itself is not run, only the packages that it lies in.

    Raises
    ------
    UserError
        When there is no such module, or it lies in no Python file.
    """
    module = reference.partition(":")[0]
    with importing():
        try:
            spec = importlib.util.find_spec(module)
        except ModuleNotFoundError:
            spec = None
        except (Exception, SystemExit) as error:
            raise UserError(
                f"{reference}: importing the package of {module} failed ({first_line(error)}); "
                "correct it."
            ) from None
    if spec is None:
        raise _no_module(reference, module)
    if not spec.origin or not spec.origin.endswith(".py"):
        raise UserError(f"{reference}: {module} is not a Python file, which is what is needed.")
    path = Path(spec.origin).resolve()
    here = Path.cwd().resolve()
    return path.relative_to(here) if path.is_relative_to(here) else path


@contextmanager
def importing() -> Iterator[None]:
    """Let modules of the current folder be imported, as ``python -m`` does."""
    sys.path.insert(0, "")
    importlib.invalidate_caches()  # a file may have been written a moment ago
    try:
        yield
    finally:
        with suppress(ValueError):
            sys.path.remove("")


def first_line(error: BaseException) -> str:
    """Return the kind of an error with the first line of its message."""
    lines = str(error).strip().splitlines()
    return one_line(f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__, 200)


def _no_module(reference: str, absent: str) -> UserError:
    return UserError(
        f"{reference}: there is no module '{absent}' in the current folder or among the "
        f"installed packages; the form is {FORM}."
    )
