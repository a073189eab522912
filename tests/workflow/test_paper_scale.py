"""The papers' presets in both engines, and the literal recipe from image files to the report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from engines import copy_checkout, jobs_to_run, run, seen_by_dvc
from PIL import Image

from arnas.config.load import load_params
from arnas.pipeline.jobs import planned_jobs
from arnas.runtime.files import load_tensors

pytestmark = pytest.mark.long

CLASSES, IMAGES, SIDE = 4, 40, 32


@pytest.mark.parametrize("preset", ["cifar10", "cifar100"])
def test_both_engines_plan_a_preset_alike(preset: str, tmp_path: Path) -> None:
    """With a search and without one; neither engine needs the dataset for it."""
    folder = copy_checkout(tmp_path, preset)
    planned = {" ".join(i.command) for i in planned_jobs(load_params(folder / "params.yaml"))}
    assert jobs_to_run(folder) == planned
    assert {seen.command for seen, _ in seen_by_dvc(folder).values()} == planned


def write_photos(folder: Path) -> None:
    """Write square photographs of one colour a class, with noise, as PNG files."""
    generator = np.random.default_rng(0)
    for label in range(CLASSES):
        place = folder / f"class{label}"
        place.mkdir(parents=True)
        for number in range(IMAGES):
            base = np.array([64 * label, 255 - 64 * label, 128])
            noise = generator.normal(0, 40, (SIDE, SIDE, 3))
            pixels = (base + noise).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(place / f"{number}.png")


def small(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the literal preset at toy size, on image files; its switches stay as they are."""
    settings["data"]["cifar10"] = {
        "source": "image_folder",
        "path": "photos",
        "test_images": 30,
        "val_images": 20,
    }
    settings["run"] |= {
        "networks": ["arnas", "mobilenet_v2"],
        "seeds": [0],
    }
    settings["supernet"] |= {"channels": 2, "cells": 6, "batch_size": 20}
    settings["supernet"]["attack"]["steps"] = 1
    search = settings["searches"]["arnas_search"]
    search["multiobjective"]["epochs"] = 1
    search["derive"]["epoch"] = 0
    search["network"] |= {"channels": 4, "cells": 3}
    settings["networks"] = {
        "arnas": {"model": "arnas", "channels": 4, "cells": 3},
        "mobilenet_v2": {"model": "mobilenet_v2", "channels": 8},
    }
    recipe = settings["retrain"]["cifar10"]
    recipe |= {"epochs": 3, "milestones": [1], "batch_size": 30}
    recipe["attack"]["steps"] = 1
    recipe["selection"] |= {"first_epoch": 2, "last_epoch": 2, "steps": 1, "train_images": 20}
    settings["whitebox"] |= {
        "attacks": ["fgsm", "pgd20"],
        "epsilon_curve": [0, "8/255", 1],
        "curve_images": 10,
        "checks": "cheap",
    }
    settings["blackbox"] |= {"steps": 2, "square_queries": 10, "square_images": 10}
    return settings


def test_the_literal_recipe_runs_from_image_files_to_the_report(tmp_path: Path) -> None:
    folder = copy_checkout(tmp_path, "cifar10_literal")
    write_photos(folder / "photos")
    settings = small(yaml.safe_load((folder / "params.yaml").read_text()))
    (folder / "params.yaml").write_text(yaml.safe_dump(settings))
    done = run(folder, "snakemake", "--cores", "2")
    assert done.returncode == 0, done.stderr[-3000:]

    results, tables = folder / "results/cifar10_literal", folder / "results/tables/cifar10_literal"
    assert (results / "report.html").stat().st_size > 100_000
    whitebox = pd.read_csv(tables / "whitebox.csv")
    names = {*settings["networks"], "arnas_search"}
    assert set(whitebox["model"]) == names
    chosen = whitebox[whitebox["checkpoint"] == "selected"]
    assert set(chosen["epoch"]) == {2}, "the early-checkpoint rule"
    assert set(whitebox[whitebox["checkpoint"] == "last"]["epoch"]) == {3}
    assert pd.read_csv(tables / "published.csv").empty, "images of the user's own are no CIFAR-10"
    for name in names:
        path = results / f"retrain/cifar10/{name}/0/selected.safetensors"
        tensors, said = load_tensors(path)
        assert not [key for key in tensors if key.startswith("auxiliary")]
        assert said["provenance"]["run"] == "cifar10_literal"
    _, said = load_tensors(results / "search/arnas_search/0/multiobjective/state.safetensors")
    assert said["run"] == "cifar10_literal"
    alphas = pd.read_csv(tables / "alphas.csv")
    assert set(alphas["run"]) == {"cifar10_literal"}
