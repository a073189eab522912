"""Runs that are killed under an engine end with the same bytes as runs that are not."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from engines import BIN, copy_checkout, run
from killing import members, saves, settings_worth_killing, states

from arnas.config.load import load_params
from arnas.pipeline.jobs import find_instance

pytestmark = pytest.mark.long

SEARCH = {"search": "dsara", "seed": "0"}
CELL = {"dataset": "digits", "network": "dsara", "seed": "0"}
STAGES = {
    "search_adversarial": SEARCH,
    "search_multiobjective": SEARCH,
    "retrain": CELL,
    "whitebox": CELL,
}
"""What is killed, once under each engine."""
TARGETS = {
    "snakemake": (
        "snakemake",
        "--cores",
        "1",
        "results/smoke/whitebox/digits/dsara/0/manifest.json",
    ),
    "dvc": ("dvc", "repro", "whitebox_searched@digits-dsara-0"),
}
QUICKLY = {"ARNAS_SAVE_SECONDS": "0", "ARNAS_DEVICE": "cpu"}


def checkout(folder: Path) -> Path:
    """Return a copy of the checkout that saves after every step."""
    copy_checkout(folder, "smoke")
    (folder / "params.yaml").write_text(yaml.safe_dump(settings_worth_killing(), sort_keys=False))
    return folder


def start(folder: Path, *command: str) -> subprocess.Popen[bytes]:
    """Start an engine in a process group of its own; what it says goes to a file."""
    environment = {key: value for key, value in os.environ.items() if key != "ARNAS_PARAMS"}
    environment |= {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", **QUICKLY}
    with (folder / "said").open("ab") as said:
        return subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def wait_for_a_save(folder: Path, command: str, engine: subprocess.Popen[bytes]) -> None:
    """Wait until a stage has saved something since the call."""
    earlier = saves(folder, command)
    while saves(folder, command) in (earlier, []):
        assert engine.poll() is None, (folder / "said").read_text()[-3000:]
        time.sleep(0.01)


def unlock(folder: Path, engine: str) -> None:
    """Do what a killed engine asks for in its place."""
    if engine == "snakemake":
        assert run(folder, "snakemake", "--unlock").returncode == 0


def results(folder: Path) -> dict[Path, bytes]:
    """Return the bytes of what the killed stages make."""
    params = load_params(folder / "params.yaml")
    return {
        path: (folder / path).read_bytes()
        for command, axes in STAGES.items()
        for path in find_instance(command, axes, params).outputs.values()
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, bytes]:
    """Return the results of stages called one after the other that nobody killed."""
    folder = checkout(tmp_path_factory.mktemp("whole"))
    commands = {"data": {"dataset": "digits"}, **STAGES}
    order = ["data", "search_adversarial", "search_multiobjective", "derive", "retrain", "whitebox"]
    for command in order:
        axes = commands.get(command, SEARCH)
        options = [word for axis, value in axes.items() for word in (f"--{axis}", value)]
        done = run(folder, sys.executable, "-m", "arnas", command, *options, ARNAS_DEVICE="cpu")
        assert done.returncode == 0, done.stderr
    return results(folder)


@pytest.mark.parametrize("engine", TARGETS)
def test_an_engine_that_is_killed_with_its_job_goes_on(
    engine: str, whole: dict[Path, bytes], tmp_path: Path
) -> None:
    folder, chance = checkout(tmp_path), random.Random(engine)
    kills = 0
    for command in STAGES:
        process = start(folder, *TARGETS[engine])
        wait_for_a_save(folder, command, process)
        time.sleep(chance.uniform(0, 0.1))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        kills += bool(states(folder, command))
        unlock(folder, engine)
    assert kills >= 3, "nothing was killed in the middle"
    process = start(folder, *TARGETS[engine])
    assert process.wait(timeout=600) == 0, (folder / "said").read_text()[-3000:]
    assert results(folder) == whole
    assert not states(folder)


def test_an_orphan_and_a_new_run_never_train_together(
    whole: dict[Path, bytes], tmp_path: Path
) -> None:
    """Snakemake alone is killed, and its job goes on: the next run names it and leaves it alone."""
    folder = checkout(tmp_path)
    first = start(folder, *TARGETS["snakemake"])
    wait_for_a_save(folder, "retrain", first)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    orphans = members(first.pid)
    assert orphans, "there is no orphan"
    for pid in orphans:
        os.kill(pid, signal.SIGSTOP)  # so that it does not end before the next run begins
    unlock(folder, "snakemake")
    second = start(folder, *TARGETS["snakemake"])
    assert second.wait(timeout=300) == 1
    said = (folder / "said").read_text()
    holder = re.search(r"retrain digits/dsara/0 is being made by process (\d+) on ", said)
    assert holder
    assert int(holder[1]) in orphans
    for pid in orphans:
        os.kill(pid, signal.SIGCONT)
    while any(Path(f"/proc/{pid}").exists() for pid in orphans):
        time.sleep(0.1)
    third = start(folder, *TARGETS["snakemake"])
    assert third.wait(timeout=600) == 0
    assert results(folder) == whole
