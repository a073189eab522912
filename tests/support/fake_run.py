"""A run whose results are there at once: small files, with the manifests that they would have."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from arnas.config.params import Params
from arnas.pipeline.freshness import describe
from arnas.pipeline.jobs import Job, planned_jobs
from arnas.runtime.errors import UserError
from arnas.runtime.files import sha256_file, write_sealed
from arnas.runtime.history import state_folder
from arnas.runtime.manifest import read_manifest
from arnas.runtime.resume import Snapshot, checkpointing

SMOKE = (Path(__file__).parents[2] / "workflow/presets/smoke.yaml").read_text()
"""The settings of the run."""


def smoke() -> dict[str, Any]:
    """Return the settings of the run as values, which a test may change."""
    content: dict[str, Any] = yaml.safe_load(SMOKE)
    return content


def described(job: Job, params: Params) -> dict[str, object]:
    """Return what the job's manifest would say that it is made from, by its present inputs."""
    inputs = {str(path): sha256_file(path) for path in job.inputs.values()}
    return describe(job, params, inputs)


def make(job: Job, params: Params, content: str = "") -> None:
    """Write a job's outputs, each with a text of its own, and its manifest."""
    made_from = described(job, params)
    for path in job.outputs.values():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{path}{content}")
    outputs = {str(path): sha256_file(path) for path in job.outputs.values()}
    job.manifest.parent.mkdir(parents=True, exist_ok=True)
    write_sealed(job.manifest, {**made_from, "outputs": outputs, "device": "cpu"})


def make_all(params: Params, but: Iterable[str] = ()) -> None:
    """Make every job of the run, and take away those with the titles `but`."""
    for job in planned_jobs(params):
        make(job, params)
    for job in planned_jobs(params):
        if job.title in but:
            for path in [*job.outputs.values(), job.manifest]:
                path.unlink()


def state_of(job: Job, params: Params) -> Path:
    """Return the folder of the job's state."""
    return state_folder(job.stage.command, str(described(job, params)["fingerprint"]))


def record(job: Job, **changes: object) -> None:
    """Change what a job's manifest says."""
    write_sealed(job.manifest, {**read_manifest(job.manifest), **changes})


def cut_short(folder: Path, title: str, result: object) -> None:
    """Leave the state of a run behind that was cut short after its first save."""
    with (
        pytest.raises(UserError),
        checkpointing(folder, title, str(result)) as checkpointer,
    ):
        values = {"epoch": 1, "step": 2}
        checkpointer.maybe_save(lambda: Snapshot({"w": torch.zeros(1000)}, values), now=True)
        raise UserError("cut short")


def job_named(title: str, params: Params) -> Job:
    """Return the job of the run with that title."""
    return next(job for job in planned_jobs(params) if job.title == title)
