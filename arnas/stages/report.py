"""Stage `report`: the figures of a run and one HTML file with all of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import yaml
from matplotlib.figure import Figure

from arnas.data.sources.registry import SPLITS
from arnas.data.splits import Splits, load_splits
from arnas.evaluation.outcomes import load_examples, load_outcomes
from arnas.evaluation.record import from_record
from arnas.evaluation.result import EvalResult
from arnas.pipeline.jobs import named, planned_jobs
from arnas.pipeline.plan import FIGURES
from arnas.pipeline.runner import StageContext
from arnas.reporting.format import join
from arnas.reporting.run import figures, search_figures
from arnas.reporting.run.cells import cells_figure
from arnas.reporting.run.networks import Evaluated, links, render_networks
from arnas.reporting.run.page import ReportContent, render
from arnas.reporting.run.tables import read_table
from arnas.reporting.style import styled, svg_bytes
from arnas.runtime.files import write_bytes
from arnas.runtime.manifest import environment, manifest_or_empty
from arnas.spaces.genotype import load_genotype

Tables = Mapping[str, pd.DataFrame]

DRAWN: dict[str, Callable[[Tables], Figure]] = {
    "tradeoff": lambda t: figures.tradeoff(t["whitebox"], t["models"]),
    "epsilon_curve": lambda t: figures.epsilon_curve(t["curve"]),
    "blackbox": lambda t: figures.blackbox(t["blackbox"]),
    "learning_curves": lambda t: figures.learning_curves(t["training"], t["whitebox"]),
    "gamma": lambda t: search_figures.gamma(t["gamma"]),
    "alphas": lambda t: search_figures.alphas(t["alphas"]),
    "operations": lambda t: search_figures.operations(t["operations"]),
}
"""The figures that need nothing but tables."""


def run(context: StageContext) -> None:
    """Draw the figures and write the report."""
    tables = {
        key.removesuffix("_csv"): read_table(path, job.manifest)
        for producer in ("analysis", "tables")
        for job in context.gather(producer)
        for key, path in job.outputs.items()
        if key.endswith("_csv")
    }
    splits = {
        job.axes["dataset"]: load_splits(job.outputs["splits"], job.axes["dataset"])
        for job in context.gather("data")
    }
    drawn: dict[str, bytes] = {}
    with styled():
        for number, name in enumerate(FIGURES):
            figure = (
                DRAWN[name](tables)
                if name in DRAWN
                else _examples(context, tables["examples"], splits)
            )
            drawn[name] = svg_bytes(figure)
            write_bytes(context.outputs[name], drawn[name])
            context.report(number + 1, len(FIGURES) + 1, name)
        cells = {
            " seed ".join(job.axes.values()): svg_bytes(
                cells_figure(load_genotype(job.outputs["genotype"]))
            )
            for job in context.gather("derive")
        }
    evaluations = _evaluations(context)
    html = render_networks(f"{context.params.name}: evaluations", evaluations)
    write_bytes(context.outputs["networks"], html.encode())
    settings = context.params.model_dump(mode="json")
    content = ReportContent(
        name=context.params.name,
        tables=tables,
        figures=drawn,
        cells=cells,
        described=_described(context, tables["datasets"]),
        searches=context.params.run.searches,
        search_dataset=context.params.run.search_dataset,
        controls=context.params.controls(),
        settings=yaml.safe_dump(settings, sort_keys=False, default_flow_style=None, width=96),
        jobs=_provenance(context),
        versions=environment(str(context.device), 1)["packages"],
        evaluations=links(context.outputs["networks"].name, [*evaluations]),
    )
    write_bytes(context.outputs["html"], render(content).encode())
    context.report(len(FIGURES) + 1, len(FIGURES) + 1, f"open {context.outputs['html']}")


def _evaluations(context: StageContext) -> dict[Evaluated, EvalResult]:
    """Return every evaluation of the run's networks, as the stage whitebox recorded it."""
    results = {}
    for job in context.gather("whitebox"):
        path, network = job.outputs["outcomes"], named(job.axes)
        for name, record in load_outcomes(path, *network).description["evaluations"].items():
            results[Evaluated(*network, name)] = from_record(record, path)
    return results


def _examples(context: StageContext, table: pd.DataFrame, splits: Mapping[str, Splits]) -> Figure:
    """Return the figure of the first test images, clean and attacked."""
    count = context.params.report.example_images
    clean: dict[str, np.ndarray] = {}
    attacked: dict[tuple[str, str], np.ndarray] = {}
    for job in context.gather("blackbox_examples"):
        dataset, network, seed = named(job.axes)
        if seed == context.params.run.seeds[0]:
            path, test = job.outputs["examples"], splits[dataset].subset("test")
            found = load_examples(path, dataset, network, seed, test).arrays
            attacked[dataset, network] = found["x_adv"][:count]
            clean[dataset] = splits[dataset].pixels(test.images[:count]).numpy()
    budgets = {
        dataset: float(abs(x - clean[dataset]).max()) for (dataset, _), x in attacked.items()
    }
    return figures.examples(table, clean, attacked, budgets)


def _described(context: StageContext, datasets: pd.DataFrame) -> list[str]:
    """Return in sentences what the settings asked for."""
    params, run = context.params, context.params.run
    seeds = "one seed" if len(run.seeds) == 1 else f"{len(run.seeds)} seeds"
    sentences = []
    for row in datasets.to_dict("records"):
        counts = join([f"{row[split]} {split.replace('_', ' ')}" for split in SPLITS])
        kind = "synthetic images" if row["synthetic"] else "images"
        side, total = row["image_size"], sum(row[split] for split in SPLITS)
        sentences.append(
            f"Dataset {row['dataset']}: {total} {kind} of {side}x{side} pixels in "
            f"{row['num_classes']} classes ({counts}); threat model "
            f"{params.threat[str(row['dataset'])].threat()}."
        )
    for search in run.searches:
        options = params.searches[search]
        first, second = options.adversarial, options.multiobjective
        sentences.append(
            f"Search {search} on {run.search_dataset}, {seeds}: {first.epochs} epochs on the "
            f"adversarial loss, then {second.epochs} along the combination '{second.combine}' of "
            f"the natural and the adversarial gradient, the latter weighted "
            f"{second.adversarial_weight:g}; cells {' - '.join(options.space.kinds)}."
        )
    trained = [
        f"{join(names)} on {join(datasets)}"
        for names, datasets in ((run.networks, run.networks_on), (run.searches, run.searches_on))
        if names and datasets
    ]
    sentences.append(f"Trained, {seeds}: {'; '.join(trained)}.")
    return sentences


def _provenance(context: StageContext) -> list[dict[str, Any]]:
    """Return what the manifests on disk say of each result of the run."""
    rows = []
    for job in planned_jobs(context.params):
        manifest = manifest_or_empty(job.manifest)
        if manifest:
            keys = ("git", "device", "threads", "wall_seconds")
            rows.append(
                {
                    "stage": job.stage.command,
                    "job": " ".join(job.axes.values()),
                    "fingerprint": str(manifest.get("fingerprint", ""))[:12],
                    **{key: manifest.get(key, "-") for key in keys},
                }
            )
    return rows
