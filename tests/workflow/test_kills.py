"""Runs that are killed at random points end with the same bytes as runs that are not."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from killing import saves, settings_worth_killing, states

from arnas.config.load import load_params
from arnas.pipeline.jobs import Instance, find_instance

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[2]
SEARCH = {"search": "dsara", "seed": "0"}
CELL = {"dataset": "digits", "network": "arnas", "seed": "0"}
STAGES = {
    "search_adversarial": (SEARCH, 3),
    "search_multiobjective": (SEARCH, 3),
    "retrain": (CELL, 3),
    "whitebox": (CELL, 3),
}
"""Command to its axes and how often it is killed; `test_engine_kills.py` has eight kills more."""


def instance(folder: Path, command: str, axes: dict[str, str]) -> Instance:
    return find_instance(command, axes, load_params(folder / "params.yaml"))


def start(folder: Path, command: str, axes: dict[str, str]) -> subprocess.Popen[str]:
    """Start a stage that saves after every step."""
    options = [word for axis, value in axes.items() for word in (f"--{axis}", value)]
    environment = {k: v for k, v in os.environ.items() if k != "ARNAS_PARAMS"}
    environment |= {
        "PYTHONPATH": str(ROOT),
        "ARNAS_DEVICE": "cpu",
        "ARNAS_SAVE_SECONDS": "0",
    }
    return subprocess.Popen(
        [sys.executable, "-m", "arnas", command, *options],
        cwd=folder,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(folder: Path, command: str, axes: dict[str, str]) -> None:
    process = start(folder, command, axes)
    _, said = process.communicate(timeout=600)
    assert process.returncode == 0, said


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return two folders with the same settings, in which the data are prepared."""
    found = []
    for name in ("whole", "killed"):
        folder = tmp_path_factory.mktemp(name)
        (folder / "params.yaml").write_text(yaml.safe_dump(settings_worth_killing()))
        finish(folder, "data", {"dataset": "digits"})
        found.append(folder)
    return found[0], found[1]


@pytest.mark.parametrize("command", STAGES)
def test_killed_at_random_points(command: str, folders: tuple[Path, Path]) -> None:
    """At some moment soon after a save of its own; a fast machine may finish before the last."""
    whole, killed = folders
    axes, kills = STAGES[command]
    finish(whole, command, axes)
    chance = random.Random(command)
    count = 0
    process = None
    while count < kills and (process is None or states(killed)):
        earlier = saves(killed)
        process = start(killed, command, axes)
        while saves(killed) == earlier and process.poll() is None:
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.3))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        count += process.returncode == -signal.SIGKILL and bool(states(killed))
    assert count >= 2, "nothing was killed in the middle"
    if process is None or process.returncode != 0:
        finish(killed, command, axes)
    for path in instance(whole, command, axes).outputs.values():
        assert (whole / path).read_bytes() == (killed / path).read_bytes(), path
    assert not states(killed), "the state is gone when the result is there"


def test_a_signal_ends_with_75_and_the_next_run_goes_on(folders: tuple[Path, Path]) -> None:
    whole, killed = folders
    axes = {**CELL, "seed": "1"}
    finish(whole, "retrain", axes)
    process = start(killed, "retrain", axes)
    while not states(killed) and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 75, said
    stopped, following = said.splitlines()[-2:]
    assert stopped == "stopped by SIGTERM; rerun the same command to resume."
    assert following == "next: python -m arnas retrain --dataset digits --network arnas --seed 1"
    finish(killed, "retrain", axes)
    for path in instance(whole, "retrain", axes).outputs.values():
        assert (whole / path).read_bytes() == (killed / path).read_bytes(), path


def test_a_second_process_says_who_is_at_work(folders: tuple[Path, Path]) -> None:
    _, killed = folders
    axes = {**CELL, "seed": "2"}
    first = start(killed, "retrain", axes)
    while not states(killed) and first.poll() is None:
        time.sleep(0.05)
    first.send_signal(signal.SIGSTOP)  # it could be done before the second has started
    second = start(killed, "retrain", axes)
    _, said = second.communicate(timeout=60)
    first.send_signal(signal.SIGCONT)
    assert second.returncode == 2
    assert f"is being made by process {first.pid} on " in said
    assert first.wait(timeout=600) == 0
