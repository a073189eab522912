"""What a computation says on stderr, and the command that resumes it."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from arnas.runtime.errors import UserError


def say(title: str, text: str) -> None:
    """Write a line of the log."""
    sys.stderr.write(f"[{title}] {text}\n")
    sys.stderr.flush()


def shell(words: Sequence[str]) -> str:
    """Return the computation as a command to type."""
    settings_file = os.environ.get("ARNAS_PARAMS")
    where = f"ARNAS_PARAMS={shlex.quote(settings_file)} " if settings_file else ""
    return f"{where}python {shlex.join(words)}"


@contextmanager
def resumed_by(words: Sequence[str]) -> Iterator[None]:
    """Let whatever ends a computation early be followed by the command that resumes it.

    After a mistake the command would fail again, so it stands behind the fix.
    """
    try:
        yield
    except Exception as error:
        when = "after the fix" if isinstance(error, UserError) else "next"
        error.add_note(f"{when}: {shell(words)}")
        raise
