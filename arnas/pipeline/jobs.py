"""Instances of the plan: its stages with their axes filled in, for the settings of a run."""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arnas.config.params import Params
from arnas.config.references import referenced_files
from arnas.data.sources.registry import NpzOptions
from arnas.pipeline.plan import STAGES, Stage, stage_by_name
from arnas.runtime.errors import UserError

USER_FILE = "user_file"
"""First part of the key of an input that no stage makes."""


@dataclass(frozen=True)
class Job:
    """A stage with its axes filled in."""

    stage: Stage
    axes: Mapping[str, str]
    """Axis to value, in the order of the command line."""
    params: tuple[str, ...]
    inputs: Mapping[str, Path]
    outputs: Mapping[str, Path]
    manifest: Path

    @property
    def command(self) -> tuple[str, ...]:
        """Return the words that both engines run, from ``python`` on."""
        options = itertools.chain.from_iterable((f"--{k}", v) for k, v in self.axes.items())
        return ("python", "-m", "arnas", self.stage.command, *options)

    @property
    def files(self) -> tuple[Path, ...]:
        """Return the paths of everything that it writes, the manifest last."""
        return (*self.outputs.values(), self.manifest)

    @property
    def user_files(self) -> tuple[Path, ...]:
        """Return the inputs that no stage makes: data and code of the user's own."""
        return tuple(p for key, p in self.inputs.items() if key.startswith(USER_FILE))

    @property
    def title(self) -> str:
        """Return a short name for messages."""
        return " ".join([self.stage.command, *("/".join(self.axes.values()).split())])


def make_job(stage: Stage, axes: Mapping[str, str], params: Params) -> Job:
    """Fill in the axes of a stage."""
    fields = {"name": params.name, "search_dataset": params.run.search_dataset, **axes}

    def paths(templates: Mapping[str, str]) -> dict[str, Path]:
        return {key: Path(template.format(**fields)) for key, template in templates.items()}

    settings = tuple(template.format(**fields) for template in stage.params)
    files = referenced_files([lookup(params, path) for path in settings])
    if stage.name == "data" and isinstance(data := params.data[axes["dataset"]], NpzOptions):
        files.insert(0, Path(data.path))
    return Job(
        stage,
        dict(axes),
        settings,
        paths(stage.inputs)
        | gathered(stage, axes, params)
        | {f"{USER_FILE}/{path}": path for path in files},
        paths(stage.outputs),
        Path(stage.manifest.format(**fields)),
    )


def cells(stage: Stage, params: Params) -> Iterator[dict[str, str]]:
    """Yield the axes of every job that the run has."""
    for grid in stage.grids:
        for values in itertools.product(*(getattr(params.run, field) for field in grid.values())):
            yield dict(zip(grid, map(str, values), strict=True))


def planned_jobs(params: Params) -> list[Job]:
    """Return every stage job of the run, producers before consumers."""
    return [make_job(stage, axes, params) for stage in STAGES for axes in cells(stage, params)]


def sources(planned: Sequence[Job]) -> dict[str, list[Job]]:
    """Return by title the jobs that make the inputs of each job, without repetition."""
    makers = {path: job for job in planned for path in job.outputs.values()}
    return {
        job.title: list(
            {
                makers[path].title: makers[path] for path in job.inputs.values() if path in makers
            }.values()
        )
        for job in planned
    }


def upstream(titles: Collection[str], made_from: Mapping[str, Sequence[Job]]) -> set[str]:
    """Return the titles and those of everything that they are made from."""
    found: set[str] = set()
    left = list(titles)
    while left:
        title = left.pop()
        if title not in found:
            found.add(title)
            left += [source.title for source in made_from[title]]
    return found


def gathered(stage: Stage, axes: Mapping[str, str], params: Params) -> dict[str, Path]:
    """Return what an aggregate is made from, that of the run's cells only, by job and key."""
    return {
        "/".join([producer.stage.command, *producer.axes.values(), key]): producer.outputs[key]
        for command in stage.gathers
        for producer in producers(stage, command, axes, params)
        for key in stage.gathers[command]
    }


def producers(stage: Stage, command: str, axes: Mapping[str, str], params: Params) -> list[Job]:
    """Return the jobs of a command that an aggregate gathers from."""
    return [
        make_job(other, found, params)
        for other in STAGES
        if other.command == command
        for found in cells(other, params)
        if all(found[axis] == axes[axis] for axis in stage.axes)
    ]


def named(axes: Mapping[str, str]) -> tuple[str, str, int]:
    """Return the dataset, the network and the seed of a job by its axes."""
    return axes["dataset"], axes["network"], int(axes["seed"])


def find_job(command: str, axes: Mapping[str, str], params: Params) -> Job:
    """Return the job that a command line names.

    Cells outside `run` are allowed as long as their settings exist.

    Raises
    ------
    UserError
        When an axis names something that the settings do not have.
    """
    for axis, block in (("dataset", params.data), ("search", params.searches)):
        if axis in axes and axes[axis] not in block:
            raise _unknown(axis, axes[axis], block, "data" if axis == "dataset" else "searches")
    if "dataset" in axes and command != "data":
        for key in ("threat", "retrain"):
            if axes["dataset"] not in getattr(params, key):
                raise _unknown("dataset", axes["dataset"], getattr(params, key), key)
    known = {**params.networks, **params.searches}
    if "network" in axes and axes["network"] not in known:
        raise _unknown("network", axes["network"], known, "networks and searches")
    seed = axes.get("seed", "0")
    if not re.fullmatch("0|[1-9][0-9]{0,17}", seed):
        raise UserError(f"--seed is '{seed:.99}': allowed are whole numbers from 0 up, as in 7.")
    name = command
    if command == "retrain":
        name = "retrain_searched" if axes["network"] in params.searches else "retrain_zoo"
    return make_job(stage_by_name(name), axes, params)


def _unknown(axis: str, value: str, known: Mapping[str, Any], block: str) -> UserError:
    """Return the error for an axis value without settings."""
    return UserError(
        f"--{axis} is '{value}', but the settings' {block} has {', '.join(known) or 'no entries'}: "
        "name one of these, or add it there."
    )


def lookup(params: Params, path: str, *, defaults: bool = False) -> Any:
    """Return the settings at a dotted path as JSON values; without `defaults` only the others.

    So results stay current when a new setting appears whose default is the old behaviour, and a
    default written out is no change.
    """
    value: Any = params
    for key in path.split("."):
        value = value[key] if isinstance(value, dict) else getattr(value, key)
    if isinstance(value, dict):
        return {key: lookup(params, f"{path}.{key}", defaults=defaults) for key in value}
    return value.model_dump(mode="json", exclude_defaults=not defaults)
