"""The pipeline as Snakemake sees it: what its rules take from the plan, and the times of files.

Snakemake judges results by times where manifests would do. DVC writes the files that it checks out
in any order, so times are put right before Snakemake looks, wherever the contents agree.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from arnas.config.load import load_params
from arnas.config.params import Params
from arnas.pipeline.freshness import token_path, why_stale, write_token
from arnas.pipeline.jobs import Job, find_job, lookup, planned_jobs
from arnas.pipeline.plan import AXES, Stage, stage_by_name, stage_versions
from arnas.runtime.errors import UserError, one_sentence
from arnas.runtime.files import sha256_file
from arnas.runtime.manifest import manifest_or_empty

InputFunction = Callable[[Mapping[str, str]], Any]
FUTURE = 60.0
"""Seconds that the clock of another machine may be ahead: a job takes as long as that."""


@dataclass(frozen=True)
class Rules:
    """What the rules of a workflow take from the plan; axes stay wildcards."""

    params: Params
    judges: bool
    """Whether results are judged and tokens written: true of the main process only."""

    def inputs(self, name: str) -> dict[str, str | InputFunction]:
        """Return the inputs of a rule: those of the plan, and the token of its job.

        What an aggregate gathers and files of the user's own depend on the job, as the token does.
        """
        stage = stage_by_name(name)
        found: dict[str, str | InputFunction] = dict(self._filled(stage.inputs))
        if stage.gathers:
            found["gathered"] = lambda wildcards: self._others(stage, wildcards, own=False)
        found["user_files"] = lambda wildcards: self._others(stage, wildcards, own=True)
        found["token"] = lambda wildcards: self._token(stage, wildcards)
        return found

    def outputs(self, name: str) -> dict[str, str]:
        """Return the outputs of a rule, with the manifest."""
        stage = stage_by_name(name)
        return self._filled({**stage.outputs, "manifest": stage.manifest})

    def settings(self, name: str) -> dict[str, int | InputFunction]:
        """Return the settings of a rule by their last name, and the version of its stage."""
        stage = stage_by_name(name)
        found: dict[str, int | InputFunction] = {"version": stage_versions()[stage.command]}
        for template in stage.params:
            words = [word for word in template.split(".") if "{" not in word]
            found[words[-1]] = self._setting(template)
        return found

    def log_file(self, name: str) -> str:
        """Return the path of a rule's log."""
        return self._fill(stage_by_name(name).log("logs", "txt"))

    def benchmark_file(self, name: str) -> str:
        """Return the path of a rule's benchmark."""
        return self._fill(stage_by_name(name).log("benchmarks", "tsv"))

    def message(self, name: str) -> str:
        """Return the message of a rule."""
        return stage_by_name(name).message.format(**_wildcards("wildcards."))

    def command(self, name: str) -> str:
        """Return the shell command of a rule; one that uses GPUs is told how many.

        A Ctrl-C reaches both sides of the pipe: `tee -i` stays to write what the stage says last.
        """
        stage = stage_by_name(name)
        gpus = "" if stage.gpus == "none" else "ARNAS_GPUS={resources.gpu} "
        options = "".join(f" --{axis} {{wildcards.{axis}}}" for axis in stage.axes)
        return f"{gpus}python -m arnas {stage.command}{options} 2>&1 | tee -i {{log}}"

    def files(self, name: str, key: str) -> list[str]:
        """Return one output of every job that a command has in the run."""
        planned = [i for i in self._planned if name in {i.stage.name, i.stage.command}]
        return [str(job.outputs[key]) for job in planned]

    @cached_property
    def _planned(self) -> list[Job]:
        return planned_jobs(self.params)

    def _filled(self, templates: Mapping[str, str]) -> dict[str, str]:
        return {key: self._fill(template) for key, template in templates.items()}

    def _fill(self, template: str) -> str:
        """Return a template with the run's names in it and its axes as wildcards."""
        run = {"name": self.params.name, "search_dataset": self.params.run.search_dataset}
        return template.format(**run, **_wildcards())

    def _job(self, stage: Stage, wildcards: Mapping[str, str]) -> Job:
        axes = {axis: wildcards[axis] for axis in stage.axes}
        return find_job(stage.command, axes, self.params)

    def _others(self, stage: Stage, wildcards: Mapping[str, str], *, own: bool) -> list[str]:
        """Return the inputs of a job that its stage has no template for."""
        job = self._job(stage, wildcards)
        others = [path for key, path in job.inputs.items() if key not in stage.inputs]
        return [str(path) for path in others if (path in job.user_files) == own]

    def _token(self, stage: Stage, wildcards: Mapping[str, str]) -> str:
        job = self._job(stage, wildcards)
        path = write_token(job, self.params, self._planned) if self.judges else None
        return str(path or token_path(job, self.params))

    def _setting(self, template: str) -> InputFunction:
        def find(wildcards: Mapping[str, str]) -> Any:
            axes = {axis: wildcards[axis] for axis in AXES if f"{{{axis}}}" in template}
            search_dataset = self.params.run.search_dataset
            return lookup(self.params, template.format(search_dataset=search_dataset, **axes))

        return find


def _wildcards(prefix: str = "") -> dict[str, str]:
    """Return each axis with its wildcard."""
    return {axis: f"{{{prefix}{axis}}}" for axis in AXES}


def keep_tables(arguments: Sequence[str]) -> None:
    """Refuse Snakemake's ``--delete-all-output``, which would delete committed tables too."""
    if any(argument.startswith("--delete-a") for argument in arguments):
        with one_sentence():
            raise UserError(
                "--delete-all-output would delete results/tables too, which are committed: delete "
                "the other folders of results/ by hand, or use `make clean` in a checkout."
            )


def check_exported(path: str | None, params: Params) -> None:
    """Refuse ``ARNAS_PARAMS`` with other settings than Snakemake's, which would be passed over."""
    with one_sentence():
        if path and load_params(Path(path)) != params:
            raise UserError(
                f"ARNAS_PARAMS names {path}, but Snakemake reads other settings: unset it, or add "
                f"--configfile {path}."
            )


def put_in_order(params: Params) -> None:
    """Make current results no older than their inputs; contents stay as they are.

    Results of a clock that was ahead are dated a second ago, because Snakemake fails a job that
    ends with outputs older than its inputs. Files of the user's own keep their dates.

    Raises
    ------
    UserError
        For a file of the user's own from the future.
    """
    read, planned = cache(manifest_or_empty), planned_jobs(params)
    now = time.time_ns() - 10**9
    for job in planned:
        for path in result_files(job, params):
            with suppress(OSError):  # it is missing, or belongs to somebody else
                if path.stat().st_mtime_ns > now:
                    os.utime(path, ns=(now, now))
                if path.lstat().st_mtime_ns > now:
                    os.utime(path, ns=(now, now), follow_symlinks=False)
        _refuse_future(job)
    for job in planned:
        with suppress(OSError):  # files are missing, or belong to somebody else
            times = _made_at(job, params)
            younger = _younger(job, min(times.values()))
            if not younger or why_stale(job, params, read) is not None:
                continue
            inputs = read(job.manifest)["inputs"]
            if all(sha256_file(path) == inputs.get(str(path)) for path in younger):
                newest = max(younger.values())
                for path in [path for path, stamp in times.items() if stamp < newest]:
                    # Of a link itself: the file behind it is the cache's.
                    os.utime(path, ns=(newest, newest), follow_symlinks=False)


def result_files(job: Job, params: Params) -> list[Path]:
    """Return the files that Snakemake counts among the outputs of a job: also its benchmark."""
    benchmark = job.stage.log("benchmarks", "tsv").format(name=params.name, **job.axes)
    return [*job.files, Path(benchmark)]


def _refuse_future(job: Job) -> None:
    """Refuse a file of the user's own that is dated after the end of a short job."""
    for path in job.user_files:
        with one_sentence():
            if path.exists() and path.stat().st_mtime > time.time() + FUTURE:
                raise UserError(
                    f"{path} is dated in the future, and Snakemake would discard what {job.title} "
                    f"makes from it: `touch {path}`, or put the clock right."
                )


def _made_at(job: Job, params: Params) -> dict[Path, int]:
    """Return when each file of a result was written (ns); a missing output is an `OSError`."""
    *files, benchmark = result_files(job, params)
    made = [*files, benchmark] if benchmark.exists() else files
    return {path: path.lstat().st_mtime_ns for path in made}


def _younger(job: Job, since: int) -> dict[Path, int]:
    """Return the inputs that were written after a time (ns), and when."""
    written = {
        path: max(path.stat().st_mtime_ns, path.lstat().st_mtime_ns) for path in job.inputs.values()
    }
    return {path: stamp for path, stamp in written.items() if stamp > since}
