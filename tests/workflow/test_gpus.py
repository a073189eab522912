"""Jobs that an engine starts side by side compute on different GPUs, here pretended ones."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import pytest
from engines import checked, copy_checkout, edit_settings, pretended_gpus

pytestmark = pytest.mark.long


class Job(NamedTuple):
    """When a job held which GPUs."""

    start: float
    end: float
    gpus: frozenset[str]


def jobs(folder: Path) -> Iterator[Job]:
    """Yield the jobs that computed on networks, by their manifests."""
    for path in (folder / "results/smoke").rglob("manifest.json"):
        manifest = json.loads(path.read_text())
        held = re.fullmatch(r"cpu \(GPU ([^)]*)\)(, \d ranks)?", manifest["device"])
        if held is None:
            assert manifest["device"] == "cpu"
            continue
        end = path.stat().st_mtime
        yield Job(end - manifest["wall_seconds"], end, frozenset(held[1].split(", ")))


def test_jobs_of_snakemake_get_different_gpus(tmp_path: Path) -> None:
    """Two networks on two GPUs, one of which asks for both and gets them for two ranks."""
    folder = copy_checkout(tmp_path / "copy", "smoke")
    edit_settings(folder, run__searches=[])
    command = "snakemake --cores 3 --resources gpu=2 --set-resources blackbox_examples:gpu=2 -- "
    gpus = pretended_gpus(tmp_path / "gpus", "a", "b")
    checked(folder, *command.split(), "evaluate", **gpus)
    found = list(jobs(folder))
    assert {"a", "b"} == {name for job in found for name in job.gpus}
    assert frozenset({"a", "b"}) in {job.gpus for job in found}
    together = 0
    for one, other in combinations(found, 2):
        if one.start < other.end and other.start < one.end:
            together += 1
            assert not one.gpus & other.gpus, (one, other)
    assert together, "no two jobs ran at the same time"
    log = (folder / "results/smoke/logs/blackbox_examples/digits/arnas/0.txt").read_text()
    assert "on cpu (GPU a, b), 2 ranks, threads 1" in log
