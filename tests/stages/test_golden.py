"""A tiny run of every stage with recorded figures.

When a stage's figures change while its integer in versions.yaml does not, results made before and
after the change would be mixed under one name. So: raise the integer of the stage that changed,
then record the new figures with
``ARNAS_GOLDEN=write python -m pytest tests/stages/test_golden.py``.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from loading import loaded_modules
from tiny_run import COMMANDS

from arnas.config.load import load_params
from arnas.pipeline.jobs import find_job
from arnas.pipeline.plan import STAGES, stage_versions
from arnas.runtime.files import load_tensors, read_json, read_json_lines

GOLDEN = Path(__file__).with_name("golden.json")
RELATIVE = {"search_multiobjective": 2e-2}
"""Other CPUs round differently; two training steps amplify that to 2e-3, a step of both searches to
5e-3 (AVX2 against AVX-512)."""

SMALL = 20
"""A file of fewer tensors is recorded tensor by tensor, a larger one by the names' first words."""
ONE_IMAGE = {"whitebox": 1.0, "blackbox": 1.0, "blackbox_examples": 1.0, "tables": 5.0}
"""Rounding may decide about one image; a class that is predicted for it may be any of ten."""
OF_TWO_GRADIENTS = {"gamma": 0.05, "cosine": 0.3}
"""How far another CPU may move what is computed from the gradients of both objectives, of 26 images
each: a cosine of 0.52 with AVX-512 is 0.26 with AVX2."""


@pytest.fixture
def folder(tiny_run: Path) -> Path:
    """The folder in which every stage has run once."""
    return tiny_run


def figures(folder: Path, command: str, axes: dict[str, str]) -> dict[str, Any]:
    """Return what a stage's outputs amount to, in a few numbers."""
    instance = find_job(command, axes, load_params(folder / "params.yaml"))
    found: dict[str, Any] = {}
    for key, path in instance.outputs.items():
        place = folder / path
        if path.suffix == ".safetensors":
            tensors = load_tensors(place).tensors
            for name, value in tensors.items():
                short = f"{key}.{name if len(tensors) < SMALL else name.split('.')[0]}"
                found[short] = found.get(short, 0.0) + _size(value)
        elif path.suffix == ".jsonl":
            found[key] = [
                {k: v for k, v in row.items() if isinstance(v, float)}
                for row in read_json_lines(place)
            ]
        elif path.suffix == ".csv":
            found[key] = _columns(pd.read_csv(place), EXACT.get(key, ()))
        elif key in {"genotype", "metrics"}:
            found[key] = read_json(place)
    return found


EXACT = {
    "datasets_csv": ("train", "search_val", "val", "test"),
    "models_csv": ("parameters", "macs"),
    "operations_csv": ("cell", "count", "share"),
    "alphas_csv": ("mean", "lowest", "highest"),
    "gamma_csv": ("gamma",),
}
"""Columns that no image decides about."""


def _columns(table: pd.DataFrame, exact: tuple[str, ...]) -> dict[str, Any]:
    """Return a table's columns and length, and the sums of some columns."""
    sums = {name: float(table[name].sum()) for name in exact}
    return {"columns": list(table.columns), "rows": len(table), "sums": sums}


def _size(value: torch.Tensor) -> float:
    """Return the sum of the absolute values, of numbers only."""
    return float(value.double().nan_to_num().abs().sum())


def approximately(expected: Any, command: str, key: str = "") -> Any:
    """Return `expected` with every number replaced by pytest.approx."""
    if isinstance(expected, dict):
        return {key: approximately(value, command, key) for key, value in expected.items()}
    if isinstance(expected, list):
        return [approximately(value, command, key) for value in expected]
    if not isinstance(expected, float):
        return expected
    absolute = ONE_IMAGE.get(command, 0.0) * (9 if "predicted" in key else 1)
    absolute = next((most for word, most in OF_TWO_GRADIENTS.items() if word in key), absolute)
    return pytest.approx(expected, rel=RELATIVE.get(command, 2e-3), abs=absolute)


@pytest.mark.parametrize(("command", "axes"), COMMANDS, ids=[command for command, _ in COMMANDS])
def test_results_change_only_with_the_version(
    folder: Path, command: str, axes: dict[str, str]
) -> None:
    found = {"version": stage_versions()[command], "figures": figures(folder, command, axes)}
    if os.environ.get("ARNAS_GOLDEN") == "write":
        recorded = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
        recorded[command] = found
        GOLDEN.write_text(json.dumps(recorded, indent=1, sort_keys=True) + "\n")
    recorded = json.loads(GOLDEN.read_text())[command]
    assert found["version"] == recorded["version"], "record the new version's figures, see above"
    expected = approximately(recorded["figures"], command)
    assert found["figures"] == expected, "raise the version, see above"


def test_manifests_say_what_was_made_from_what(folder: Path) -> None:
    for command, axes in COMMANDS:
        instance = find_job(command, axes, load_params(folder / "params.yaml"))
        manifest = read_json(folder / instance.manifest)
        assert manifest["stage"] == command
        assert set(manifest["inputs"]) == {str(path) for path in instance.inputs.values()}
        assert set(manifest["outputs"]) == {str(path) for path in instance.outputs.values()}
        assert manifest["device"] == "cpu"
        assert len(manifest["fingerprint"]) == 64


@pytest.mark.parametrize("command", [stage.command for stage in STAGES if not stage.torch])
def test_a_stage_without_torch_does_not_load_it(command: str, folder: Path, tmp_path: Path) -> None:
    """Which would take longer than its work."""
    place = shutil.copytree(folder, tmp_path / "run")
    loaded = loaded_modules(["-m", "arnas", command], place)
    assert "pandas" in loaded
    assert "torch" not in loaded
