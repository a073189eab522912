"""A run of every stage in ten seconds, and the command line in this process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from arnas.cli import main
from arnas.config.load import load_params
from arnas.pipeline.jobs import find_job
from arnas.runtime.files import load_tensors, read_json, save_tensors, sha256_file, write_sealed

ROOT = Path(__file__).parents[2]
SEARCH = {"search": "dsara", "seed": "0"}
CELL = {"dataset": "digits", "network": "arnas", "seed": "0"}
COMMANDS: tuple[tuple[str, dict[str, str]], ...] = (
    ("data", {"dataset": "digits"}),
    ("search_adversarial", SEARCH),
    ("search_multiobjective", SEARCH),
    ("derive", SEARCH),
    ("retrain", CELL),
    ("whitebox", CELL),
    ("blackbox_examples", CELL),
    ("blackbox", {"dataset": "digits"}),
    ("analysis", {}),
    ("tables", {}),
    ("report", {}),
)


def settings() -> dict[str, Any]:
    """Return the smoke preset cut down to two steps a stage and one network."""
    content: dict[str, Any] = yaml.safe_load((ROOT / "workflow/presets/smoke.yaml").read_text())
    content["name"] = "golden"
    content["run"] |= {"searches_on": [], "networks": ["arnas"]}
    content["data"]["digits"] |= {
        "test_images": 20,
        "val_images": 20,
        "search_val_fraction": 0.97,
    }
    content["supernet"] |= {"batch_size": 26}
    content["retrain"]["digits"] |= {"epochs": 1, "batch_size": 800}
    content["whitebox"] |= {"attacks": ["fgsm", "pgd20"]}
    return content


def run_all(place: Path) -> None:
    """Run every stage once in a folder."""
    (place / "params.yaml").write_text(yaml.safe_dump(settings()))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.delenv("ARNAS_PARAMS", raising=False)
        patch.setenv("ARNAS_DEVICE", "cpu")
        for command, axes in COMMANDS:
            if command == "derive":
                _set_tables(place)
            assert exit_code(command, axes) == 0, command


def exit_code(command: str, axes: dict[str, str]) -> int:
    """Return the exit code of a command, run in this process and the present folder."""
    options = [word for axis, value in axes.items() for word in (f"--{axis}", value)]
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setattr("sys.argv", ["arnas", command, *options])
        main()
    return int(ended.value.code or 0)


def _set_tables(folder: Path) -> None:
    """Replace the searched tables by round numbers: near ties would be decided by rounding."""
    instance = find_job("derive", SEARCH, load_params(folder / "params.yaml"))
    path = folder / instance.inputs["state"]
    tensors, description = load_tensors(path)
    for name, value in tensors.items():
        if name.startswith("trajectory."):
            tensors[name] = (torch.arange(value.numel()) * 37 % 101 / 101).view_as(value)
    save_tensors(path, tensors, description)
    record_outputs(path.with_name("manifest.json"), folder)


def record_outputs(manifest: Path, folder: Path = Path()) -> None:
    """Let a manifest of a run in a folder record its outputs as they are now."""
    made = read_json(manifest)
    new = {name: sha256_file(folder / name) for name in made["outputs"]}
    write_sealed(manifest, made | {"outputs": new})
