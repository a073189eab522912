"""Stage `tables`: everything measured, as CSV, Markdown and JSON under `results/tables/<name>/`."""

from __future__ import annotations

from typing import Any

import pandas as pd

from arnas.evaluation.outcomes import load_outcomes, load_scores
from arnas.models.registry import read_origin
from arnas.pipeline.jobs import Job, named, producers
from arnas.pipeline.runner import StageContext
from arnas.reporting.published.compare import Network, compare, network
from arnas.reporting.published.sources import load_published
from arnas.reporting.run.histories import search_history, training_history
from arnas.reporting.run.tables import (
    Row,
    blackbox_rows,
    check_rows,
    curve_rows,
    judged,
    metrics,
    search_rows,
    summary,
    training_rows,
    transfer,
    whitebox_rows,
    write_tables,
)
from arnas.runtime.files import write_json


def run(context: StageContext) -> None:
    """Read the run's cells, and only those, and write its tables."""

    def gather(command: str) -> list[Job]:
        return producers(context.job.stage, command, {}, context.params)

    search: list[Row] = []
    for stage in ("adversarial", "multiobjective"):
        for job in gather(f"search_{stage}"):
            history = search_history(job.outputs["history"], stage)
            search += search_rows(job.axes["search"], int(job.axes["seed"]), history)
    training: list[Row] = []
    origins: dict[tuple[str, str, int], tuple[dict[str, Any], dict[str, Any]]] = {}
    for job in gather("retrain"):
        dataset, name, seed = named(job.axes)
        path = job.outputs["selected_description"]
        description, origin = read_origin(path, dataset, name, seed)
        origins[dataset, name, seed] = description, origin
        cell = {"dataset": dataset, "model": name, "training": origin["loss"], "seed": seed}
        training += training_rows(cell, training_history(job.outputs["history"]))
    attacked = {
        named(i.axes): load_outcomes(i.outputs["outcomes"], *named(i.axes))
        for i in gather("whitebox")
    }
    outcomes = list(attacked.values())
    scored = {
        dataset: load_scores(
            job.outputs["outcomes"], dataset, [(n, s) for d, n, s in origins if d == dataset]
        )
        for job in gather("blackbox")
        for dataset in job.axes.values()
    }
    verdicts = pd.DataFrame(check_rows(outcomes, scored))
    whitebox = judged(
        pd.DataFrame([row for found in outcomes for row in whitebox_rows(*found)]), verdicts
    )
    run_options = context.params.run
    networks: dict[tuple[str, str], Network] = {}
    for (dataset, name, seed), (description, origin) in origins.items():
        facts = network(description, origin, attacked[dataset, name, seed].description)
        if facts is not None:
            networks[dataset, name] = facts
    write_tables(
        context.outputs,
        {
            "whitebox": whitebox,
            "summary": summary(whitebox),
            "curve": [row for found in outcomes for row in curve_rows(*found)],
            "blackbox": [row for found in scored.values() for row in blackbox_rows(*found)],
            "transfer": transfer(whitebox, run_options.search_dataset, run_options.searches),
            "checks": verdicts,
            "search": search,
            "training": training,
            "published": compare(whitebox, networks, load_published()),
        },
    )
    write_json(context.outputs["metrics"], metrics(whitebox))
    counts = verdicts["status"].value_counts()
    shown = ", ".join(f"{counts.get(status, 0)} {status}" for status in ("PASS", "WARN", "FAIL"))
    context.report(1, 1, f"{len(whitebox)} accuracies of {len(outcomes)} networks; checks: {shown}")
