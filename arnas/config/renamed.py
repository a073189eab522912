"""Settings with a new name or place: messages and ``python -m arnas params upgrade`` use it."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase

RENAMED = {
    "data.*.selection_images": "val_images",
    "data.*.search_validation_fraction": "search_val_fraction",
}
"""Old dotted path to the new last name; ``*`` stands for any name."""
MOVED = {
    "retrain.*.trades_beta": "{name: trades, beta: 6}",
    "retrain.*.mart_lambda": "{name: mart, weight: 5}",
}
"""Old dotted path to the loss of a network, with its default, that has the setting now."""
DEEPEST = max(path.count(".") for path in (*RENAMED, *MOVED)) + 1
"""Names in the longest path."""


def new_name(path: str) -> str | None:
    """Return the new last name of the setting with this old dotted path; None if it has none."""
    return _entry(RENAMED, path)


def new_place(path: str) -> str | None:
    """Return what to do about a setting that is now one of a network's; None if it is not."""
    loss = _entry(MOVED, path)
    return loss and (
        f"{path} is now a setting of each network's loss: drop it, and write your value as in "
        f"`loss: {loss}` in networks.<name> and searches.<name>.network"
    )


def _entry(table: Mapping[str, str], path: str) -> str | None:
    """Return what a table has for a dotted path."""
    names = path.split(".")
    for old, value in table.items():
        pattern = old.split(".")
        if len(names) == len(pattern) and all(map(fnmatchcase, names, pattern)):
            return value
    return None
