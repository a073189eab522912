"""The one exception that means: the user can mend this."""

from __future__ import annotations


class UserError(Exception):
    """A mistake in settings, files or arguments.

    The message is one sentence that names the field or file, the value found, what is allowed and
    the way out. The command line prints it without a traceback and exits with code 2.
    """
