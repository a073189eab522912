"""The user's own code that settings refer to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from arnas.runtime.references import is_reference, source_file


def referenced_files(settings: Any) -> list[Path]:
    """Return the files of the functions that some settings refer to, each once and in order.

    Parameters
    ----------
    settings
        An options model, or JSON values: blocks, lists and texts. Any text of the form
        ``package.module:function`` is a reference, except a dataset's `path`.

    Raises
    ------
    UserError
        When there is no such module, or it is no Python file.
    """
    return sorted({source_file(reference) for reference in _references(settings)})


def _references(settings: Any) -> Iterator[str]:
    """Yield the references in some settings."""
    if isinstance(settings, BaseModel):
        settings = settings.model_dump(mode="json")
    if isinstance(settings, str) and is_reference(settings):
        yield settings
    elif isinstance(settings, Mapping):
        for key, value in settings.items():
            if key != "path":
                yield from _references(value)
    elif isinstance(settings, list | tuple):
        for value in settings:
            yield from _references(value)
