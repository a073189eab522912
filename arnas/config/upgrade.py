"""The change of an older settings file to the names that settings have now."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import yaml

from arnas.config.load import parse_yaml, read_text
from arnas.config.renamed import DEEPEST, new_name, new_place
from arnas.runtime.errors import UserError
from arnas.runtime.files import write_bytes


class _Old(NamedTuple):
    """A setting under its old name or in its old place in a settings file."""

    start: int
    end: int
    """Where it is in the text."""
    new: str | None
    """Its new name; None where the user has to move it."""
    line: str
    """What to say of it."""


def upgrade_file(path: Path) -> list[str]:
    """Write the new names into a settings file, and return what was changed, a line each.

    Only the names change: comments, order and line ends stay. Of a setting that has a new place
    the line says where, and the user moves it.

    Raises
    ------
    UserError
        When the file cannot be read, or holds a setting under both names.
    """
    text = before = read_text(path)
    parse_yaml(text, str(path))
    # By place, because an anchor's block is found once more at each alias.
    found = {old.start: old for old in _old_names(yaml.compose(text), (), str(path))}
    for start in sorted(found, reverse=True):
        if (new := found[start].new) is not None:
            text = text[:start] + new + text[found[start].end :]
    if text != before:
        write_bytes(path, text.encode())
    return [found[start].line for start in sorted(found)]


def _old_names(node: yaml.Node | None, above: tuple[str, ...], source: str) -> Iterator[_Old]:
    """Yield the old names and places in a block and in the blocks within it."""
    if not isinstance(node, yaml.MappingNode) or len(above) == DEEPEST:
        return
    beside = {key.value for key, _ in node.value}
    for key, value in node.value:
        names = (*above, str(key.value))
        path, start, end = ".".join(names), key.start_mark.index, key.end_mark.index
        if (new := new_name(path)) is not None:
            if new in beside:
                raise UserError(f"{source} has both {path} and its new name {new}: keep {new}.")
            yield _Old(start, end, new, f"{path} is now {new}")
        elif (line := new_place(path)) is not None:
            yield _Old(start, end, None, line)
        yield from _old_names(value, names, source)
