"""What would run to make a result, and why: the engines' decision in words.

A job runs if its result is not whole or not what the settings ask for, or if one that it reads
from runs.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from arnas.config.params import Params
from arnas.pipeline.freshness import ReadManifest, why_stale
from arnas.pipeline.jobs import Job, planned_jobs, sources, upstream
from arnas.runtime.errors import UserError
from arnas.runtime.manifest import manifest_or_empty


@dataclass(frozen=True)
class Rerun:
    """A job that would run, and why."""

    job: Job
    reason: str


def explain(target: str, params: Params) -> list[Rerun]:
    """Return what would run to make a target, producers before consumers.

    Parameters
    ----------
    target
        Path of an output, name of a stage, or title of a job: ``retrain digits/arnas/0``.

    Raises
    ------
    UserError
        When the run has no such target.
    """
    planned = planned_jobs(params)
    titles = find_targets(target, planned)
    made_from = sources(planned)
    needed = upstream(titles, made_from)
    chain = [job for job in planned if job.title in needed]
    reasons = _reasons(chain, made_from, params)
    return [Rerun(i, reasons[i.title]) for i in chain if i.title in reasons]


def find_targets(target: str, planned: Sequence[Job]) -> list[str]:
    """Return the titles of the jobs that a target means."""
    path = Path(os.path.relpath(target or "."))
    found = [
        job.title
        for job in planned
        if path in job.files or target in {job.title, job.stage.name, job.stage.command}
    ]
    if not found:
        names = [name for i in planned for name in (i.title, i.stage.command, *map(str, i.files))]
        close = difflib.get_close_matches(target, dict.fromkeys(names), n=3, cutoff=0.5)
        hint = " or ".join(close) if close else "a stage, as in retrain, or a line of `status`"
        raise UserError(
            f"there is no target '{target}' in this run: name an output, a stage or a job of "
            f"it, such as {hint}."
        )
    return found


def _reasons(
    chain: Sequence[Job], made_from: Mapping[str, Sequence[Job]], params: Params
) -> dict[str, str]:
    """Return why jobs would run, by themselves or because one before them in the chain does."""
    read: ReadManifest = cache(manifest_or_empty)
    reasons: dict[str, str] = {}
    for job in chain:
        reason = why_stale(job, params, read)
        if reason is None:
            before = (f"{s.title} runs" for s in made_from[job.title] if s.title in reasons)
            reason = next(before, None)
        if reason is not None:
            reasons[job.title] = reason
    return reasons
