"""One run by each engine for all tests of the engines; they change copies only."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from engines import checked, commit, copy_checkout
from filelock import FileLock


def small_checkout(folder: Path) -> Path:
    """Return a copy of the checkout with one network and one search to train."""
    copy_checkout(folder, "smoke")
    settings = yaml.safe_load((folder / "params.yaml").read_text())
    settings["run"]["networks"] = ["arnas"]
    settings["reproduction"] = {"orderings": []}
    (folder / "params.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    commit(folder)
    return folder


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """Return a folder that the first of several pytest workers makes."""
    base = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    folder, done = base / f"shared_{name}", base / f"shared_{name}.done"
    with FileLock(base / f"shared_{name}.lock"):
        if not done.exists():
            make(small_checkout(folder))
            done.touch()
    return folder


@pytest.fixture(scope="session")
def run_by_snakemake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a complete run by Snakemake, which DVC knows nothing of."""
    return made_once(tmp_path_factory, "snakemake", lambda f: checked(f, "snakemake", "-c", "2"))


@pytest.fixture(scope="session")
def run_by_dvc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the same run by DVC, which Snakemake knows nothing of."""
    return made_once(tmp_path_factory, "dvc", lambda f: checked(f, "dvc", "repro"))
