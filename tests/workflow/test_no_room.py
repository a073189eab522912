"""A disk that is full ends a job in one sentence, and the next run goes on from what was saved."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from killing import ROOT, settings_worth_killing, states

from arnas.config.load import load_params
from arnas.pipeline.jobs import find_instance

pytestmark = pytest.mark.long

CELL = {"dataset": "digits", "network": "arnas", "seed": "0"}
COMMAND = "retrain --dataset digits --network arnas --seed 0"


def start(folder: Path, command: str, limit: int | None = None) -> subprocess.Popen[str]:
    """Start a command that can write no file of more than so many KiB."""
    environment = {key: value for key, value in os.environ.items() if key != "ARNAS_PARAMS"}
    environment |= {"PYTHONPATH": str(ROOT), "ARNAS_DEVICE": "cpu", "ARNAS_SAVE_SECONDS": "0"}
    limited = f'ulimit -f {limit or "unlimited"}; exec "$@"'
    return subprocess.Popen(
        ["bash", "-c", limited, "bash", sys.executable, "-m", "arnas", *command.split()],
        cwd=folder,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(folder: Path, command: str, limit: int | None = None) -> tuple[int, str]:
    process = start(folder, command, limit)
    _, said = process.communicate(timeout=600)
    return process.returncode, said


def outputs(folder: Path) -> dict[Path, bytes]:
    found = find_instance("retrain", CELL, load_params(folder / "params.yaml")).outputs.values()
    return {path: (folder / path).read_bytes() for path in found}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    (folder / "params.yaml").write_text(yaml.safe_dump(settings_worth_killing()))
    assert ended(folder, "data --dataset digits")[0] == 0
    assert ended(folder, COMMAND)[0] == 0
    return folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """A copy with the prepared data and without the training."""
    for path in ("params.yaml", *map(str, (whole / "results/smoke/data").rglob("*.*"))):
        name = (whole / path).relative_to(whole)
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes((whole / name).read_bytes())
    return tmp_path


def test_no_room_for_a_save_costs_nothing_that_was_saved(folder: Path, whole: Path) -> None:
    process = start(folder, COMMAND)
    while not states(folder) and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    before = {path: path.read_bytes() for path in states(folder)}
    assert before
    code, said = ended(folder, COMMAND, limit=10)
    assert code == 2, said
    error, following = said.splitlines()[-2:]
    assert error.startswith("error: .arnas/state/retrain/")
    assert "cannot be written: File too large; make room" in error
    assert following == f"next: python -m arnas {COMMAND}"
    assert "Traceback" not in said
    assert {path: path.read_bytes() for path in states(folder)} == before
    assert ended(folder, COMMAND)[0] == 0
    assert outputs(folder) == outputs(whole)


def test_no_room_for_the_result_keeps_the_one_before(folder: Path, whole: Path) -> None:
    instance = find_instance("retrain", CELL, load_params(whole / "params.yaml"))
    for path in (*instance.outputs.values(), instance.manifest):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes((whole / path).read_bytes())
    before = (folder / instance.manifest).read_bytes()
    code, said = ended(folder, COMMAND, limit=10)
    assert code == 2, said
    assert "cannot be written: File too large" in said
    assert (folder / instance.manifest).read_bytes() == before, "it still fits the result"
    assert outputs(folder) == outputs(whole)


@pytest.mark.parametrize("place", [".arnas", "results/smoke/retrain"])
def test_a_target_that_takes_no_files_is_named(folder: Path, place: str) -> None:
    """A file stands where a folder is needed; whoever is root may write anywhere else."""
    (folder / place).parent.mkdir(exist_ok=True)
    (folder / place).write_text("in the way")
    code, said = ended(folder, COMMAND)
    assert code == 2, said
    assert f"{place}" in said.splitlines()[-2]
    assert "cannot be written: " in said
    assert "Traceback" not in said
