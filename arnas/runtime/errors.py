"""The one exception that means: the user can mend this."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


class UserError(Exception):
    """A mistake in settings, files or arguments.

    The message is one sentence that names the field or file, the value found, what is allowed and
    the way out. The command line prints it without a traceback and exits with code 2.
    """


@contextmanager
def one_sentence() -> Iterator[None]:
    """End the process with one sentence on stderr and exit code 2 on a user's mistake."""
    try:
        yield
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)
