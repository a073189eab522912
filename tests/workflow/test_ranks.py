"""A training that two ranks share: killed ranks leave nothing behind and lose nothing."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from killing import ROOT, command_line, finish, members, start, states

from arnas.config.load import load_params
from arnas.pipeline.freshness import why_stale
from arnas.pipeline.jobs import find_job

pytestmark = pytest.mark.long

CELL = {"dataset": "digits", "network": "arnas", "seed": "0"}
COMMAND = command_line("retrain", CELL)
WEIGHTS = "results/smoke/retrain/digits/arnas/0/last.safetensors"


def finished(folder: Path, words: list[str], ranks: int = 2) -> str:
    return finish(folder, words, ARNAS_RANKS=str(ranks))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    settings = yaml.safe_load((ROOT / "workflow/presets/smoke.yaml").read_text())
    settings["data"]["digits"]["test_images"] = 1500  # which leaves few to train on
    settings["retrain"]["digits"]["batch_size"] = 16
    (folder / "params.yaml").write_text(yaml.safe_dump(settings))
    finished(folder, command_line("data", {"dataset": "digits"}), ranks=1)
    finished(folder, COMMAND)
    return folder


@pytest.fixture
def running(undisturbed: Path, tmp_path: Path) -> Iterator[tuple[Path, subprocess.Popen[str]]]:
    """Yield a folder and its training by two ranks, which has saved something."""
    shutil.copyfile(undisturbed / "params.yaml", tmp_path / "params.yaml")
    shutil.copytree(undisturbed / "results/smoke/data", tmp_path / "results/smoke/data")
    process = start(tmp_path, COMMAND, ARNAS_RANKS="2")
    while not states(tmp_path) and process.poll() is None:
        time.sleep(0.01)
    assert len(members(process.pid)) == 2
    yield tmp_path, process
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)


def test_a_killed_rank_ends_the_other_and_the_next_run_goes_on(
    running: tuple[Path, subprocess.Popen[str]], undisturbed: Path
) -> None:
    folder, process = running
    other = next(pid for pid in members(process.pid) if pid != process.pid)
    os.kill(other, signal.SIGKILL)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 75
    assert "error: rank 1 ended by SIGKILL; rerun the same command to resume." in said
    assert said.endswith(f"next: python {' '.join(COMMAND)}\n")
    assert not members(process.pid)
    assert states(folder)
    finished(folder, COMMAND)
    assert (folder / WEIGHTS).read_bytes() == (undisturbed / WEIGHTS).read_bytes()
    assert not states(folder)
    manifest = json.loads((folder / WEIGHTS).with_name("manifest.json").read_text())
    assert manifest["device"] == "cpu, 2 ranks"


def test_ranks_end_with_the_one_that_started_them(
    running: tuple[Path, subprocess.Popen[str]], undisturbed: Path
) -> None:
    folder, process = running
    process.kill()
    process.communicate(timeout=60)
    deadline = time.monotonic() + 30
    while members(process.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not members(process.pid), "an orphan goes on"
    finished(folder, COMMAND)
    assert (folder / WEIGHTS).read_bytes() == (undisturbed / WEIGHTS).read_bytes()


def test_a_signal_to_all_of_them_saves_once_and_ends_with_75(
    running: tuple[Path, subprocess.Popen[str]], undisturbed: Path
) -> None:
    folder, process = running
    os.killpg(process.pid, signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 75
    assert said.count("stopped by SIGTERM; rerun the same command to resume.") == 1
    assert not members(process.pid)
    finished(folder, COMMAND)
    assert (folder / WEIGHTS).read_bytes() == (undisturbed / WEIGHTS).read_bytes()


def test_the_number_of_ranks_changes_no_fingerprint(undisturbed: Path) -> None:
    """What two ranks have saved, one goes on from; and the result stays current."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(undisturbed)
        params = load_params()
        assert why_stale(find_job("retrain", CELL, params), params) is None


def test_a_state_of_two_ranks_is_good_for_one(
    running: tuple[Path, subprocess.Popen[str]],
) -> None:
    folder, process = running
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    assert states(folder)
    finished(folder, COMMAND, ranks=1)
    assert (folder / WEIGHTS).exists()
    assert not states(folder)
