"""Stage `analysis`: sizes, operations by depth, the search's trajectories, and examples."""

from __future__ import annotations

from typing import Any

from arnas.models.complexity import count_macs, count_parameters
from arnas.models.registry import model_from_description
from arnas.reporting.architecture import (
    alpha_rows,
    dataset_row,
    example_rows,
    gamma_rows,
    operation_rows,
)
from arnas.reporting.tables import Row, write_tables
from arnas.runtime.files import load_tensors, read_json
from arnas.search.state import load_trajectory
from arnas.spaces.network import DerivedNetwork
from arnas.stages.instances import producers
from arnas.stages.run import Job


def run(job: Job) -> None:
    """Read the run's cells, and only those, and write their tables."""
    tables: dict[str, list[Row]] = {
        name: [] for name in ("datasets", "models", "operations", "examples", "alphas", "gamma")
    }
    for instance in producers(job.instance.stage, "data", {}, job.params):
        content = read_json(instance.outputs["splits_description"])["description"]
        tables["datasets"].append(dataset_row(content["info"], content["counts"]))
    for instance in producers(job.instance.stage, "search_multiobjective", {}, job.params):
        search, seed = instance.axes["search"], int(instance.axes["seed"])
        path = instance.outputs["state"]
        tables["alphas"] += alpha_rows(search, seed, load_trajectory(path))
        tables["gamma"] += gamma_rows(search, seed, load_tensors(path).tensors["gammas"])
    drawn: set[tuple[str, int]] = set()
    for instance in producers(job.instance.stage, "retrain", {}, job.params):
        content = read_json(instance.outputs["selected_description"])["description"]
        network, seed = instance.axes["network"], int(instance.axes["seed"])
        cell = {
            "dataset": instance.axes["dataset"],
            "model": network,
            "training": content["provenance"]["loss"],
            "seed": seed,
        }
        model = model_from_description(content["model"], "the weights' description")
        tables["models"].append({**cell, **_size(model, content["model"])})
        if isinstance(model, DerivedNetwork) and (network, seed) not in drawn:
            drawn.add((network, seed))
            tables["operations"] += operation_rows(
                network, seed, model.genotype, model.plans, content["model"]["image_size"]
            )
    for instance in producers(job.instance.stage, "blackbox_examples", {}, job.params):
        examples, description = load_tensors(instance.outputs["examples"])
        if description["seed"] == job.params.run.seeds[0]:
            cell = {
                "dataset": instance.axes["dataset"],
                "model": instance.axes["network"],
                "training": description["loss"],
                "seed": description["seed"],
            }
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
