"""Command lines that are run in this process."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from arnas.cli import main


class Ended:
    """What a command left."""

    def __init__(self, code: object, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


Arnas = Callable[[str], Ended]


def caller(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Arnas:
    """Return a function that runs a command line."""

    def call(line: str) -> Ended:
        monkeypatch.setattr("sys.argv", ["arnas", *line.split()])
        with pytest.raises(SystemExit) as ended:
            main()
        shown = capsys.readouterr()
        return Ended(ended.value.code, shown.out, shown.err)

    return call
