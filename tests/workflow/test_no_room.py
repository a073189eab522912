"""A disk that is full ends a job in one sentence, and the next run goes on from what was saved."""

from __future__ import annotations

import shutil
import signal
import time
from pathlib import Path

import pytest
import yaml
from killing import command_line, finish, results, settings_worth_killing, start, states

from arnas.config.load import load_params
from arnas.pipeline.jobs import find_job

pytestmark = pytest.mark.long

CELL = {"dataset": "digits", "network": "arnas", "seed": "0"}
RETRAIN = command_line("retrain", CELL)


def ended(folder: Path, limit: int | None = None) -> tuple[int, str]:
    """Train with files of at most so many KiB; return the exit code and the log."""
    wrapper = ("bash", "-c", f'ulimit -f {limit or "unlimited"}; exec "$@"', "bash")
    process = start(folder, RETRAIN, wrapper=wrapper)
    _, said = process.communicate(timeout=600)
    assert "Traceback" not in said
    return process.returncode, said


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    (folder / "params.yaml").write_text(yaml.safe_dump(settings_worth_killing()))
    finish(folder, command_line("data", {"dataset": "digits"}))
    finish(folder, RETRAIN)
    return folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """A copy with the prepared data and without the training."""
    copy = Path(shutil.copytree(whole, tmp_path / "copy"))
    shutil.rmtree(copy / "results/smoke/retrain")
    return copy


def test_no_room_for_a_save_costs_nothing_that_was_saved(folder: Path, whole: Path) -> None:
    process = start(folder, RETRAIN)
    while not states(folder) and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    before = {path: path.read_bytes() for path in states(folder)}
    assert before
    code, said = ended(folder, limit=10)
    assert code == 2, said
    error, following = said.splitlines()[-2:]
    assert error.startswith("error: .arnas/state/retrain/")
    assert "cannot be written: File too large; make room" in error
    assert following == f"after the fix: python {' '.join(RETRAIN)}"
    assert {path: path.read_bytes() for path in states(folder)} == before
    assert ended(folder)[0] == 0
    assert results(folder, "retrain", CELL) == results(whole, "retrain", CELL)


def test_no_room_for_the_result_keeps_the_one_before(whole: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "copy"))
    manifest = find_job("retrain", CELL, load_params(whole / "params.yaml")).manifest
    before = (folder / manifest).read_bytes()
    code, said = ended(folder, limit=10)
    assert code == 2, said
    assert "cannot be written: File too large" in said
    assert (folder / manifest).read_bytes() == before, "it still fits the result"
    assert results(folder, "retrain", CELL) == results(whole, "retrain", CELL)


@pytest.mark.parametrize("place", [".arnas", "results/smoke/retrain"])
def test_a_target_that_takes_no_files_is_named(folder: Path, place: str) -> None:
    """A file stands where a folder is needed; whoever is root may write anywhere else."""
    shutil.rmtree(folder / place, ignore_errors=True)
    (folder / place).write_text("in the way")
    code, said = ended(folder)
    assert code == 2, said
    assert f"{place}" in said.splitlines()[-2]
    assert "cannot be written: " in said
