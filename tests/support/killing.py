"""What the tests share that kill runs: settings, processes, and what lies on the disk meanwhile."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from arnas.config.load import load_params
from arnas.pipeline.jobs import find_job

ROOT = Path(__file__).parents[2]


def settings_worth_killing() -> dict[str, Any]:
    """Return the smoke settings with more and smaller steps, so that a kill finds some to lose."""
    settings: dict[str, Any] = yaml.safe_load((ROOT / "workflow/presets/smoke.yaml").read_text())
    settings["data"]["digits"]["search_val_fraction"] = 0.95
    settings["supernet"]["batch_size"] = 16
    settings["whitebox"] |= {"attacks": ["fgsm", "pgd20", "pgd100"], "batch_size": 8}
    return settings


def command_line(command: str, axes: dict[str, str]) -> list[str]:
    """Return the words of a stage's command, from ``-m`` on."""
    options = (word for axis, value in axes.items() for word in (f"--{axis}", value))
    return ["-m", "arnas", command, *options]


def start(
    folder: Path, words: list[str], *, wrapper: tuple[str, ...] = (), **environment: str
) -> subprocess.Popen[str]:
    """Start Python in a process group of its own; a job saves after every step."""
    kept = {key: value for key, value in os.environ.items() if key != "ARNAS_PARAMS"}
    quickly = {"PYTHONPATH": str(ROOT), "ARNAS_DEVICE": "cpu", "ARNAS_SAVE_SECONDS": "0"}
    return subprocess.Popen(
        [*wrapper, sys.executable, *words],
        cwd=folder,
        env=kept | quickly | environment,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(folder: Path, words: list[str], **environment: str) -> str:
    """Run Python to its end, which must be a success; return its log."""
    process = start(folder, words, **environment)
    _, said = process.communicate(timeout=600)
    assert process.returncode == 0, said
    return said


def results(folder: Path, command: str, axes: dict[str, str]) -> dict[Path, bytes]:
    """Return the bytes of a job's outputs."""
    found = find_job(command, axes, load_params(folder / "params.yaml"))
    return {path: (folder / path).read_bytes() for path in found.outputs.values()}


def states(folder: Path, command: str = "") -> list[Path]:
    """Return the states of a checkout, those of a command if one is named."""
    return sorted((folder / ".arnas/state" / command).rglob("state.*.safetensors"))


def saves(folder: Path, command: str = "") -> list[int]:
    """Return when the states were written; none while one is removed."""
    try:
        return [path.stat().st_mtime_ns for path in states(folder, command)]
    except FileNotFoundError:
        return []


def members(group: int) -> list[int]:
    """Return the living processes of a group, from Linux's table of processes."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            found.append(int(path.parent.name))
    return sorted(found)
