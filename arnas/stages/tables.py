"""Stage `tables`: everything measured, as CSV, Markdown and JSON under `results/tables/<name>/`."""

from __future__ import annotations

import pandas as pd

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
from arnas.runtime.files import load_tensors, read_json, read_json_lines, write_json
from arnas.stages.instances import Instance, producers
from arnas.stages.run import Job


def run(job: Job) -> None:
    """Read the run's cells, and only those, and write its tables."""

    def gather(command: str) -> list[Instance]:
        return producers(job.instance.stage, command, {}, job.params)

    search: list[Row] = []
    for stage in ("search_adversarial", "search_multiobjective"):
        for instance in gather(stage):
            history = read_json_lines(instance.outputs["history"])
            search += search_rows(instance.axes["search"], int(instance.axes["seed"]), history)
    training: list[Row] = []
    for instance in gather("retrain"):
        origin = read_json(instance.outputs["selected_description"])["description"]["provenance"]
        cell = {
            "dataset": origin["dataset"],
            "model": origin["network"],
            "training": origin["loss"],
            "seed": origin["seed"],
        }
        training += training_rows(cell, read_json_lines(instance.outputs["history"]))
    outcomes = [load_tensors(instance.outputs["outcomes"]) for instance in gather("whitebox")]
    scored = {
        instance.axes["dataset"]: load_tensors(instance.outputs["outcomes"])
        for instance in gather("blackbox")
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
