"""Jobs that are killed, alone or with their engine, end with the bytes of jobs that are not."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml
from engines import BIN, copy_checkout, run
from killing import (
    command_line,
    finish,
    members,
    results,
    saves,
    settings_worth_killing,
    start,
    states,
)

pytestmark = pytest.mark.long

DIGITS = {"dataset": "digits"}
SEARCH = {"search": "dsara", "seed": "0"}
CELL = {"dataset": "digits", "network": "dsara", "seed": "0"}
ORDER = {
    "data": DIGITS,
    "search_adversarial": SEARCH,
    "search_multiobjective": SEARCH,
    "derive": SEARCH,
    "retrain": CELL,
    "whitebox": CELL,
}
"""The stages that make one attacked network, with their axes."""
TRAINING = ("search_adversarial", "search_multiobjective", "retrain", "whitebox")
MANIFEST = "results/smoke/whitebox/digits/dsara/0/manifest.json"
ENGINES = {
    "snakemake": (("snakemake", "--cores", "1", MANIFEST), ("search_multiobjective", "retrain")),
    "dvc": (
        ("dvc", "repro", "whitebox_searched@digits-dsara-0"),
        ("search_adversarial", "whitebox"),
    ),
}
"""How each engine is called, and while which stages it is killed."""


def prepare(folder: Path) -> Path:
    (folder / "params.yaml").write_text(yaml.safe_dump(settings_worth_killing(), sort_keys=False))
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder in which nothing was killed."""
    folder = prepare(tmp_path_factory.mktemp("whole"))
    for command, axes in ORDER.items():
        finish(folder, command_line(command, axes))
    return folder


def all_results(folder: Path) -> dict[Path, bytes]:
    return {
        p: b for command in TRAINING for p, b in results(folder, command, ORDER[command]).items()
    }


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """Return a copy of the undisturbed run."""
    return Path(shutil.copytree(whole, tmp_path / "copy"))


@pytest.mark.parametrize("command", TRAINING)
def test_killed_at_random_points(command: str, whole: Path, folder: Path) -> None:
    """Twice, soon after a save of its own; a fast machine may finish before the second."""
    axes = ORDER[command]
    expected, chance = results(whole, command, axes), random.Random(command)
    for path in expected:
        (folder / path).unlink()
    kills = 0
    for _ in range(2):
        earlier = saves(folder)
        process = start(folder, command_line(command, axes))
        while saves(folder) == earlier and process.poll() is None:
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.3))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        kills += process.returncode == -signal.SIGKILL and bool(states(folder))
    assert kills, "nothing was killed in the middle"
    finish(folder, command_line(command, axes))
    assert results(folder, command, axes) == expected
    assert not states(folder), "the state is gone when the result is there"


def start_retraining(folder: Path) -> subprocess.Popen[str]:
    """Return a training that has saved something."""
    process = start(folder, command_line("retrain", CELL))
    while not states(folder) and process.poll() is None:
        time.sleep(0.01)
    return process


def test_a_signal_ends_with_75_and_the_next_run_goes_on(whole: Path, folder: Path) -> None:
    process = start_retraining(folder)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 75, said
    stopped, following = said.splitlines()[-2:]
    assert stopped == "stopped by SIGTERM; rerun the same command to resume."
    assert following == "next: python -m arnas retrain --dataset digits --network dsara --seed 0"
    finish(folder, command_line("retrain", CELL))
    assert results(folder, "retrain", CELL) == results(whole, "retrain", CELL)


def test_a_second_process_says_who_is_at_work(folder: Path) -> None:
    first = start_retraining(folder)
    first.send_signal(signal.SIGSTOP)  # it could be done before the second has started
    second = start(folder, command_line("retrain", CELL))
    _, said = second.communicate(timeout=60)
    first.send_signal(signal.SIGCONT)
    assert second.returncode == 2
    assert f"is being made by process {first.pid} on " in said
    assert first.wait(timeout=600) == 0


def start_engine(folder: Path, *command: str) -> subprocess.Popen[bytes]:
    """Start an engine in a process group of its own; what it says goes to a file."""
    environment = {key: value for key, value in os.environ.items() if key != "ARNAS_PARAMS"}
    environment |= {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    environment |= {"ARNAS_SAVE_SECONDS": "0", "ARNAS_DEVICE": "cpu"}
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


@pytest.mark.parametrize("engine", ENGINES)
def test_an_engine_that_is_killed_with_its_job_goes_on(
    engine: str, whole: Path, tmp_path: Path
) -> None:
    folder, chance = prepare(copy_checkout(tmp_path, "smoke")), random.Random(engine)
    call, commands = ENGINES[engine]
    kills = 0
    for command in commands:
        process = start_engine(folder, *call)
        wait_for_a_save(folder, command, process)
        time.sleep(chance.uniform(0, 0.1))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        kills += bool(states(folder, command))
        if engine == "snakemake":  # as it asks for
            assert run(folder, "snakemake", "--unlock").returncode == 0
    assert kills, "nothing was killed in the middle"
    process = start_engine(folder, *call)
    assert process.wait(timeout=600) == 0, (folder / "said").read_text()[-3000:]
    assert all_results(folder) == all_results(whole)
    assert not states(folder)


def test_an_orphan_and_a_new_run_never_train_together(whole: Path, tmp_path: Path) -> None:
    """Snakemake alone is killed, and its job goes on: the next run names it and leaves it alone."""
    folder = prepare(copy_checkout(tmp_path / "copy", "smoke"))
    for place in ("data", "search"):
        shutil.copytree(whole / "results/smoke" / place, folder / "results/smoke" / place)
    call, _ = ENGINES["snakemake"]
    first = start_engine(folder, *call)
    wait_for_a_save(folder, "retrain", first)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    orphans = members(first.pid)
    assert orphans, "there is no orphan"
    for pid in orphans:
        os.kill(pid, signal.SIGSTOP)  # so that it does not end before the next run begins
    assert run(folder, "snakemake", "--unlock").returncode == 0
    second = start_engine(folder, *call)
    assert second.wait(timeout=300) == 1
    said = (folder / "said").read_text()
    holder = re.search(r"retrain digits/dsara/0 is being made by process (\d+) on ", said)
    assert holder
    assert int(holder[1]) in orphans
    for pid in orphans:
        os.kill(pid, signal.SIGCONT)
    while any(Path(f"/proc/{pid}").exists() for pid in orphans):
        time.sleep(0.1)
    third = start_engine(folder, *call)
    assert third.wait(timeout=600) == 0
    assert all_results(folder) == all_results(whole)
