"""The command line: one command per stage, and commands to read settings and results.

The heavy imports happen inside the commands, so that `--help` and `params` answer at once.
"""

from __future__ import annotations

from arnas.cli.app import app
from arnas.runtime.errors import one_sentence

# They add their commands, in the order in which --help lists them.
# isort: off
from arnas.cli import stages, attack, results, settings  # noqa: F401
# isort: on

__all__ = ["app", "main"]


def main() -> None:
    """Run the command line; a user's mistake is one sentence on stderr and exit code 2."""
    with one_sentence():
        app()
