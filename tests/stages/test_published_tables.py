"""The stages `tables` and `report` compare a run that has published networks with their numbers."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from tiny_run import CELL, exit_code, record_outputs

from arnas.config.load import load_params
from arnas.pipeline.jobs import find_job, planned_jobs
from arnas.reporting.published import compare
from arnas.reporting.published.compare import COLUMNS
from arnas.runtime.files import load_tensors, read_json, save_tensors, sha256_file, write_sealed
from arnas.spaces.published import GENOTYPES
from arnas.stages import tables

TABLE = Path("results/tables/golden/published.csv")
REPORT = Path("results/golden/report.html")


@pytest.fixture
def copy(tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the tiny run, in which the test works."""
    place = tmp_path / "run"
    shutil.copytree(tiny_run, place)
    monkeypatch.chdir(place)
    monkeypatch.delenv("ARNAS_PARAMS", raising=False)
    monkeypatch.setenv("ARNAS_DEVICE", "cpu")
    return place


def pretend(command: str, key: str, **blocks: dict[str, object]) -> None:
    """Change blocks of a file's description, and all manifests, as if it had been so."""
    job = find_job(command, CELL, load_params())
    path = job.outputs[key]
    tensors, description = load_tensors(path)
    for name, changes in blocks.items():
        description[name] |= changes
    save_tensors(path, tensors, description)
    record_outputs(job.manifest)
    for reader in planned_jobs(load_params()):
        if path in reader.inputs.values():
            manifest = read_json(reader.manifest, sealed=True)
            manifest["inputs"][str(path)] = sha256_file(path)
            write_sealed(reader.manifest, manifest)


def test_nobody_has_published_networks_on_digits(copy: Path) -> None:
    assert TABLE.read_text() == ",".join(COLUMNS) + "\n"
    assert "this kind" in TABLE.with_suffix(".md").read_text()
    assert "ublished number" not in REPORT.read_text()


@pytest.fixture
def cifar10(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend that the run's images are those of CIFAR-10."""

    def network(description: Any, source: str, recipe: Any, loss: str) -> Any:
        return compare.network(description, "cifar10", recipe, loss)

    monkeypatch.setattr(tables, "network", network)


def test_a_network_of_published_size_is_compared(copy: Path, cifar10: None) -> None:
    pretend("retrain", "selected", model={"model": "resnet18", "channels": None, "cells": None})
    pretend("whitebox", "outcomes", threat={"epsilon": "8/255"})
    assert exit_code("tables", {}) == 0
    table = pd.read_csv(TABLE)
    whitebox = pd.read_csv(TABLE.with_name("whitebox.csv"))
    clean = whitebox[(whitebox["attack"] == "clean") & (whitebox["checkpoint"] == "selected")]
    row = table[(table["attack"] == "clean") & (table["published"] == 82.57)].iloc[0]
    assert row["ours"] == clean["accuracy"].iloc[0]
    assert row["difference"] == round(row["ours"] - 82.57, 2)
    flags = row["protocol"].split("; ")
    assert flags[:2] == [
        "epsilon not stated",
        "checkpoint best on test images, ours chosen on held-out images",
    ]
    assert "ours on 20 of 10,000 test images" in flags
    assert "ours of one seed" in flags
    assert set(table["attack"]) == {"clean", "fgsm", "pgd20"}, "what was measured here"
    assert exit_code("report", {}) == 0
    html = REPORT.read_text()
    assert "Comparison with published numbers" in html
    assert "82.57" in html


@pytest.mark.parametrize(
    "model",
    [{"model": "resnet18", "channels": 32}, {"model": GENOTYPES["advrush"].genotype.to_json()}],
    ids=["another size", "a genotype of the run"],
)
def test_a_network_that_nobody_has_published_is_not(
    copy: Path, cifar10: None, model: dict[str, object]
) -> None:
    pretend("retrain", "selected", model={"channels": None, "cells": None} | model)
    assert exit_code("tables", {}) == 0
    assert TABLE.read_text() == ",".join(COLUMNS) + "\n"
