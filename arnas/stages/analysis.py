"""Stage `analysis`: sizes, operations by depth, the search's trajectories, and examples."""

from __future__ import annotations

import dataclasses
from typing import Any

from arnas.data.splits import read_info
from arnas.evaluation.outcomes import load_examples
from arnas.models.complexity import count_macs, count_parameters
from arnas.models.registry import ModelSpec
from arnas.models.weight_files import read_origin
from arnas.pipeline.jobs import named, producers
from arnas.pipeline.runner import Job
from arnas.reporting.run.architecture import (
    alpha_rows,
    dataset_row,
    example_rows,
    gamma_rows,
    operation_rows,
)
from arnas.reporting.run.tables import Row, write_tables
from arnas.search.state import load_trajectory_and_gammas
from arnas.spaces.network import DerivedNetwork


def run(job: Job) -> None:
    """Read the run's cells, and only those, and write their tables."""
    tables: dict[str, list[Row]] = {
        name: [] for name in ("datasets", "models", "operations", "examples", "alphas", "gamma")
    }
    for instance in producers(job.instance.stage, "data", {}, job.params):
        path = instance.outputs["splits"]
        info, counts = read_info(path, instance.axes["dataset"])
        tables["datasets"].append(dataset_row(dataclasses.asdict(info), counts))
    for instance in producers(job.instance.stage, "search_multiobjective", {}, job.params):
        search, seed = instance.axes["search"], int(instance.axes["seed"])
        path = instance.outputs["state"]
        expected = {"search": search, "seed": seed, "stage": "multiobjective"}
        primitives = job.params.searches[search].space.primitives
        trajectory, gammas = load_trajectory_and_gammas(path, expected, len(primitives))
        origin = {"run": job.params.name, "search": search, "seed": seed}
        tables["alphas"] += alpha_rows(origin, trajectory, primitives)
        tables["gamma"] += gamma_rows(origin, gammas)
    drawn: set[tuple[str, int]] = set()
    for instance in producers(job.instance.stage, "retrain", {}, job.params):
        dataset, network, seed = named(instance.axes)
        path = instance.outputs["selected"]
        description, origin = read_origin(path, dataset, network, seed)
        cell = {"dataset": dataset, "model": network, "training": origin["loss"], "seed": seed}
        model = ModelSpec.from_json(description, str(path)).build()
        tables["models"].append({**cell, **_size(model, description)})
        if isinstance(model, DerivedNetwork) and (network, seed) not in drawn:
            drawn.add((network, seed))
            tables["operations"] += operation_rows(
                network, seed, model.genotype, model.plans, description["image_size"]
            )
    for instance in producers(job.instance.stage, "blackbox_examples", {}, job.params):
        dataset, network, seed = named(instance.axes)
        if seed == job.params.run.seeds[0]:
            path = instance.outputs["examples"]
            examples, said = load_examples(path, dataset, network, seed)
            cell = {"dataset": dataset, "model": network, "training": said["loss"], "seed": seed}
            count = job.params.report.example_images
            tables["examples"] += example_rows(cell, examples, count)
    write_tables(job.outputs, tables)
    job.report(1, 1, f"{len(tables['models'])} networks")


def _size(model: Any, description: dict[str, Any]) -> Row:
    """Return parameters and multiply-accumulates of a model at its image size."""
    side, channels = description["image_size"], description["in_channels"]
    return {
        "image": f"{channels}x{side}x{side}",
        "parameters": count_parameters(model),
        "macs": count_macs(model, (channels, side, side)),
    }
