"""Settings that have a new name: messages and ``python -m arnas params upgrade`` follow from it."""

from __future__ import annotations

from fnmatch import fnmatchcase

RENAMED = {
    "data.*.selection_images": "val_images",
    "data.*.search_validation_fraction": "search_val_fraction",
}
"""Old dotted path to the new last name; ``*`` stands for any name."""
DEEPEST = max(path.count(".") for path in RENAMED) + 1
"""Names in the longest path."""


def new_name(path: str) -> str | None:
    """Return the new last name of the setting with this old dotted path; None if it has none."""
    names = path.split(".")
    for old, name in RENAMED.items():
        pattern = old.split(".")
        if len(names) == len(pattern) and all(map(fnmatchcase, names, pattern)):
            return name
    return None
