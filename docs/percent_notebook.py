"""Notebooks in percent format: their cells, what they print, and the page they make."""

from __future__ import annotations

import functools
import io
import re
from collections.abc import Iterator
from contextlib import redirect_stdout
from typing import Any, NamedTuple


class Cell(NamedTuple):
    """One cell."""

    markdown: bool
    text: str


class Result(NamedTuple):
    """What running a notebook leaves."""

    namespace: dict[str, Any]
    printed: list[str]
    """The output of each code cell."""


def cells(notebook: str) -> Iterator[Cell]:
    """Yield the cells of a notebook, Markdown without its comment signs."""
    for chunk in re.split(r"^# %%", notebook, flags=re.M)[1:]:
        head, _, body = chunk.partition("\n")
        markdown = "[markdown]" in head
        text = re.sub(r"^# ?", "", body, flags=re.M) if markdown else body
        yield Cell(markdown, text.strip())


@functools.cache
def run(notebook: str) -> Result:
    """Run the code cells of a notebook, one after the other."""
    result = Result({"__name__": "notebook"}, [])
    for cell in cells(notebook):
        if not cell.markdown:
            with redirect_stdout(io.StringIO()) as out:
                exec(compile(cell.text, "notebook", "exec"), result.namespace)
            result.printed.append(out.getvalue())
    return result


def page(notebook: str) -> str:
    """Return the notebook as Markdown, each code cell followed by what it printed."""
    printed = iter(run(notebook).printed)
    parts = []
    for cell in cells(notebook):
        parts.append(cell.text if cell.markdown else f"```python\n{cell.text}\n```")
        if not cell.markdown and (out := next(printed).rstrip()):
            parts.append(f"``` {{ .text .output }}\n{out}\n```")
    return "\n\n".join(parts) + "\n"
