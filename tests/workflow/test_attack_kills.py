"""An evaluation that is killed, or shared by two processes, ends with the same record."""

from __future__ import annotations

import random
import shlex
import signal
import time
from pathlib import Path

import pytest
import torch
from attackable import write_factory
from killing import finish, saves, start, states

from arnas.evaluation.record import read_record
from arnas.evaluation.result import EvalResult

pytestmark = pytest.mark.long

LINE = shlex.split(
    "-m arnas attack --model mine:build --data digits.npz --threat linf:0.1 --out out "
    "--suite apgd_ce,apgd_t,fab_t --batch-size 8"
)


def finished(folder: Path, ranks: int = 1) -> str:
    said = finish(folder, LINE, ARNAS_RANKS=str(ranks))
    assert not states(folder, "attack")
    return said


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder in which the evaluation ran undisturbed."""
    folder = tmp_path_factory.mktemp("whole")
    write_factory(folder)
    finished(folder)
    return folder


@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGTERM], ids=lambda kind: kind.name)
def test_killed_at_random_points(whole: Path, tmp_path: Path, kind: signal.Signals) -> None:
    write_factory(tmp_path)
    chance = random.Random(kind.name)
    hits = 0
    for _ in range(3):
        process = start(tmp_path, LINE)
        before = saves(tmp_path, "attack")
        wait_until = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < wait_until:
            if saves(tmp_path, "attack") not in ([], before):
                break
            time.sleep(0.02)
        time.sleep(chance.uniform(0, 1.5))
        process.send_signal(kind)
        _, said = process.communicate(timeout=120)
        hits += process.returncode in (-signal.SIGKILL, 75)
        if process.returncode == 75:
            assert "rerun the same command to resume" in said
    assert hits
    finished(tmp_path)
    for ending in ("json", "html"):
        name = f"out.{ending}"
        assert (tmp_path / name).read_bytes() == (whole / name).read_bytes(), name


def outcomes(found: EvalResult) -> dict[str, list[int]]:
    return {name: flags.tolist() for name, flags in found.outcomes.items()}


def test_two_processes_find_what_one_finds(whole: Path, tmp_path: Path) -> None:
    write_factory(tmp_path)
    said = finished(tmp_path, ranks=2)
    assert "2 ranks" in said
    one, two = (read_record(folder / "out.json") for folder in (whole, tmp_path))
    assert outcomes(one) == outcomes(two)
    assert [check.status for check in one.checks] == [check.status for check in two.checks]
    assert torch.equal(one.labels, two.labels)
