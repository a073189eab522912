"""Stage `tables`: everything measured, as CSV, Markdown and JSON under `results/tables/<name>/`."""

from __future__ import annotations

from typing import Any

import pandas as pd

from arnas.models.complexity import count_macs, count_parameters
from arnas.models.registry import model_from_description
from arnas.reporting.tables import (
    metrics,
    search_rows,
    summary,
    to_csv,
    to_markdown,
    training_rows,
    whitebox_rows,
)
from arnas.runtime.files import load_tensors, read_json, read_json_lines, write_bytes, write_json
from arnas.stages.plan import STAGES, cells, instantiate
from arnas.stages.run import Job


def run(job: Job) -> None:
    """Read the run's cells, and only those, and write its tables."""
    whitebox: list[dict[str, Any]] = []
    search: list[dict[str, Any]] = []
    training: list[dict[str, Any]] = []
    models: list[dict[str, Any]] = []
    for stage in STAGES:
        for axes in cells(stage, job.params):
            outputs = instantiate(stage, axes, job.params).outputs
            if stage.name == "whitebox":
                whitebox += whitebox_rows(*load_tensors(outputs["outcomes"]))
            elif stage.name.startswith("search_"):
                history = read_json_lines(outputs["history"])
                search += search_rows(axes["search"], int(axes["seed"]), history)
            elif stage.name.startswith("retrain"):
                content = read_json(outputs["selected_description"])["description"]
                cell = {
                    "dataset": axes["dataset"],
                    "model": axes["network"],
                    "training": content["provenance"]["loss"],
                    "seed": int(axes["seed"]),
                }
                training += training_rows(cell, read_json_lines(outputs["history"]))
                models.append({**cell, **_size(content["model"])})
    tables = {
        "whitebox": pd.DataFrame(whitebox),
        "summary": summary(pd.DataFrame(whitebox)),
        "search": pd.DataFrame(search),
        "training": pd.DataFrame(training),
        "models": pd.DataFrame(models),
    }
    for name, table in tables.items():
        write_bytes(job.outputs[f"{name}_csv"], to_csv(table).encode())
        write_bytes(job.outputs[f"{name}_md"], to_markdown(table).encode())
    write_json(job.outputs["metrics"], metrics(tables["whitebox"]))
    job.report(1, 1, f"{len(whitebox)} accuracies of {len(models)} networks")


def _size(description: dict[str, Any]) -> dict[str, Any]:
    """Return parameters and multiply-accumulates of a described model at its image size."""
    model = model_from_description(description, "the weights' description")
    side, channels = description["image_size"], description["in_channels"]
    return {
        "image": f"{channels}x{side}x{side}",
        "parameters": count_parameters(model),
        "macs": count_macs(model, (channels, side, side)),
    }
