"""What the tests share that kill runs: settings, and what lies on the disk meanwhile."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]


def settings_worth_killing() -> dict[str, Any]:
    """Return the smoke settings with more and smaller steps, so that a kill finds some to lose."""
    settings: dict[str, Any] = yaml.safe_load((ROOT / "workflow/presets/smoke.yaml").read_text())
    settings["data"]["digits"]["search_val_fraction"] = 0.95
    settings["supernet"]["batch_size"] = 16
    settings["whitebox"] |= {"attacks": ["fgsm", "pgd20", "pgd100"], "batch_size": 8}
    return settings


def states(folder: Path, command: str = "") -> list[Path]:
    """Return the descriptions of the states of a checkout, those of a command if one is named."""
    return sorted((folder / ".arnas/state" / command).rglob("state.*.json"))


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
