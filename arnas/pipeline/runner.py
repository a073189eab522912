"""Running a job: check its inputs, do the work, record what it was made from."""

from __future__ import annotations

import pkgutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arnas.attacks.threat import ThreatOptions
from arnas.config.load import load_params
from arnas.config.params import Params
from arnas.data.paths import user_file
from arnas.pipeline.dvc import (
    check_settings,
    check_settings_kept,
    check_study,
    undeclared,
)
from arnas.pipeline.freshness import describe, stale_sources
from arnas.pipeline.jobs import Job, find_job, planned_jobs, producers
from arnas.pipeline.log import resumed_by, say
from arnas.runtime.errors import UserError
from arnas.runtime.files import check_recorded, sha256_file, unwritable, write_sealed
from arnas.runtime.history import state_folder
from arnas.runtime.manifest import environment, manifest_or_empty
from arnas.runtime.progress import Report, console_report
from arnas.runtime.resume import Checkpointer, checkpointing

if TYPE_CHECKING:  # a stage that reads tables takes no torch
    import torch
    from torch import nn

    from arnas.pipeline.session import Session

MOST_GPUS = {"none": 0, "one": 1, "any": None}


@dataclass(frozen=True)
class JobContext:
    """What the function of a stage without PyTorch works with."""

    params: Params
    job: Job
    report: Report

    @property
    def axes(self) -> Mapping[str, str]:
        """Return the axes of the job."""
        return self.job.axes

    @property
    def inputs(self) -> Mapping[str, Path]:
        """Return the input files by key."""
        return self.job.inputs

    @property
    def outputs(self) -> Mapping[str, Path]:
        """Return the output files by key."""
        return self.job.outputs

    @property
    def seed(self) -> int:
        """Return the replicate's seed."""
        return int(self.axes["seed"])

    @property
    def threat(self) -> ThreatOptions:
        """Return the threat model of the dataset."""
        return self.params.threat[self.axes["dataset"]]

    def gather(self, command: str) -> list[Job]:
        """Return the jobs of a command that the job, an aggregate, is made from."""
        return producers(self.job.stage, command, self.axes, self.params)


@dataclass(frozen=True)
class StageContext(JobContext):
    """What the function of any other stage works with."""

    device: torch.device
    state: Path
    """Where the run keeps what outlives a kill, outside every engine's outputs."""
    checkpointer: Checkpointer
    """Keeps the state of a loop there."""

    def placed(self, model: nn.Module, *, trained: bool = False) -> nn.Module:
        """Put a model on the device, where the ranks of the job share its batches.

        Parameters
        ----------
        model
            Changed in place.
        trained
            Whether batch statistics are taken, which then are those of the whole batch.
        """
        from arnas.models.sharing import share_batches, share_statistics

        model.to(self.device)
        return share_batches(share_statistics(model) if trained else model)


StageFunction = Callable[[Any], None]
"""Takes a `StageContext`, or a `JobContext` where the plan says that the stage has no PyTorch."""


def run_command(
    command: str, axes: Mapping[str, str], function: StageFunction | None = None
) -> None:
    """Run the job that a command line names.

    Settings come from the file that ``ARNAS_PARAMS`` names. The manifest appears last, so a job
    that was cut short has none.

    Parameters
    ----------
    command, axes
        The words of the command line.
    function
        Does the work; the one that the plan names by default.

    Raises
    ------
    UserError
        For wrong settings, unknown axes or missing inputs.
    """
    params = load_params()
    job = find_job(command, axes, params)
    work: StageFunction = function or pkgutil.resolve_name(job.stage.run)
    if job.stage.torch and _worked(params, job, work):
        return
    check_study()
    check_settings()
    _refuse_stale(job, params)
    before = _signatures(job)
    made_from = describe(job, params, _hashed_inputs(job))
    words = job.command[1:]
    with (
        resumed_by(words),
        _running(params, job, state_folder(command, made_from["fingerprint"])) as (context, record),
    ):
        for path in undeclared(job):
            say(
                job.title,
                f"dvc.yaml does not name {path}, so `dvc repro` will not see changes of it: "
                "`python -m arnas plan dvc > dvc.yaml` adds it",
            )
        start = time.monotonic()
        with _withdrawn(job):
            work(context)
            _refuse_replaced(job, before)
            check_settings_kept(job, params)
        outcome = {str(path): sha256_file(path) for path in job.outputs.values()}
        took = {"wall_seconds": round(time.monotonic() - start, 2)}
        write_sealed(job.manifest, made_from | {"outputs": outcome} | record | took)


@contextmanager
def _running(params: Params, job: Job, state: Path) -> Iterator[tuple[JobContext, dict[str, Any]]]:
    """Yield what the stage's function works with, and how it is computed, for the manifest."""
    result = str(job.manifest)
    if not job.stage.torch:
        with checkpointing(state, job.title, result), console_report(job.title) as report:
            yield JobContext(params, job, report), environment("cpu", 1)
        return
    from arnas.pipeline.session import session

    most = MOST_GPUS[job.stage.gpus]
    with session(job.title, job.command[1:], state, result=result, most_gpus=most) as running:
        yield _context(params, job, running), running.record


def _worked(params: Params, job: Job, work: StageFunction) -> bool:
    """Do the work if this process is a rank other than 0, and return whether it is."""
    from arnas.pipeline.session import worker_session
    from arnas.runtime.ranks import rank_info

    place = rank_info()
    if place is None:
        return False
    with worker_session(place) as running:
        # Written to scratch, and lost with it.
        outputs = {key: running.state / key / p.name for key, p in job.outputs.items()}
        work(_context(params, replace(job, outputs=outputs), running))
    return True


def _context(params: Params, job: Job, running: Session) -> StageContext:
    """Return what the function of a stage with PyTorch works with."""
    return StageContext(
        params, job, running.report, running.device, running.state, running.checkpointer
    )


def _refuse_stale(job: Job, params: Params) -> None:
    """Refuse inputs that are not of the present settings, or made from such.

    Where there is no readable manifest, the readers of the files judge them.
    """
    read = cache(manifest_or_empty)
    for source, reason in stale_sources(job, params, planned_jobs(params), read):
        if read(source.manifest):
            raise UserError(
                f"{source.title}, which {job.title} is made from, is not current ({reason}): run "
                f"`snakemake --cores all {job.manifest}` or `dvc repro`, which make it again first."
            )


def _place(job: Job, path: Path) -> Path:
    """Return where an input lies: a file of the user's own may be outside an experiment's copy."""
    return user_file(path) if path in job.user_files else path


def _signatures(job: Job) -> dict[Path, tuple[int, ...]]:
    """Return what changes when an input is replaced, even by an equal file."""
    places = [_place(job, path) for path in job.inputs.values()]
    found = {place: place.stat() for place in places if place.is_file()}
    return {path: (stat.st_ino, stat.st_mtime_ns, stat.st_size) for path, stat in found.items()}


def _refuse_replaced(job: Job, before: Mapping[Path, tuple[int, ...]]) -> None:
    """Refuse to record a result whose inputs were replaced while it was made."""
    now = _signatures(job)
    replaced = [path for path in before if now.get(path) != before[path]]
    if replaced:
        raise UserError(
            f"{replaced[0]} was replaced while {job.title} read it, so its result is not recorded: "
            "run the same command again."
        )


def _hashed_inputs(job: Job) -> dict[str, str]:
    """Return the inputs by path with their sha256.

    A file of the user's own may be missing: its reader says better what is wrong with it.
    """
    found = {}
    for path in job.inputs.values():
        own, place = path in job.user_files, _place(job, path)
        if place.is_file():
            sha256 = sha256_file(place)
            found[str(path)] = sha256
            if not own:
                check_recorded(place, partial(str, sha256))
        elif not own:
            raise UserError(
                f"{path} is missing, which {job.title} reads: run `snakemake --cores all "
                f"{job.manifest}`, which makes it first."
            )
    return found


@contextmanager
def _withdrawn(job: Job) -> Iterator[None]:
    """Take the manifest away while the outputs change; after a failure it returns if none did."""
    manifest = job.manifest
    aside = manifest.with_name(f".{manifest.name}.withdrawn")
    outputs = manifest_or_empty(manifest).get("outputs", {})
    try:
        # Before the work, not after hours of it.
        for path in job.files:
            path.parent.mkdir(parents=True, exist_ok=True)
        if manifest.is_file():
            manifest.replace(aside)  # which needs no room on the disk, neither way
    except OSError as error:
        raise unwritable(manifest, error) from None
    try:
        yield
    except BaseException:
        unchanged = all(
            path.is_file() and sha256_file(path) == outputs.get(str(path))
            for path in job.outputs.values()
        )
        if aside.is_file() and unchanged:
            aside.replace(manifest)
        raise
    finally:
        aside.unlink(missing_ok=True)
