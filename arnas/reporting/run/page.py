"""The report of a run: one HTML file that loads nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from arnas.attacks.registry import attack_label
from arnas.reporting.format import UNION, estimate, in_registry_order
from arnas.reporting.html import data_url, render_page
from arnas.reporting.run.captions import CAPTIONS
from arnas.reporting.run.tables import CELL
from arnas.reporting.run.words import summarise

TEMPLATE = "run/page.html.j2"
RANK = {"SKIP": 0, "PASS": 1, "WARN": 2, "FAIL": 3}


@dataclass(frozen=True)
class ReportContent:
    """What a report is made from."""

    name: str
    """Of the run."""
    tables: Mapping[str, pd.DataFrame]
    """Name to result table."""
    figures: Mapping[str, bytes]
    """Name in `CAPTIONS` to SVG."""
    cells: Mapping[str, bytes]
    """Search and seed, in words, to the SVG of its cells."""
    described: Sequence[str]
    """What was run, in sentences."""
    searches: Sequence[str]
    search_dataset: str
    controls: Container[str]
    """Networks that are not defended."""
    settings: str
    """All settings as YAML."""
    jobs: Sequence[Mapping[str, Any]]
    """A row for each result: stage, axes and what its manifest says."""
    versions: Mapping[str, str]
    """Package to version."""
    evaluations: Sequence[tuple[str, str]] = ()
    """Address and name of what a page of its own says of each network."""


def render(content: ReportContent) -> str:
    """Return the HTML of a report."""
    tables, checks = content.tables, content.tables["checks"]
    return render_page(
        TEMPLATE,
        title=content.name,
        content=content,
        answer=summarise(tables, content.searches, content.search_dataset, content.controls),
        accuracies=accuracies(tables["whitebox"]),
        transfer=transferred(tables["whitebox"], content.searches, content.search_dataset),
        sizes=tables["models"].drop(columns="seed").drop_duplicates().to_dict("records"),
        layouts=layouts(tables["operations"]),
        published=published_rows(tables["published"]),
        checks=check_matrix(checks),
        remarks=checks[checks["status"].isin(["WARN", "FAIL"])].to_dict("records"),
        check_rows=checks.to_dict("records"),
        captions=CAPTIONS,
        figures={name: data_url(svg, "svg+xml") for name, svg in content.figures.items()},
        cells={name: data_url(svg, "svg+xml") for name, svg in content.cells.items()},
    )


def accuracies(whitebox: pd.DataFrame) -> list[dict[str, Any]]:
    """Return, for each dataset, the columns and rows of its table of accuracies."""
    tables = []
    for dataset, here in whitebox.groupby("dataset", sort=False):
        attacks = in_registry_order(here["attack"])
        usual = int(here["n"].max())
        rows = []
        for keys, group in here.groupby(["model", "training", "checkpoint"], sort=False):
            model, training, checkpoint = (str(key) for key in keys)
            cells = {name: _cell(rows, usual) for name, rows in group.groupby("attack", sort=False)}
            epochs = " and ".join(str(epoch) for epoch in sorted(set(group["epoch"])))
            rows.append(
                {
                    "model": model,
                    "training": training,
                    "checkpoint": f"{checkpoint}, epoch {epochs}",
                    "cells": [cells.get(attack) for attack in attacks],
                    "unreliable": bool((group["status"] != "ok").any()),
                }
            )
        tables.append(
            {
                "dataset": dataset,
                "attacks": [attack_label(attack) for attack in attacks],
                "rows": rows,
                "n": usual,
                "threat": f"{here['norm'].iloc[0]} epsilon {here['epsilon'].iloc[0]}",
            }
        )
    return tables


def _cell(rows: pd.DataFrame, usual: int) -> dict[str, str]:
    """Return an accuracy, its interval, and the number of images where it is not the usual one."""
    found, n = estimate(rows), int(rows["n"].iloc[0])
    return {"value": found.value, "interval": found.basis, "n": "" if n == usual else f"n={n}"}


def transferred(
    whitebox: pd.DataFrame, searches: Sequence[str], searched_on: str
) -> list[dict[str, str]]:
    """Return clean and robust accuracy of the networks found, on each dataset; empty if on one."""
    chosen = whitebox[(whitebox["checkpoint"] == "selected") & whitebox["model"].isin(searches)]
    if set(chosen["dataset"]) <= {searched_on}:
        return []
    return [
        {
            "model": str(model),
            "dataset": str(dataset),
            "threat": f"{rows['norm'].iloc[0]} {rows['epsilon'].iloc[0]}",
            "clean": str(estimate(rows[rows["attack"] == "clean"])),
            "robust": str(estimate(rows[rows["attack"] == UNION])),
        }
        for (model, dataset), rows in chosen.groupby(["model", "dataset"], sort=False)
    ]


def published_rows(table: pd.DataFrame) -> list[dict[str, str]]:
    """Return table ``published.csv`` for reading; ours with its spread, seeds and images."""
    rows = []
    for row in table.astype(object).where(table.notna(), "").to_dict("records"):
        several = row["seeds"] > 1
        spread = f" ± {row['sd']:.2f}" if several else ""
        seeds = f"{row['seeds']} seeds" if several else "one seed"
        rows.append(
            {str(key): str(value) for key, value in row.items()}
            | {
                "attack": attack_label(row["attack"]),
                "ours": f"{row['ours']:.2f}{spread}",
                "basis": f"{row['checkpoint']}, {seeds}, n={row['n']:,}",
                "published": f"{row['published']:.2f}",
                "difference": f"{row['difference']:+.2f}",
            }
        )
    return rows


def layouts(operations: pd.DataFrame) -> list[dict[str, Any]]:
    """Return, for each network with cells, the cells from the input to the output."""
    if operations.empty:
        return []
    columns = ["model", "cell", "kind", "channels", "side"]
    cells = operations[columns].drop_duplicates(["model", "cell"])
    return [
        {"model": model, "cells": rows.to_dict("records")}
        for model, rows in cells.groupby("model", sort=False)
    ]


def check_matrix(checks: pd.DataFrame) -> dict[str, Any]:
    """Return the worst status of each check on each network over the seeds."""
    networks = checks[checks["model"] != "all"][CELL[:2]].drop_duplicates().to_numpy().tolist()
    datasets = [[dataset, "all"] for dataset in dict.fromkeys(checks["dataset"])]
    rows = []
    for check, here in checks.groupby("check", sort=False):
        worst = here.groupby(CELL[:2])["status"].agg(lambda all_: max(all_, key=RANK.__getitem__))
        cells = {(str(k[0]), str(k[1])): str(v) for k, v in worst.items()}  # type: ignore[index]
        rows.append({"check": check, "cells": cells})
    return {"networks": networks, "datasets": datasets, "rows": rows}
