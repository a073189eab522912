"""Stage `analysis`: sizes, operations by depth, the search's trajectories, and examples."""

from __future__ import annotations

import dataclasses
from typing import Any

from arnas.data.splits import read_info
from arnas.evaluation.outcomes import load_examples
from arnas.models.complexity import count_macs, count_parameters
from arnas.models.origin import read_origin
from arnas.models.registry import ModelSpec
from arnas.pipeline.jobs import named
from arnas.pipeline.runner import StageContext
from arnas.reporting.run.architecture import (
    alpha_rows,
    dataset_row,
    example_rows,
    gamma_rows,
    operation_rows,
)
from arnas.reporting.run.tables import Row, write_tables
from arnas.search.state import load_trajectory
from arnas.spaces.network import DerivedNetwork


def run(context: StageContext) -> None:
    """Read the run's cells, and only those, and write their tables."""
    tables: dict[str, list[Row]] = {
        name: [] for name in ("datasets", "models", "operations", "examples", "alphas", "gamma")
    }
    for job in context.gather("data"):
        path = job.outputs["splits"]
        info, counts = read_info(path, job.axes["dataset"])
        tables["datasets"].append(dataset_row(dataclasses.asdict(info), counts))
    for job in context.gather("search_multiobjective"):
        search, seed = job.axes["search"], int(job.axes["seed"])
        path = job.outputs["state"]
        expected = {"search": search, "seed": seed, "stage": "multiobjective"}
        primitives = context.params.searches[search].space.primitives
        trajectory, gammas = load_trajectory(path, expected, len(primitives))
        origin = {"run": context.params.name, "search": search, "seed": seed}
        tables["alphas"] += alpha_rows(origin, trajectory, primitives)
        tables["gamma"] += gamma_rows(origin, gammas)
    drawn: set[tuple[str, int]] = set()
    for job in context.gather("retrain"):
        dataset, network, seed = named(job.axes)
        path = job.outputs["selected"]
        description, origin = read_origin(path, dataset, network, seed)
        cell = {"dataset": dataset, "model": network, "training": origin["loss"], "seed": seed}
        model = ModelSpec.from_json(description, str(path)).build()
        tables["models"].append({**cell, **_size(model, description)})
        if isinstance(model, DerivedNetwork) and (network, seed) not in drawn:
            drawn.add((network, seed))
            tables["operations"] += operation_rows(
                network, seed, model.genotype, model.plans, description["image_size"]
            )
    for job in context.gather("blackbox_examples"):
        dataset, network, seed = named(job.axes)
        if seed == context.params.run.seeds[0]:
            path = job.outputs["examples"]
            examples, said = load_examples(path, dataset, network, seed)
            cell = {"dataset": dataset, "model": network, "training": said["loss"], "seed": seed}
            count = context.params.report.example_images
            tables["examples"] += example_rows(cell, examples, count)
    write_tables(context.outputs, tables)
    context.report(1, 1, f"{len(tables['models'])} networks")


def _size(model: Any, description: dict[str, Any]) -> Row:
    """Return parameters and multiply-accumulates of a model at its image size."""
    side, channels = description["image_size"], description["in_channels"]
    return {
        "image": f"{channels}x{side}x{side}",
        "parameters": count_parameters(model),
        "macs": count_macs(model, (channels, side, side)),
    }
