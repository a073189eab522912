"""The pipeline in one table: what each stage reads, writes and runs.

This is the only place with paths. The commands of the command line are built from it, Snakemake's
rules take their inputs, outputs and settings from it, and `dvc.yaml` is generated from it
(``make plan``). Paths and settings are templates over the run's name, the dataset of the searches
and the stage's axes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Literal

import yaml

from arnas.runtime.errors import UserError

VERSIONS_PATH = Path(__file__).with_name("versions.yaml")

AXES: Mapping[str, str] = {
    "dataset": "A name of the settings' `data`.",
    "search": "A name of the settings' `searches`.",
    "network": "A name of `networks`, or of a search.",
    "seed": "The replicate, a whole number from 0 up.",
}
"""Every axis, with the help text of its option."""

Grid = Mapping[str, str]
"""Axis to the field of the settings' `run` that lists its values."""
ONCE: Grid = {}
DATASETS: Grid = {"dataset": "datasets"}
SEARCHES: Grid = {"search": "searches", "seed": "seeds"}
ZOO: Grid = {"dataset": "networks_on", "network": "networks", "seed": "seeds"}
SEARCHED: Grid = {"dataset": "searches_on", "network": "searches", "seed": "seeds"}

DATA = "results/{name}/data/{dataset}"
SEARCH = "results/{name}/search/{search}/{seed}"
RETRAIN = "results/{name}/retrain/{dataset}/{network}/{seed}"
WHITEBOX = "results/{name}/whitebox/{dataset}/{network}/{seed}"
EXAMPLES = "results/{name}/blackbox_examples/{dataset}/{network}/{seed}"
BLACKBOX = "results/{name}/blackbox/{dataset}"
TABLES = "results/tables/{name}"
REPORT = "results/{name}/report"
FIGURES = (
    "tradeoff",
    "epsilon_curve",
    "blackbox",
    "learning_curves",
    "gamma",
    "alphas",
    "operations",
    "examples",
)
"""Names of the report's figures."""


def _tensors(path: str, key: str) -> dict[str, str]:
    """Return a safetensors file as a named output or input."""
    return {key: f"{path}.safetensors"}


def _tables(*names: str, long: tuple[str, ...] = ()) -> dict[str, str]:
    """Return tables as CSV and Markdown; `long` ones, which nobody reads as text, as CSV only."""
    kinds = ("csv", "md")
    short = {f"{name}_{kind}": f"{TABLES}/{name}.{kind}" for name in names for kind in kinds}
    return short | {f"{name}_csv": f"{TABLES}/{name}.csv" for name in long}


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage, as templates."""

    name: str
    """Unique; also the rule's name in Snakemake and the stage's in DVC."""
    run: str
    """The function that does the work, as ``package.module:function``."""
    help: str
    """Shown by ``--help`` and by DVC."""
    message: str
    """Shown by Snakemake while a job runs."""
    grids: tuple[Grid, ...]
    """The jobs of a run: one for each combination of values, grid after grid."""
    params: tuple[str, ...]
    """Dotted paths of the settings that the stage reads."""
    outputs: Mapping[str, str]
    """Key to path."""
    manifest: str
    """Path of the manifest, an output too."""
    inputs: Mapping[str, str] = field(default_factory=dict)
    """Key to path."""
    gathers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """For an aggregate: command to the keys of its outputs that are read, from every job of the
    run that shares the aggregate's axes."""
    gpus: Literal["none", "one", "any"] = "none"
    """How many GPUs it can use; with several, ranks share its batches."""
    torch: bool = True
    """Whether its work takes PyTorch, which needs seconds to import."""
    command: str = ""
    """Name of the command line's command and key of `versions.yaml`; the stage's name if empty."""

    def __post_init__(self) -> None:
        """Fill in the command."""
        object.__setattr__(self, "command", self.command or self.name)

    @property
    def axes(self) -> tuple[str, ...]:
        """Return the names of the axes, in the order of the command line."""
        return tuple(self.grids[0])

    def log(self, kind: str, ending: str) -> str:
        """Return the path of a file that an engine keeps of a job beside its results."""
        place = "/".join([self.command, *(f"{{{axis}}}" for axis in self.axes)])
        return f"results/{{name}}/{kind}/{place}.{ending}"


_SPLITS = _tensors(DATA + "/splits", "splits")
_SEARCH_SPLITS = _tensors("results/{name}/data/{search_dataset}/splits", "splits")
_SELECTED = _tensors(RETRAIN + "/selected", "selected")
_WEIGHTS = {**_tensors(RETRAIN + "/last", "last"), **_SELECTED}

_ANALYSIS = _tables("datasets", "models", "operations", "examples", long=("alphas", "gamma"))
_RESULTS = _tables(
    *("whitebox", "summary", "curve", "blackbox", "transfer"),
    *("checks", "search", "training", "published"),
)
_SETTINGS = (
    *("run", "data", "threat", "supernet", "searches"),
    *("networks", "retrain", "whitebox", "blackbox", "report"),
)


def _retrain(name: str, grid: Grid, network: tuple[str, ...], inputs: Mapping[str, str]) -> Stage:
    """Return the stage that trains the networks of one grid."""
    return Stage(
        name=name,
        command="retrain",
        run="arnas.stages.retrain:run",
        help="Train a network from scratch, adversarially unless its loss is natural.",
        message="Training {network} on {dataset}, seed {seed}",
        grids=(grid,),
        params=(*network, "retrain.{dataset}", "threat.{dataset}"),
        inputs={**_SPLITS, **inputs},
        outputs={**_WEIGHTS, "history": RETRAIN + "/history.jsonl"},
        manifest=RETRAIN + "/manifest.json",
        gpus="any",
    )


STAGES: tuple[Stage, ...] = (
    Stage(
        name="data",
        run="arnas.stages.data:run",
        help="Prepare a dataset: images, labels and the four splits.",
        message="Preparing {dataset}",
        grids=(DATASETS,),
        params=("data.{dataset}",),
        outputs=_SPLITS,
        manifest=DATA + "/manifest.json",
    ),
    Stage(
        name="search_adversarial",
        run="arnas.stages.search:run_adversarial",
        help="Search, stage 1: weights and architecture on the adversarial loss.",
        message="Searching {search}, seed {seed}: adversarial stage",
        grids=(SEARCHES,),
        params=(
            "supernet",
            "searches.{search}.space",
            "searches.{search}.adversarial",
            "threat.{search_dataset}",
        ),
        inputs=_SEARCH_SPLITS,
        outputs={
            **_tensors(SEARCH + "/adversarial/state", "state"),
            "history": SEARCH + "/adversarial/history.jsonl",
        },
        manifest=SEARCH + "/adversarial/manifest.json",
        gpus="one",
    ),
    Stage(
        name="search_multiobjective",
        run="arnas.stages.search:run_multiobjective",
        help="Search, stage 2: architecture along both the natural and the adversarial loss.",
        message="Searching {search}, seed {seed}: multi-objective stage",
        grids=(SEARCHES,),
        params=(
            "supernet",
            "searches.{search}.space",
            "searches.{search}.multiobjective",
            "threat.{search_dataset}",
        ),
        inputs={**_SEARCH_SPLITS, **_tensors(SEARCH + "/adversarial/state", "before")},
        outputs={
            **_tensors(SEARCH + "/multiobjective/state", "state"),
            "history": SEARCH + "/multiobjective/history.jsonl",
        },
        manifest=SEARCH + "/multiobjective/manifest.json",
        gpus="one",
    ),
    Stage(
        name="derive",
        run="arnas.stages.derive:run",
        help="Derive the genotype of a search, and draw its cells.",
        message="Deriving the genotype of {search}, seed {seed}",
        grids=(SEARCHES,),
        params=("searches.{search}.derive", "searches.{search}.space"),
        inputs=_tensors(SEARCH + "/multiobjective/state", "state"),
        outputs={
            "genotype": SEARCH + "/genotype/genotype.json",
            "drawing": SEARCH + "/genotype/cells.svg",
        },
        manifest=SEARCH + "/genotype/manifest.json",
    ),
    _retrain("retrain_zoo", ZOO, ("networks.{network}",), {}),
    _retrain(
        "retrain_searched",
        SEARCHED,
        ("searches.{network}.network", "searches.{network}.space"),
        {"genotype": "results/{name}/search/{network}/{seed}/genotype/genotype.json"},
    ),
    Stage(
        name="whitebox",
        run="arnas.stages.whitebox:run",
        help="Attack a trained network with full knowledge of it.",
        message="Attacking {network} on {dataset}, seed {seed}",
        grids=(ZOO, SEARCHED),
        params=("whitebox", "threat.{dataset}"),
        inputs={**_SPLITS, **_WEIGHTS},
        outputs=_tensors(WHITEBOX + "/outcomes", "outcomes"),
        manifest=WHITEBOX + "/manifest.json",
        gpus="any",
    ),
    Stage(
        name="blackbox_examples",
        run="arnas.stages.blackbox:make_examples",
        help="Make adversarial examples on one network for the others, and attack it with Square.",
        message="Making examples on {network} on {dataset}, seed {seed}",
        grids=(ZOO, SEARCHED),
        params=("blackbox", "threat.{dataset}"),
        inputs={**_SPLITS, **_SELECTED},
        outputs=_tensors(EXAMPLES + "/examples", "examples"),
        manifest=EXAMPLES + "/manifest.json",
        gpus="any",
    ),
    Stage(
        name="blackbox",
        run="arnas.stages.blackbox:score",
        help="Show every network the examples that were made on the others.",
        message="Showing the examples to the networks on {dataset}",
        grids=(DATASETS,),
        params=("run", "blackbox"),
        inputs=_SPLITS,
        gathers={
            "retrain": ("selected",),
            "blackbox_examples": ("examples",),
        },
        outputs=_tensors(BLACKBOX + "/outcomes", "outcomes"),
        manifest=BLACKBOX + "/manifest.json",
        gpus="any",
    ),
    Stage(
        name="analysis",
        run="arnas.stages.analysis:run",
        help="Write the tables of sizes, operations, trajectories and examples.",
        message="Analysing the searches and the networks",
        grids=(ONCE,),
        params=("run", "report"),
        gathers={
            "data": ("splits",),
            "search_multiobjective": ("state",),
            "retrain": ("selected",),
            "blackbox_examples": ("examples",),
        },
        outputs=_ANALYSIS,
        manifest="results/{name}/analysis/manifest.json",
    ),
    Stage(
        name="tables",
        run="arnas.stages.tables:run",
        help="Write the result tables of the run.",
        message="Writing the tables",
        grids=(ONCE,),
        params=("run", "data", "retrain"),
        gathers={
            "search_adversarial": ("history",),
            "search_multiobjective": ("history",),
            "retrain": ("history", "selected"),
            "whitebox": ("outcomes",),
            "blackbox": ("outcomes",),
        },
        outputs=_RESULTS | {"metrics": TABLES + "/metrics.json"},
        manifest="results/{name}/tables/manifest.json",
        torch=False,
    ),
    Stage(
        name="report",
        run="arnas.stages.report:run",
        help="Write the report of the run, one HTML file, and its figures.",
        message="Writing the report",
        grids=(ONCE,),
        params=_SETTINGS,
        gathers={
            "data": ("splits",),
            "derive": ("genotype",),
            "whitebox": ("outcomes",),
            "blackbox_examples": ("examples",),
            "analysis": tuple(key for key in _ANALYSIS if key.endswith("_csv")),
            "tables": tuple(key for key in _RESULTS if key.endswith("_csv")),
        },
        outputs={"html": "results/{name}/report.html", "networks": "results/{name}/networks.html"}
        | {figure: f"{REPORT}/{figure}.svg" for figure in FIGURES},
        manifest=REPORT + "/manifest.json",
    ),
)


def stage_by_name(name: str) -> Stage:
    """Return the stage of that name."""
    return next(stage for stage in STAGES if stage.name == name)


def stage_by_command(command: str) -> Stage:
    """Return the first stage that a command runs; all of a command have the same axes."""
    return next(stage for stage in STAGES if stage.command == command)


@cache
def stage_versions() -> dict[str, int]:
    """Return the version of each stage, from `versions.yaml`.

    Raises
    ------
    UserError
        When a stage has none.
    """
    versions: dict[str, int] = yaml.safe_load(VERSIONS_PATH.read_text(encoding="utf-8"))
    missing = [stage.command for stage in STAGES if stage.command not in versions]
    if missing:
        raise UserError(
            f"{VERSIONS_PATH} has no version of {missing[0]}: add it, beginning with 1."
        )
    return versions
