"""The commands that look after the pipeline, typed in a folder whose run is complete."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from calls import Arnas, caller
from fake_run import cut_short, record, state_of

from arnas.config.params import Params
from arnas.pipeline.jobs import find_job, planned_jobs
from arnas.runtime.resume import checkpointing

CELL = {"dataset": "digits", "network": "arnas", "seed": "0"}
RETRAIN = "retrain digits/arnas/0"


@pytest.fixture
def arnas(
    complete_run: Params, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Arnas:
    return caller(monkeypatch, capsys)


def training_cut_short(params: Params) -> Path:
    """Leave the state of a training behind and return its folder."""
    job = find_job("retrain", CELL, params)
    folder = state_of(job, params)
    cut_short(folder, job.title, job.manifest)
    return folder


def test_status_lists_every_job(complete_run: Params, arnas: Arnas) -> None:
    ended = arnas("status")
    assert ended.code in {0, None}
    assert all(job.title in ended.out for job in planned_jobs(complete_run))
    assert "17 jobs: 17 done\n" in ended.out
    assert "DVC does not know 17 of the results" in ended.out


def test_status_as_json(complete_run: Params, arnas: Arnas) -> None:
    content = json.loads(arnas("status --json").out)
    assert content["name"] == "smoke"
    assert content["counts"] == {"done": 17}
    first = content["jobs"][0]
    assert (first["job"], first["state"], first["device"]) == ("data digits", "done", "cpu")
    assert content["unknown_to_dvc"] == 17


def test_ctrl_c_ends_watching_quietly(
    arnas: Arnas, monkeypatch: pytest.MonkeyPatch, complete_run: Params
) -> None:
    record(find_job("retrain", CELL, complete_run), version=0)

    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("time.sleep", interrupt)
    ended = arnas("status --watch")
    assert ended.code in {0, None}
    assert "stale" in ended.out and ended.err == ""


def test_explain_names_the_reason(complete_run: Params, arnas: Arnas) -> None:
    assert arnas("explain report").out == "report is current: nothing would run.\n"
    text = Path("params.yaml").read_text()
    Path("params.yaml").write_text(text.replace("cells: 4}\n\nretrain", "cells: 5}\n\nretrain"))
    assert arnas("explain retrain digits/arnas_undefended/0").out == (
        "1 jobs would run for retrain digits/arnas_undefended/0:\n"
        "  retrain digits/arnas_undefended/0: networks.arnas_undefended.cells was 4, is 5\n"
    )
    ended = arnas("explain retrain digits/arnas_undefended/7")
    assert ended.code == 2 and "retrain digits/arnas_undefended/0" in ended.err
    assert ended.err.count("\n") == 1


def test_abandoned_state_is_listed_and_removed(complete_run: Params, arnas: Arnas) -> None:
    assert "There is no abandoned state" in arnas("clean --state").out
    folder = training_cut_short(complete_run)
    ended = arnas("clean --state")
    assert f"abandoned: {RETRAIN}, 0.0 MB, " in ended.out
    assert "1 of 2 epochs, step 2: its next run goes on from there" in ended.out
    assert "--yes removes them" in ended.out and folder.exists()
    assert "Removed 1 of 1 abandoned states" in arnas("clean --state --yes").out
    assert not folder.exists()


def test_state_of_other_settings_says_so(complete_run: Params, arnas: Arnas) -> None:
    training_cut_short(complete_run)
    text = Path("params.yaml").read_text()
    Path("params.yaml").write_text(text.replace("    epochs: 2\n", "    epochs: 3\n"))
    assert "not of the present settings and inputs" in arnas("clean --state").out
    Path("params.yaml").unlink()
    assert f"abandoned: {RETRAIN}" in arnas("clean --state").out
    assert "Removed 1 of 1" in arnas("clean --state --yes").out


def test_state_at_work_stays(complete_run: Params, arnas: Arnas) -> None:
    job = find_job("retrain", CELL, complete_run)
    folder = state_of(job, complete_run)
    with checkpointing(folder, job.title, str(job.manifest)):
        ended = arnas("clean --state --yes")
        assert f"held: {RETRAIN}, " in ended.out and "by process " in ended.out
        assert (folder / "0/lock").exists()


def test_on_a_terminal_it_asks(
    complete_run: Params, arnas: Arnas, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = training_cut_short(complete_run)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    for answer, kept_afterwards in ((False, True), (True, False)):
        monkeypatch.setattr("typer.confirm", lambda _, answer=answer: answer)
        arnas("clean --state")
        assert folder.exists() == kept_afterwards


def test_clean_wants_to_know_what(arnas: Arnas) -> None:
    assert arnas("clean").code == 2


def test_adopting_outside_of_dvc_is_a_mistake(arnas: Arnas) -> None:
    ended = arnas("adopt")
    assert ended.code == 2
    assert ended.err.startswith("error: DVC refuses: ") and ended.err.count("\n") == 1
