"""Stage `tables`: everything measured, as CSV, Markdown and JSON under `results/tables/<name>/`."""

from __future__ import annotations

import pandas as pd

from arnas.evaluation.outcomes import load_outcomes, load_scores
from arnas.models.registry import read_origin
from arnas.reporting.histories import search_history, training_history
from arnas.reporting.tables import (
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
from arnas.stages.instances import Instance, named, producers
from arnas.stages.run import Job


def run(job: Job) -> None:
    """Read the run's cells, and only those, and write its tables."""

    def gather(command: str) -> list[Instance]:
        return producers(job.instance.stage, command, {}, job.params)

    search: list[Row] = []
    for stage in ("adversarial", "multiobjective"):
        for instance in gather(f"search_{stage}"):
            history = search_history(instance.outputs["history"], stage)
            search += search_rows(instance.axes["search"], int(instance.axes["seed"]), history)
    training: list[Row] = []
    for instance in gather("retrain"):
        dataset, network, seed = named(instance.axes)
        path = instance.outputs["selected_description"]
        _, origin = read_origin(path, dataset, network, seed)
        cell = {"dataset": dataset, "model": network, "training": origin["loss"], "seed": seed}
        training += training_rows(cell, training_history(instance.outputs["history"]))
    outcomes = [load_outcomes(i.outputs["outcomes"], *named(i.axes)) for i in gather("whitebox")]
    trained = [named(instance.axes) for instance in gather("retrain")]
    scored = {
        dataset: load_scores(
            instance.outputs["outcomes"], dataset, [(n, s) for d, n, s in trained if d == dataset]
        )
        for instance in gather("blackbox")
        for dataset in instance.axes.values()
    }
    verdicts = pd.DataFrame(check_rows(outcomes, scored))
    whitebox = judged(
        pd.DataFrame([row for found in outcomes for row in whitebox_rows(*found)]), verdicts
    )
    run_options = job.params.run
    write_tables(
        job.outputs,
        {
            "whitebox": whitebox,
            "summary": summary(whitebox),
            "curve": [row for found in outcomes for row in curve_rows(*found)],
            "blackbox": [row for found in scored.values() for row in blackbox_rows(*found)],
            "transfer": transfer(whitebox, run_options.search_dataset, run_options.searches),
            "checks": verdicts,
            "search": search,
            "training": training,
        },
    )
    write_json(job.outputs["metrics"], metrics(whitebox))
    counts = verdicts["status"].value_counts()
    shown = ", ".join(f"{counts.get(status, 0)} {status}" for status in ("PASS", "WARN", "FAIL"))
    job.report(1, 1, f"{len(whitebox)} accuracies of {len(outcomes)} networks; checks: {shown}")
