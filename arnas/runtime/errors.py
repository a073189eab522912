"""The exceptions that end a process on purpose: a user's mistake, and a signal."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class UserError(ValueError):
    """A mistake in settings, files or arguments.

    The message is one sentence that names the field or file, the value found, what is allowed and
    the way out. The command line prints it without a traceback and exits with code 2.
    """


def one_line(text: object, most: int = 300) -> str:
    """Return a text of any length and content, found in a file, as a part of one line."""
    line = " ".join(str(text).split())
    shown = line if line.isprintable() else repr(line)[1:-1]
    return shown if len(shown) <= most else f"{shown[:most]}..."


class Preempted(Exception):  # noqa: N818 -- nothing went wrong
    """A signal asked the process to stop; its state is saved. Names the signal."""


STOPPED = 75
"""Exit code after a signal: the state is saved, and the same command resumes (EX_TEMPFAIL)."""


@contextmanager
def one_sentence() -> Iterator[None]:
    """End the process with one sentence on stderr; exit code 2 for a mistake, 75 for a signal.

    Notes that were added to the exception follow on lines of their own.
    """
    try:
        yield
    except UserError as error:
        sys.stderr.write("\n".join([f"error: {error}", *_notes(error)]) + "\n")
        sys.exit(2)
    except Preempted as stopped:
        with suppress(OSError):  # whoever read it may have been stopped too
            sentence = f"stopped by {stopped}; rerun the same command to resume."
            sys.stderr.write("\n".join([sentence, *_notes(stopped)]) + "\n")
        sys.exit(STOPPED)


def _notes(error: Exception) -> list[str]:
    """Return the lines that were added to an exception, as the next command to type."""
    return getattr(error, "__notes__", [])
