"""One run of all stages for all tests that look at its files."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_run import run_all


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a tiny run with every stage's files; tests change copies only."""
    place = tmp_path_factory.mktemp("tiny_run")
    run_all(place)
    return place


@pytest.fixture(scope="module")
def run(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A copy of the tiny run, in which the tests work and which they leave as it was."""
    place = tmp_path_factory.mktemp("damaged") / "run"
    shutil.copytree(tiny_run, place)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.delenv("ARNAS_PARAMS", raising=False)
        patch.setenv("ARNAS_DEVICE", "cpu")
        yield place
