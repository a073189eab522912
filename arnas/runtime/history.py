"""Figures of a run in progress, to be looked at while it runs."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from arnas.runtime.files import unwritable, write_bytes

Record = Callable[[Mapping[str, Any]], None]
"""What a library loop calls with an epoch's figures, as soon as it has them."""


def discard(row: Mapping[str, Any]) -> None:
    """Record nothing."""


def state_root() -> Path:
    """Return where runs in progress keep their state, outside every engine's outputs.

    It is ``ARNAS_STATE_DIR``, else ``.arnas/state`` of the main checkout, which DVC names in
    ``DVC_ROOT`` when it runs in a copy, else of the current folder.
    """
    root = os.environ.get("ARNAS_STATE_DIR")
    return Path(root) if root else Path(os.environ.get("DVC_ROOT", ".")) / ".arnas/state"


def state_folder(stage: str, fingerprint: str) -> Path:
    """Return where a run in progress keeps the state of one result."""
    return state_root() / stage / fingerprint[:16]


@contextmanager
def growing_history(folder: Path, final: Path) -> Iterator[Record]:
    """Yield a `Record` whose rows grow in `folder` and become the file `final` at the end.

    One JSON object a line, keys in their order, no clock times. After a failure the rows so far
    stay in `folder`.
    """
    growing = folder / "history.jsonl"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        stream = growing.open("w", encoding="utf-8")
    except OSError as error:
        raise unwritable(growing, error) from None
    with closing(stream):

        def record(row: Mapping[str, Any]) -> None:
            try:
                stream.write(json.dumps(row, ensure_ascii=False) + "\n")
                stream.flush()
            except OSError as error:
                raise unwritable(growing, error) from None

        yield record
    write_bytes(final, growing.read_bytes())
    growing.unlink(missing_ok=True)
    with suppress(OSError):  # something else may be kept there
        folder.rmdir()
