"""The pipeline in one table: per stage its axes, settings, inputs, outputs and command.

`workflow/` and `dvc.yaml` express the same table for their engines; tests compare each with this
one. Paths and settings are templates over the run's name, the search's dataset and the axes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from arnas.config.params import Params
from arnas.data.options import NpzOptions
from arnas.runtime.errors import UserError

VERSIONS_PATH = Path(__file__).with_name("versions.yaml")

DATA = "results/{name}/data/{dataset}"
SEARCH = "results/{name}/search/{search}/{seed}"
RETRAIN = "results/{name}/retrain/{dataset}/{network}/{seed}"
WHITEBOX = "results/{name}/whitebox/{dataset}/{network}/{seed}"
TABLES = "results/tables/{name}"
USER_FILE = "user_file"
"""Key of the input that no stage makes."""


def _tensors(path: str, key: str) -> dict[str, str]:
    """Return a safetensors file and its description as two named outputs or inputs."""
    return {key: f"{path}.safetensors", f"{key}_description": f"{path}.safetensors.json"}


@dataclass(frozen=True)
class Stage:
    """One stage, as templates."""

    name: str
    """Unique; also the rule's name in Snakemake and the stage's in DVC."""
    command: str
    """Name of the command line's command and key of `versions.yaml`."""
    axes: tuple[str, ...]
    """Names of the axes, in the order of the command line."""
    params: tuple[str, ...]
    """Dotted paths of the settings that the stage reads."""
    outputs: Mapping[str, str]
    """Key to path."""
    manifest: str
    """Path of the manifest, an output too."""
    inputs: Mapping[str, str] = field(default_factory=dict)
    """Key to path; an aggregate's inputs come from `aggregate_inputs`."""
    aggregate: bool = False


_SPLITS = _tensors(DATA + "/splits", "splits")
_SEARCH_SPLITS = _tensors("results/{name}/data/{search_dataset}/splits", "splits")
_WEIGHTS = {**_tensors(RETRAIN + "/last", "last"), **_tensors(RETRAIN + "/selected", "selected")}

STAGES: tuple[Stage, ...] = (
    Stage(
        "data",
        "data",
        ("dataset",),
        ("data.{dataset}",),
        _SPLITS,
        DATA + "/manifest.json",
    ),
    Stage(
        "search_adversarial",
        "search_adversarial",
        ("search", "seed"),
        (
            "supernet",
            "searches.{search}.space",
            "searches.{search}.adversarial",
            "threat.{search_dataset}",
        ),
        {
            **_tensors(SEARCH + "/adversarial/state", "state"),
            "history": SEARCH + "/adversarial/history.jsonl",
        },
        SEARCH + "/adversarial/manifest.json",
        _SEARCH_SPLITS,
    ),
    Stage(
        "search_multiobjective",
        "search_multiobjective",
        ("search", "seed"),
        (
            "supernet",
            "searches.{search}.space",
            "searches.{search}.multiobjective",
            "threat.{search_dataset}",
        ),
        {
            **_tensors(SEARCH + "/multiobjective/state", "state"),
            "history": SEARCH + "/multiobjective/history.jsonl",
        },
        SEARCH + "/multiobjective/manifest.json",
        {**_SEARCH_SPLITS, **_tensors(SEARCH + "/adversarial/state", "before")},
    ),
    Stage(
        "derive",
        "derive",
        ("search", "seed"),
        ("searches.{search}.derive", "searches.{search}.space"),
        {
            "genotype": SEARCH + "/genotype/genotype.json",
            "drawing": SEARCH + "/genotype/cells.svg",
        },
        SEARCH + "/genotype/manifest.json",
        _tensors(SEARCH + "/multiobjective/state", "state"),
    ),
    Stage(
        "retrain_zoo",
        "retrain",
        ("dataset", "network", "seed"),
        ("networks.{network}", "retrain.{dataset}", "threat.{dataset}"),
        {**_WEIGHTS, "history": RETRAIN + "/history.jsonl"},
        RETRAIN + "/manifest.json",
        _SPLITS,
    ),
    Stage(
        "retrain_searched",
        "retrain",
        ("dataset", "network", "seed"),
        (
            "searches.{network}.network",
            "searches.{network}.space",
            "retrain.{dataset}",
            "threat.{dataset}",
        ),
        {**_WEIGHTS, "history": RETRAIN + "/history.jsonl"},
        RETRAIN + "/manifest.json",
        {**_SPLITS, "genotype": "results/{name}/search/{network}/{seed}/genotype/genotype.json"},
    ),
    Stage(
        "whitebox",
        "whitebox",
        ("dataset", "network", "seed"),
        ("whitebox", "threat.{dataset}"),
        _tensors(WHITEBOX + "/outcomes", "outcomes"),
        WHITEBOX + "/manifest.json",
        {**_SPLITS, **_WEIGHTS},
    ),
    Stage(
        "tables",
        "tables",
        (),
        ("run",),
        {
            f"{table}_{kind}": f"{TABLES}/{table}.{kind}"
            for table in ("whitebox", "summary", "search", "training", "models")
            for kind in ("csv", "md")
        }
        | {"metrics": TABLES + "/metrics.json"},
        "results/{name}/manifest.json",
        aggregate=True,
    ),
)


@dataclass(frozen=True)
class Instance:
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
    def title(self) -> str:
        """Return a short name for messages."""
        return " ".join([self.stage.command, *("/".join(self.axes.values()).split())])


def instantiate(stage: Stage, axes: Mapping[str, str], params: Params) -> Instance:
    """Fill in the axes of a stage."""
    fields = {"name": params.name, "search_dataset": params.run.search_dataset, **axes}

    def paths(templates: Mapping[str, str]) -> dict[str, Path]:
        return {key: Path(template.format(**fields)) for key, template in templates.items()}

    inputs = paths(stage.inputs)
    if stage.aggregate:
        inputs = aggregate_inputs(params)
    elif stage.name == "data":
        inputs = _user_files(params, axes["dataset"])
    return Instance(
        stage,
        dict(axes),
        tuple(template.format(**fields) for template in stage.params),
        inputs,
        paths(stage.outputs),
        Path(stage.manifest.format(**fields)),
    )


def _user_files(params: Params, dataset: str) -> dict[str, Path]:
    """Return the files of the user's own that a dataset is read from."""
    options = params.data[dataset]
    return {USER_FILE: Path(options.path)} if isinstance(options, NpzOptions) else {}


def cells(stage: Stage, params: Params) -> Iterator[dict[str, str]]:
    """Yield the axes of every instance that the run has."""
    run = params.run
    seeds = [str(seed) for seed in run.seeds]
    zoo = [(d, n, s) for d in run.networks_on for n in run.networks for s in seeds]
    searched = [(d, n, s) for d in run.searches_on for n in run.searches for s in seeds]
    grid: Mapping[str, list[Any]] = {
        "data": [(dataset,) for dataset in run.datasets],
        "retrain_zoo": zoo,
        "retrain_searched": searched,
        "whitebox": zoo + searched,
        "tables": [()],
    }
    searches = [(search, seed) for search in run.searches for seed in seeds]
    for values in grid.get(stage.name, searches):
        yield dict(zip(stage.axes, values, strict=True))


def instances(params: Params) -> list[Instance]:
    """Return every stage instance of the run, producers before consumers."""
    return [instantiate(stage, axes, params) for stage in STAGES for axes in cells(stage, params)]


def aggregate_inputs(params: Params) -> dict[str, Path]:
    """Return the files that the tables are made from, those of the run's cells only."""
    found: dict[str, Path] = {}
    for stage in STAGES:
        if stage.name in {"data", "tables"}:
            continue
        for axes in cells(stage, params):
            instance = instantiate(stage, axes, params)
            for key, path in instance.outputs.items():
                if _summarised(stage.name, key):
                    found["/".join([stage.command, *axes.values(), key])] = path
    return found


def _summarised(stage: str, key: str) -> bool:
    """Return whether an output enters the tables: figures and descriptions, never weights."""
    if stage.startswith("search_"):
        return key == "history"
    if stage.startswith("retrain"):
        return key in {"history", "selected_description"}
    return key in {"genotype", "outcomes", "outcomes_description"}


def find_instance(command: str, axes: Mapping[str, str], params: Params) -> Instance:
    """Return the instance that a command line names.

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
    if "network" in axes and axes["network"] not in {**params.networks, **params.searches}:
        known = {**params.networks, **params.searches}
        raise _unknown("network", axes["network"], known, "networks and searches")
    seed = axes.get("seed", "0")
    if not (seed.isascii() and seed.isdecimal() and seed == str(int(seed))):
        raise UserError(f"--seed is '{seed}': allowed are whole numbers from 0 up, as in 7.")
    name = command
    if command == "retrain":
        name = "retrain_searched" if axes["network"] in params.searches else "retrain_zoo"
    return instantiate(stage_by_name(name), axes, params)


def _unknown(axis: str, value: str, known: Mapping[str, Any], block: str) -> UserError:
    """Return the error for an axis value without settings."""
    return UserError(
        f"--{axis} is '{value}', but the settings' {block} has {', '.join(known) or 'no entries'}: "
        "name one of these, or add it there."
    )


def stage_by_name(name: str) -> Stage:
    """Return the stage of that name."""
    return next(stage for stage in STAGES if stage.name == name)


def stage_by_command(command: str) -> Stage:
    """Return the first stage that a command runs; all of a command have the same axes."""
    return next(stage for stage in STAGES if stage.command == command)


@cache
def stage_versions() -> dict[str, int]:
    """Return the version of each stage, from `versions.yaml`."""
    versions: dict[str, int] = yaml.safe_load(VERSIONS_PATH.read_text(encoding="utf-8"))
    return versions


def lookup(params: Params, path: str) -> Any:
    """Return the settings at a dotted path as JSON values, those at their defaults left out.

    So results stay current when a new setting appears whose default is the old behaviour, and a
    default written out is no change.
    """
    value: Any = params
    for key in path.split("."):
        value = value[key] if isinstance(value, dict) else getattr(value, key)
    return value.model_dump(mode="json", exclude_defaults=True)
