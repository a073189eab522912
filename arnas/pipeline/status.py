"""The state of every job of a run, from its manifests, its files and the state folders.

Nothing is written, and nothing is read that is large: it is meant to be asked for at any time.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml

from arnas.config.params import Params
from arnas.pipeline.freshness import ReadManifest, describe, recorded_sha256, why_stale
from arnas.pipeline.jobs import Job, lookup, planned_jobs, sources
from arnas.pipeline.key_figures import key_figure
from arnas.runtime.abandoned import StateSlot, age, state_slots
from arnas.runtime.history import state_root
from arnas.runtime.manifest import manifest_or_empty

State = Literal["done", "running", "partial", "stale", "missing", "waiting"]
STATES: tuple[State, ...] = ("done", "running", "partial", "stale", "missing", "waiting")
UNKNOWN = "?"
"""Stands for the sha256 of a file that is not there."""
LOCK = Path("dvc.lock")


@dataclass(frozen=True)
class Status:
    """What is known of one job."""

    job: str
    """Its title."""
    state: State
    detail: str
    """Who runs it, how far it is, why it is stale, or what it waits for."""
    made: float | None
    """When its manifest was written, in seconds since 1970."""
    device: str
    figure: str


@dataclass(frozen=True)
class Overview:
    """What is known of a run."""

    name: str
    jobs: tuple[Status, ...]
    elsewhere: tuple[str, ...]
    """What other copies of the checkout and other runs are making."""
    unknown_to_dvc: int
    """Number of current results that ``dvc.lock`` does not have."""

    @property
    def counts(self) -> dict[State, int]:
        """Return the number of jobs in each state that occurs."""
        found = Counter(status.state for status in self.jobs)
        return {state: found[state] for state in STATES if found[state]}

    @property
    def running(self) -> bool:
        """Return whether anything is being made."""
        return "running" in self.counts

    def as_json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {**asdict(self), "counts": self.counts}


def overview(params: Params) -> Overview:
    """Return the state of every job of the run."""
    read: ReadManifest = cache(manifest_or_empty)
    slots = state_slots(state_root())
    planned = planned_jobs(params)
    found: dict[str, Status] = {}
    done: list[Job] = []
    made_from = sources(planned)
    unready: set[str] = set()
    """Titles of the jobs whose results are not what the settings ask for."""
    for job in planned:
        late = next((s.title for s in made_from[job.title] if s.title in unready), None)
        status = _status(job, params, read, slots, late)
        found[job.title] = status
        if status.state == "done":
            done.append(job)
        else:
            unready.add(job.title)
    here = {str(job.manifest) for job in planned}
    others = [
        f"{slot.title} in {slot.holder.get('folder', 'an unknown folder')}, {slot.who}"
        for slot in slots
        if slot.held and not (slot.here and slot.holder.get("result") in here)
    ]
    return Overview(
        params.name, tuple(found.values()), tuple(others), len(done) - _known_to_dvc(done)
    )


def _status(
    job: Job,
    params: Params,
    read: ReadManifest,
    slots: Sequence[StateSlot],
    late: str | None,
) -> Status:
    """Return what is known of a job; `late` is a producer whose result is not current."""
    manifest = read(job.manifest)
    gone = [path for path in job.outputs.values() if not path.is_file()]
    own = [slot for slot in slots if slot.stage == job.stage.command]
    state, detail = _judged(job, params, read, own, late, gone)
    figure = key_figure(job) if manifest and not gone else ""
    made = None
    with suppress(OSError):
        made = job.manifest.stat().st_mtime
    return Status(job.title, state, detail, made, str(manifest.get("device", "")), figure)


def _judged(
    job: Job,
    params: Params,
    read: ReadManifest,
    slots: Sequence[StateSlot],
    late: str | None,
    gone: Sequence[Path],
) -> tuple[State, str]:
    """Return the state of a job with its detail."""
    fingerprint = _fingerprint(job, params, read)
    for slot in slots:
        if _makes(slot, job):
            fits = slot.fingerprint == fingerprint
            how_far = progress_text(job, params, slot.progress) if slot.progress else None
            other = None if fits else "with settings or inputs other than the present ones"
            return "running", ", ".join(filter(None, [slot.who, how_far, other]))
    there, reason = bool(read(job.manifest)), why_stale(job, params, read)
    if reason is None and late is None and not gone:
        return "done", ""
    for slot in slots:
        if slot.fingerprint == fingerprint and slot.progress is not None and not slot.held:
            return "partial", progress_text(job, params, slot.progress)
    if not there:
        return ("missing", "") if late is None else ("waiting", f"for {late}")
    if reason is not None or late is not None:
        return "stale", reason or f"follows {late}"
    return "missing", f"{gone[0]} is gone"


def _fingerprint(job: Job, params: Params, read: ReadManifest) -> str:
    """Return the start of the fingerprint that the job would have if it were made now."""
    paths = job.inputs.values()
    inputs = {str(path): recorded_sha256(path, read, UNKNOWN) for path in paths}
    fingerprint: str = describe(job, params, inputs)["fingerprint"]
    return fingerprint[:16]


def slot_text(slot: StateSlot, params: Params | None) -> str:
    """Return one line about a state folder; without settings it does not say whether they fit."""
    size = f"{slot.size / 1e6:.1f} MB"
    if slot.held:
        return f"held: {slot.title}, {size}, by {slot.who}"
    text = f"abandoned: {slot.title}, {size}, {age(slot.changed)} old"
    if params is None:
        return text
    read: ReadManifest = cache(manifest_or_empty)
    for job in planned_jobs(params):
        known = slot.stage == job.stage.command
        if known and slot.fingerprint == _fingerprint(job, params, read):
            how_far = progress_text(job, params, slot.progress or {})
            return f"{text}, {how_far}: its next run goes on from there"
    return f"{text}, not of the present settings and inputs"


def _makes(slot: StateSlot, job: Job) -> bool:
    """Return whether a process makes the job's result in this checkout."""
    return slot.held and slot.here and slot.holder.get("result") == str(job.manifest)


def progress_text(job: Job, params: Params, values: Mapping[str, Any]) -> str:
    """Return in words how far a saved state is."""
    if "batches" in values:
        return f"{sum(values['batches'].values())} batches of attacks"
    epoch = values.get("epoch", values.get("done"))
    if epoch is None:
        return "begun"
    text = f"{epoch} of {_epochs(job, params)} epochs"
    return f"{text}, step {values['step']}" if values.get("step") else text


def _epochs(job: Job, params: Params) -> Any:
    """Return the number of epochs that a job has by the settings."""
    for path in job.params:
        found = lookup(params, path)
        if "epochs" in found:
            return found["epochs"]
    return UNKNOWN


def _known_to_dvc(done: Sequence[Job]) -> int:
    """Return how many results ``dvc.lock`` has, by their manifests, of which no two are equal."""
    try:
        content = yaml.load(LOCK.read_text(encoding="utf-8"), Loader=_LOADER)
        known = {
            out["path"]: out["md5"]
            for stage in content["stages"].values()
            for out in stage["outs"]
            if out["path"].endswith("/manifest.json")
        }
    except (OSError, yaml.YAMLError, LookupError, TypeError, AttributeError, UnicodeDecodeError):
        return 0
    count = 0
    for job in done:
        with suppress(OSError):
            content = job.manifest.read_bytes()
            md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
            count += known.get(str(job.manifest)) == md5
    return count


_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The fast one where it is built."""
