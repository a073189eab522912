"""The state of every job of a run, from its manifests, its files and the state folders; as a table.

It may be asked for at any time: no result is changed, and outputs are read once and when they may
have changed.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from arnas.config.params import Params
from arnas.pipeline.freshness import (
    ReadManifest,
    describe,
    missing_output,
    recorded_sha256,
    why_stale,
)
from arnas.pipeline.jobs import Job, lookup, planned_jobs, sources
from arnas.pipeline.key_figures import key_figure
from arnas.runtime.abandoned import StateSlot, age, state_slots
from arnas.runtime.history import state_root
from arnas.runtime.manifest import manifest_or_empty

State = Literal["done", "running", "partial", "stale", "missing", "waiting"]
COLOURS: dict[State, str] = {
    "done": "green",
    "running": "cyan",
    "partial": "yellow",
    "stale": "red",
    "missing": "red",
    "waiting": "dim",
}
UNKNOWN = "?"
"""Stands for the sha256 of a file that is not there."""
LOCK = Path("dvc.lock")
ROOM = {"detail": 0, "figure": 110, "age": 70, "device": 130}
"""Columns besides the first two, and how wide the terminal must be to show them."""
NARROW = 70
"""Columns below which a job's name may take several lines."""
REFRESH = 1.0
"""Seconds between two looks."""
PATIENCE = 20.0
"""Seconds without any process at work after which a run is over: engines pause between two jobs."""


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
        return {state: found[state] for state in COLOURS if found[state]}

    @property
    def running(self) -> bool:
        """Return whether anything is being made."""
        return "running" in self.counts

    def as_json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {**asdict(self), "counts": self.counts}


def overview(params: Params, *, verify: bool = False) -> Overview:
    """Return the state of every job of the run; to `verify` it, every output is read."""
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
        reason = why_stale(job, params, read, every=verify)
        status = _status(job, params, read, slots, late, reason)
        found[job.title] = status
        if status.state == "done":
            done.append(job)
        else:
            unready.add(job.title)
    here = {str(job.manifest) for job in planned}
    others = [
        f"{slot.title} in {slot.holder.get('folder', 'an unknown folder')}, {slot.who}"
        for slot in slots
        if slot.held and slot.making not in here
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
    reason: str | None,
) -> Status:
    """Return what is known of a job.

    `late` is a producer whose result is not current, `reason` why the job's own is not.
    """
    manifest = read(job.manifest)
    # Which may have been withdrawn since it was read.
    whole = bool(manifest) and job.manifest.is_file() and missing_output(job) is None
    own = [slot for slot in slots if slot.stage == job.stage.command]
    state, detail = _judged(job, params, read, own, late, reason)
    if state == "stale" and not whole:
        state = "missing"
    figure = key_figure(job) if whole else ""
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
    reason: str | None,
) -> tuple[State, str]:
    """Return the state of a job with its detail, as if its outputs were there."""
    fingerprint = _fingerprint(job, params, read)
    for slot in slots:
        if slot.making == str(job.manifest):
            fits = slot.fingerprint == fingerprint
            how_far = progress_text(job, params, slot.progress) if slot.progress else None
            other = None if fits else "with settings or inputs other than the present ones"
            return "running", ", ".join(filter(None, [slot.who, how_far, other]))
    if reason is None and late is None:
        return "done", ""
    for slot in slots:
        if slot.fingerprint == fingerprint and slot.progress is not None and not slot.held:
            return "partial", progress_text(job, params, slot.progress)
    if not read(job.manifest):
        return ("missing", "") if late is None else ("waiting", f"for {late}")
    return "stale", reason or f"follows {late}"


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


def follow(params: Params, console: Console) -> None:
    """Show the overview, and what changes in it, until nothing has been running for a while."""
    last = time.monotonic()
    with Live(console=console, auto_refresh=False) as live:
        while True:
            found = overview(params)
            live.update(as_text(found, console.width), refresh=True)
            last = time.monotonic() if found.running else last
            if time.monotonic() - last >= PATIENCE or set(found.counts) == {"done"}:
                return
            time.sleep(REFRESH)


def as_text(found: Overview, width: int) -> RenderableType:
    """Return the overview for a terminal of so many columns."""
    shown = [name for name, least in ROOM.items() if width >= least]
    table = Table(title=f"Run {found.name}", title_justify="left", box=None, pad_edge=False)
    table.add_column("job", overflow="fold", no_wrap=width >= NARROW)
    for name in ["state", *shown]:
        table.add_column(name, overflow="fold")
    for status in found.jobs:
        cells = {
            "detail": status.detail,
            "figure": status.figure,
            "age": "" if status.made is None else age(status.made),
            "device": status.device,
        }
        state = Text(status.state, style=COLOURS[status.state])
        table.add_row(Text(status.job), state, *(Text(cells[name]) for name in shown))
    return Group(table, *(Text(line) for line in _last_lines(found)))


def _last_lines(found: Overview) -> list[str]:
    """Return what stands below the table."""
    lines = [f"also running: {text}" for text in found.elsewhere]
    counts = ", ".join(f"{count} {state}" for state, count in found.counts.items())
    lines.append(f"{len(found.jobs)} jobs: {counts}")
    if found.unknown_to_dvc and not found.running:
        lines.append(
            f"DVC does not know {found.unknown_to_dvc} of the results that are done: "
            "`python -m arnas adopt` tells it."
        )
    return lines
