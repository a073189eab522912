"""Stage `tables`: everything measured, as CSV, Markdown and JSON under `results/tables/<name>/`."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping

import pandas as pd

from arnas.evaluation.checks import read_check
from arnas.evaluation.checks.run import blackbox_not_stronger, control_falls
from arnas.evaluation.outcomes import load_outcomes, load_scores
from arnas.evaluation.result import Check
from arnas.evaluation.statistics import wilson
from arnas.models.origin import read_origin
from arnas.pipeline.jobs import named
from arnas.pipeline.runner import JobContext
from arnas.reporting.published.compare import Network, compare, network
from arnas.reporting.published.sources import load_published
from arnas.reporting.run.histories import search_history, training_history
from arnas.reporting.run.tables import (
    Row,
    blackbox_rows,
    check_rows,
    curve_rows,
    metrics,
    network_columns,
    outcomes_of,
    search_rows,
    summary,
    training_rows,
    transfer,
    union,
    whitebox_rows,
    with_status,
    write_tables,
)
from arnas.runtime.files import ArrayFile, write_json


def run(context: JobContext) -> None:
    """Read what the other stages of the run have measured, and write its tables."""
    search: list[Row] = []
    for stage in ("adversarial", "multiobjective"):
        for job in context.gather(f"search_{stage}"):
            history = search_history(job.outputs["history"], stage)
            search += search_rows(job.axes["search"], int(job.axes["seed"]), history)
    training: list[Row] = []
    networks: dict[tuple[str, str], Network] = {}
    trained = []
    for job in context.gather("retrain"):
        dataset, name, seed = named(job.axes)
        path = job.outputs["selected"]
        description, origin = read_origin(path, dataset, name, seed)
        cell = {"dataset": dataset, "model": name, "training": origin["loss"], "seed": seed}
        training += training_rows(cell, training_history(job.outputs["history"]))
        trained.append((dataset, name, seed))
        source = context.params.data[dataset].source
        loss = context.params.network(name).loss
        if found := network(description, source, context.params.recipe(dataset, name), loss):
            networks[dataset, name] = found
    whitebox_files = [
        load_outcomes(job.outputs["outcomes"], *named(job.axes))
        for job in context.gather("whitebox")
    ]
    blackbox_files = {
        dataset: load_scores(
            job.outputs["outcomes"], dataset, [(n, s) for d, n, s in trained if d == dataset]
        )
        for job in context.gather("blackbox")
        for dataset in job.axes.values()
    }
    checks = pd.DataFrame(list(_checks(whitebox_files, blackbox_files, context.params.controls())))
    rows = [row for file in whitebox_files for row in whitebox_rows(*file)]
    whitebox = with_status(pd.DataFrame(rows), checks)
    options = context.params.run
    tables: dict[str, pd.DataFrame | list[Row]] = {
        "whitebox": whitebox,
        "summary": summary(whitebox),
        "curve": [row for file in whitebox_files for row in curve_rows(*file)],
        "blackbox": [row for file in blackbox_files.values() for row in blackbox_rows(*file)],
        "transfer": transfer(whitebox, options.search_dataset, options.searches),
        "checks": checks,
        "search": search,
        "training": training,
        "published": compare(whitebox, networks, load_published()),
    }
    write_tables(context.outputs, tables)
    write_json(context.outputs["metrics"], metrics(whitebox))
    counts = checks["status"].value_counts()
    shown = ", ".join(f"{counts.get(status, 0)} {status}" for status in ("PASS", "WARN", "FAIL"))
    context.report(1, 1, f"{len(whitebox)} accuracies of {len(whitebox_files)} networks; {shown}")


def _checks(
    whitebox_files: list[ArrayFile],
    blackbox_files: Mapping[str, ArrayFile],
    undefended: Container[str],
) -> Iterator[Row]:
    """Yield the rows of all checks: those that the stages ran, and those of several networks."""
    controls: dict[tuple[str, int], list[Check]] = {}
    for arrays, description in whitebox_files:
        cell = network_columns(description, description["checkpoints"]["selected"]["loss"])
        dataset, model, seed = cell["dataset"], cell["model"], cell["seed"]
        outcomes = outcomes_of(arrays, "selected")
        robust = union(outcomes)
        scores, scored = blackbox_files[dataset]
        others = {
            key.split(".")[2]: flags
            for key, flags in scores.items()
            if key.startswith(f"{seed}.{model}.") and not key.endswith(f".{model}")
        }
        given = [*description["checks"], *scored["checks"].get(f"{seed}.{model}", [])]
        own = [read_check(check) for check in given]
        yield from check_rows(cell, [*own, blackbox_not_stronger(robust, others)])
        known = controls.setdefault((dataset, seed), [])
        if model in undefended:
            clean = outcomes["clean"]
            pair = {"clean": clean, "union": robust}
            known.append(control_falls({k: wilson(int(v.sum()), len(v)) for k, v in pair.items()}))
    for (dataset, seed), known in controls.items():
        cell = {"dataset": dataset, "model": "all", "training": "", "seed": seed}
        yield from check_rows(cell, known or [control_falls({})])
