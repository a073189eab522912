"""Progress off a terminal is one plain line a unit; on a terminal it is a bar."""

import io
import sys

import pytest

from arnas.runtime import progress
from arnas.runtime.progress import console_report


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_log_has_one_line_a_unit(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    with console_report("retrain") as report:
        clock[0] += 20
        report(1, 100, "loss 0.60")
        report(1, 4, "loss 0.50")
        report(2, 4, "loss 0.40")
        report(4, 4, "loss 0.30")
    monkeypatch.undo()
    captured = capsys.readouterr()
    assert captured.out == "", "results go to stdout, progress does not"
    assert captured.err.splitlines() == [
        "[retrain] 1/100 loss 0.60",
        "[retrain] 1/4 loss 0.50, 60 s left",
        "[retrain] 2/4 loss 0.40, 20 s left",
        "[retrain] 4/4 loss 0.30",
    ]


def test_a_line_reaches_a_buffered_log_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    log = io.BytesIO()
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(log))
    with console_report("pgd20") as report:
        report(1, 2, "half")
        assert log.getvalue().startswith(b"[pgd20] 1/2 half, ")


def test_nothing_done_yet_is_no_division_by_zero(capsys: pytest.CaptureFixture[str]) -> None:
    with console_report("search") as report:
        report(0, 5, "starting")
    assert capsys.readouterr().err == "[search] 0/5 starting\n"


def test_a_terminal_shows_title_count_and_text(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    with console_report("retrain") as report:
        report(3, 4, "loss 0.30")
    shown = terminal.getvalue()
    assert all(part in shown for part in ("retrain", "3/4", "loss 0.30"))
