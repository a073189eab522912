"""One short figure for each result on disk, for an overview; no tensor library is imported."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from arnas.pipeline.jobs import Job
from arnas.runtime.errors import UserError
from arnas.runtime.files import read_description, read_json, read_json_lines


def key_figure(job: Job) -> str:
    """Return what a result came to, in a few words; nothing where it cannot be read now."""
    find = FIGURES.get(job.stage.command)
    try:
        return find(job) if find else ""
    except (UserError, OSError, SafetensorError, ValueError, LookupError, TypeError):
        return ""  # another process writes it, or it is damaged, which is not said here


def _data(job: Job) -> str:
    counts = read_description(job.outputs["splits"])["counts"]
    return f"{sum(counts.values())} images"


def _search(job: Job) -> str:
    row = read_json_lines(job.outputs["history"])[-1]
    return f"adversarial loss {row['train_loss']:.3f}"


def _derive(job: Job) -> str:
    cells: Mapping[str, Any] = read_json(job.outputs["genotype"])["cells"]
    skips = {kind: json.dumps(cell).count('"skip_connect"') for kind, cell in cells.items()}
    return "skips: " + ", ".join(f"{kind} {count}" for kind, count in skips.items())


def _retrain(job: Job) -> str:
    found = read_description(job.outputs["selected"])["provenance"]
    return f"val: clean {found['val_clean']:.1f}, robust {found['val_robust']:.1f}"


def _whitebox(job: Job) -> str:
    with safe_open(job.outputs["outcomes"], "numpy") as file:
        names = [name for name in file.keys() if name.startswith("selected.")]  # noqa: SIM118
        flags = {name: file.get_tensor(name) for name in names}
    clean = flags["selected.clean"]
    union = np.min([found for found in flags.values() if len(found) == len(clean)], axis=0)
    return f"clean {100 * clean.mean():.1f}, robust {100 * union.mean():.1f}"


def _examples(job: Job) -> str:
    with safe_open(job.outputs["examples"], "numpy") as file:
        return f"Square {100 * file.get_tensor('square').mean():.1f}"


FIGURES: Mapping[str, Callable[[Job], str]] = {
    "data": _data,
    "search_adversarial": _search,
    "search_multiobjective": _search,
    "derive": _derive,
    "retrain": _retrain,
    "whitebox": _whitebox,
    "blackbox_examples": _examples,
}
"""Command to its key figure; accuracies in percent. Others write tables, which say it better."""
