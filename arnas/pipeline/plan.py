"""The pipeline in one table: per stage its axes, settings, inputs, outputs and command.

`workflow/` and `dvc.yaml` express the same table for their engines; tests compare each with this
one. Paths and settings are templates over the run's name, the search's dataset and the axes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Literal

import yaml

VERSIONS_PATH = Path(__file__).with_name("versions.yaml")

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
    """Return a safetensors file and its description as two named outputs or inputs."""
    return {key: f"{path}.safetensors", f"{key}_description": f"{path}.safetensors.json"}


def _tables(*names: str, long: tuple[str, ...] = ()) -> dict[str, str]:
    """Return tables as CSV and Markdown; `long` ones, which nobody reads as text, as CSV only."""
    kinds = ("csv", "md")
    short = {f"{name}_{kind}": f"{TABLES}/{name}.{kind}" for name in names for kind in kinds}
    return short | {f"{name}_csv": f"{TABLES}/{name}.csv" for name in long}


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
    """Key to path."""
    gpus: Literal["none", "one", "any"] = "none"
    """How many GPUs it can use; with several, ranks share its batches."""
    gathers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """For an aggregate: command to the keys of its outputs that enter, from every instance of the
    run that shares the aggregate's axes."""


_SPLITS = _tensors(DATA + "/splits", "splits")
_SEARCH_SPLITS = _tensors("results/{name}/data/{search_dataset}/splits", "splits")
_SELECTED = _tensors(RETRAIN + "/selected", "selected")
_WEIGHTS = {**_tensors(RETRAIN + "/last", "last"), **_SELECTED}

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
        gpus="one",
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
        gpus="one",
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
        gpus="any",
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
        gpus="any",
    ),
    Stage(
        "whitebox",
        "whitebox",
        ("dataset", "network", "seed"),
        ("whitebox", "threat.{dataset}"),
        _tensors(WHITEBOX + "/outcomes", "outcomes"),
        WHITEBOX + "/manifest.json",
        {**_SPLITS, **_WEIGHTS},
        gpus="any",
    ),
    Stage(
        "blackbox_examples",
        "blackbox_examples",
        ("dataset", "network", "seed"),
        ("blackbox", "threat.{dataset}"),
        _tensors(EXAMPLES + "/examples", "examples"),
        EXAMPLES + "/manifest.json",
        {**_SPLITS, **_SELECTED},
        gpus="any",
    ),
    Stage(
        "blackbox",
        "blackbox",
        ("dataset",),
        ("run", "blackbox"),
        _tensors(BLACKBOX + "/outcomes", "outcomes"),
        BLACKBOX + "/manifest.json",
        _SPLITS,
        gpus="any",
        gathers={
            "retrain": ("selected", "selected_description"),
            "blackbox_examples": ("examples", "examples_description"),
        },
    ),
    Stage(
        "analysis",
        "analysis",
        (),
        ("run", "report"),
        _tables("datasets", "models", "operations", "examples", long=("alphas", "gamma")),
        "results/{name}/analysis/manifest.json",
        gathers={
            "data": ("splits_description",),
            "search_multiobjective": ("state", "state_description"),
            "retrain": ("selected_description",),
            "blackbox_examples": ("examples", "examples_description"),
        },
    ),
    Stage(
        "tables",
        "tables",
        (),
        ("run", "data", "retrain"),
        _tables(
            "whitebox",
            "summary",
            "curve",
            "blackbox",
            "transfer",
            "checks",
            "search",
            "training",
            "published",
        )
        | {"metrics": TABLES + "/metrics.json"},
        "results/{name}/tables/manifest.json",
        gathers={
            "search_adversarial": ("history",),
            "search_multiobjective": ("history",),
            "retrain": ("history", "selected_description"),
            "whitebox": ("outcomes", "outcomes_description"),
            "blackbox": ("outcomes", "outcomes_description"),
        },
    ),
    Stage(
        "report",
        "report",
        (),
        (
            "run",
            "data",
            "threat",
            "supernet",
            "searches",
            "networks",
            "retrain",
            "whitebox",
            "blackbox",
            "report",
        ),
        {"html": "results/{name}/report.html"}
        | {figure: f"{REPORT}/{figure}.svg" for figure in FIGURES},
        REPORT + "/manifest.json",
        gathers={
            "data": ("splits", "splits_description"),
            "derive": ("genotype",),
            "blackbox_examples": ("examples", "examples_description"),
            "analysis": (
                "datasets_csv",
                "models_csv",
                "operations_csv",
                "examples_csv",
                "alphas_csv",
                "gamma_csv",
            ),
            "tables": (
                "whitebox_csv",
                "summary_csv",
                "curve_csv",
                "blackbox_csv",
                "transfer_csv",
                "checks_csv",
                "search_csv",
                "training_csv",
                "published_csv",
            ),
        },
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
    """Return the version of each stage, from `versions.yaml`."""
    versions: dict[str, int] = yaml.safe_load(VERSIONS_PATH.read_text(encoding="utf-8"))
    return versions
