"""Rows are there while a run goes on, and in place when it ends."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from arnas.runtime.history import growing_history, state_folder

ROWS = [{"epoch": 1, "loss": 0.5}, {"epoch": 2, "loss": 0.25}]


def test_rows_can_be_read_while_the_run_goes_on(tmp_path: Path) -> None:
    final = tmp_path / "out/history.jsonl"
    with growing_history(tmp_path / "state", final) as record:
        record(ROWS[0])
        assert json.loads((tmp_path / "state/history.jsonl").read_text()) == ROWS[0]
        assert not final.exists()
        record(ROWS[1])
    assert [json.loads(line) for line in final.read_text().splitlines()] == ROWS
    assert not (tmp_path / "state").exists()


def test_after_a_failure_the_rows_stay_and_nothing_is_in_place(tmp_path: Path) -> None:
    final = tmp_path / "out/history.jsonl"
    with pytest.raises(KeyError), growing_history(tmp_path / "state", final) as record:
        record(ROWS[0])
        raise KeyError
    assert json.loads((tmp_path / "state/history.jsonl").read_text()) == ROWS[0]
    assert not final.exists()


def test_a_run_without_epochs_has_an_empty_history(tmp_path: Path) -> None:
    with growing_history(tmp_path / "state", tmp_path / "history.jsonl"):
        pass
    assert (tmp_path / "history.jsonl").read_text() == ""


def test_state_lies_in_the_main_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ARNAS_STATE_DIR", raising=False)
    monkeypatch.setenv("DVC_ROOT", "/main")
    assert state_folder("retrain", "f" * 64) == Path("/main/.arnas/state/retrain") / ("f" * 16)
    monkeypatch.setenv("ARNAS_STATE_DIR", "/elsewhere")
    assert state_folder("retrain", "f" * 64) == Path("/elsewhere/retrain") / ("f" * 16)
