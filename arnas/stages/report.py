"""Stage `report`: the figures of a run and one HTML file with all of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import yaml
from matplotlib.figure import Figure

from arnas.data.splits import SPLITS, Splits, load_splits
from arnas.evaluation.outcomes import load_examples, load_outcomes
from arnas.evaluation.record import from_record
from arnas.evaluation.result import EvalResult
from arnas.pipeline.jobs import instances, named, producers
from arnas.pipeline.plan import FIGURES
from arnas.pipeline.runner import Job
from arnas.reporting.format import join
from arnas.reporting.run import figures, search_figures
from arnas.reporting.run.cells import cells_figure
from arnas.reporting.run.networks import Evaluated, links, render_networks
from arnas.reporting.run.page import ReportContent, render
from arnas.reporting.run.style import styled, svg_bytes
from arnas.reporting.run.tables import read_table
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


def run(job: Job) -> None:
    """Draw the figures and write the report."""
    tables = {
        key.removesuffix("_csv"): read_table(path, instance.manifest)
        for producer in ("analysis", "tables")
        for instance in producers(job.instance.stage, producer, {}, job.params)
        for key, path in instance.outputs.items()
        if key.endswith("_csv")
    }
    splits = {
        instance.axes["dataset"]: load_splits(instance.outputs["splits"], instance.axes["dataset"])
        for instance in producers(job.instance.stage, "data", {}, job.params)
    }
    drawn: dict[str, bytes] = {}
    with styled():
        for number, name in enumerate(FIGURES):
            figure = (
                DRAWN[name](tables) if name in DRAWN else _examples(job, tables["examples"], splits)
            )
            drawn[name] = svg_bytes(figure)
            write_bytes(job.outputs[name], drawn[name])
            job.report(number + 1, len(FIGURES) + 1, name)
        cells = {
            " seed ".join(instance.axes.values()): svg_bytes(
                cells_figure(load_genotype(instance.outputs["genotype"]))
            )
            for instance in producers(job.instance.stage, "derive", {}, job.params)
        }
    evaluations = _evaluations(job)
    html = render_networks(f"{job.params.name}: evaluations", evaluations)
    write_bytes(job.outputs["networks"], html.encode())
    settings = job.params.model_dump(mode="json")
    content = ReportContent(
        name=job.params.name,
        tables=tables,
        figures=drawn,
        cells=cells,
        described=_described(job, tables["datasets"]),
        searches=job.params.run.searches,
        search_dataset=job.params.run.search_dataset,
        settings=yaml.safe_dump(settings, sort_keys=False, default_flow_style=None, width=96),
        instances=_provenance(job),
        versions=environment(str(job.device), 1)["packages"],
        evaluations=links(job.outputs["networks"].name, [*evaluations]),
    )
    write_bytes(job.outputs["html"], render(content).encode())
    job.report(len(FIGURES) + 1, len(FIGURES) + 1, f"open {job.outputs['html']}")


def _evaluations(job: Job) -> dict[Evaluated, EvalResult]:
    """Return every evaluation of the run's networks, as the stage whitebox recorded it."""
    results = {}
    for instance in producers(job.instance.stage, "whitebox", {}, job.params):
        path, network = instance.outputs["outcomes"], named(instance.axes)
        for name, record in load_outcomes(path, *network).description["evaluations"].items():
            results[Evaluated(*network, name)] = from_record(record, path)
    return results


def _examples(job: Job, table: pd.DataFrame, splits: Mapping[str, Splits]) -> Figure:
    """Return the figure of the first test images, clean and attacked."""
    count = job.params.report.example_images
    clean: dict[str, np.ndarray] = {}
    attacked: dict[tuple[str, str], np.ndarray] = {}
    for instance in producers(job.instance.stage, "blackbox_examples", {}, job.params):
        dataset, network, seed = named(instance.axes)
        if seed == job.params.run.seeds[0]:
            path, test = instance.outputs["examples"], splits[dataset].subset("test")
            found = load_examples(path, dataset, network, seed, test).tensors
            attacked[dataset, network] = found["x_adv"][:count].numpy()
            clean[dataset] = splits[dataset].pixels(test.images[:count]).numpy()
    budgets = {
        dataset: float(abs(x - clean[dataset]).max()) for (dataset, _), x in attacked.items()
    }
    return figures.examples(table, clean, attacked, budgets)


def _described(job: Job, datasets: pd.DataFrame) -> list[str]:
    """Return in sentences what the settings asked for."""
    params, run = job.params, job.params.run
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


def _provenance(job: Job) -> list[dict[str, Any]]:
    """Return what the manifests on disk say of each result of the run."""
    rows = []
    for instance in instances(job.params):
        manifest = manifest_or_empty(instance.manifest)
        if manifest:
            keys = ("git", "device", "threads", "wall_seconds")
            rows.append(
                {
                    "stage": instance.stage.command,
                    "instance": " ".join(instance.axes.values()),
                    "fingerprint": str(manifest.get("fingerprint", ""))[:12],
                    **{key: manifest.get(key, "-") for key in keys},
                }
            )
    return rows
