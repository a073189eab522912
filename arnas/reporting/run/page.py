"""The report: one HTML file that loads nothing from elsewhere."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from arnas.reporting.published.sources import load_published
from arnas.reporting.run.captions import CAPTIONS
from arnas.reporting.run.tables import CELL, UNION
from arnas.reporting.run.words import LABELS, in_short, shown

TEMPLATE = "report.html.j2"


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
    settings: str
    """All settings as YAML."""
    instances: Sequence[Mapping[str, Any]]
    """A row for each result: stage, axes and what its manifest says."""
    versions: Mapping[str, str]
    """Package to version."""


def render(content: ReportContent) -> str:
    """Return the HTML of a report."""
    environment = Environment(
        loader=PackageLoader("arnas.reporting.run", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    tables = content.tables
    return environment.get_template(TEMPLATE).render(
        content=content,
        answer=in_short(
            tables["whitebox"],
            tables["models"],
            tables["blackbox"],
            tables["checks"],
            content.searches,
            content.search_dataset,
        ),
        accuracies=accuracies(tables["whitebox"]),
        transfer=transferred(tables["whitebox"], content.searches, content.search_dataset),
        sizes=tables["models"].drop(columns="seed").drop_duplicates().to_dict("records"),
        layouts=layouts(tables["operations"]),
        published=beside_published(tables["published"]),
        recalled=load_published().recalled() if len(tables["published"]) else 0,
        checks=check_matrix(tables["checks"]),
        remarks=tables["checks"][tables["checks"]["status"] != "PASS"].to_dict("records"),
        verdicts=tables["checks"].to_dict("records"),
        captions=CAPTIONS,
        figures={name: _data_url(svg) for name, svg in content.figures.items()},
        cells={name: _data_url(svg) for name, svg in content.cells.items()},
    )


def _data_url(svg: bytes) -> str:
    """Return an image as a URL that holds it."""
    return "data:image/svg+xml;base64," + base64.b64encode(svg).decode()


def accuracies(whitebox: pd.DataFrame) -> list[dict[str, Any]]:
    """Return, for each dataset, the columns and rows of its table of accuracies."""
    found = []
    for dataset, here in whitebox.groupby("dataset", sort=False):
        attacks = [name for name in LABELS if name in set(here["attack"])]
        rows = []
        for keys, group in here.groupby(["model", "training", "checkpoint"], sort=False):
            model, training, checkpoint = (str(key) for key in keys)
            cells = {
                str(attack): _cell(rows, int(here["n"].max()))
                for attack, rows in group.groupby("attack", sort=False)
            }
            unreliable = bool((group["status"] != "ok").any())
            epochs = " and ".join(str(epoch) for epoch in sorted(set(group["epoch"])))
            rows.append(
                {
                    "model": model,
                    "training": training,
                    "checkpoint": f"{checkpoint}, epoch {epochs}",
                    "cells": [cells.get(attack) for attack in attacks],
                    "unreliable": unreliable,
                }
            )
        found.append(
            {
                "dataset": dataset,
                "attacks": [LABELS[attack] for attack in attacks],
                "rows": rows,
                "n": int(here["n"].max()),
                "threat": f"{here['norm'].iloc[0]} epsilon {here['epsilon'].iloc[0]}",
            }
        )
    return found


def transferred(
    whitebox: pd.DataFrame, searches: Sequence[str], searched_on: str
) -> list[dict[str, str]]:
    """Return clean and robust accuracy of the networks found, on each dataset; empty if on one."""
    chosen = whitebox[(whitebox["checkpoint"] == "selected") & whitebox["model"].isin(searches)]
    if set(chosen["dataset"]) <= {searched_on}:
        return []
    return [
        {
            "model": str(keys[0]),
            "dataset": str(keys[1]),
            "threat": f"{rows['norm'].iloc[0]} {rows['epsilon'].iloc[0]}",
            "clean": shown(rows[rows["attack"] == "clean"]),
            "robust": shown(rows[rows["attack"] == UNION]),
        }
        for keys, rows in chosen.groupby(["model", "dataset"], sort=False)
    ]


def beside_published(table: pd.DataFrame) -> list[dict[str, str]]:
    """Return table ``published.csv`` for reading; ours with its spread, seeds and images."""
    rows = []
    for row in table.astype(object).where(table.notna(), "").to_dict("records"):
        several = row["seeds"] > 1
        spread = f" ± {row['sd']:.2f}" if several else ""
        seeds = f"{row['seeds']} seeds" if several else "one seed"
        rows.append(
            {
                **{key: str(row[key]) for key in ("dataset", "model", "training", "source")},
                **{key: str(row[key]) for key in ("recipe", "protocol", "published_model")},
                "attack": LABELS[row["attack"]],
                "ours": f"{row['ours']:.2f}{spread}",
                "basis": f"{row['checkpoint']}, {seeds}, n={row['n']:,}",
                "published": f"{row['published']:.2f}",
                "difference": f"{row['difference']:+.2f}",
            }
        )
    return rows


def _cell(rows: pd.DataFrame, usual: int) -> dict[str, str]:
    """Return an accuracy, its interval, and the number of images where it is not the usual one."""
    value, _, rest = shown(rows).partition(" % ")
    n = int(rows["n"].iloc[0])
    return {
        "value": value.removesuffix(" %"),
        "interval": rest,
        "n": "" if n == usual else f"n={n}",
    }


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
    """Return the worst verdict of each check on each network over the seeds."""
    rank = {"PASS": 0, "WARN": 1, "FAIL": 2}
    networks = checks[checks["model"] != "all"][CELL[:2]].drop_duplicates().to_numpy().tolist()
    datasets = [[dataset, "all"] for dataset in dict.fromkeys(checks["dataset"])]
    rows = []
    for check, here in checks.groupby("check", sort=False):
        worst = here.groupby(CELL[:2])["status"].agg(lambda found: max(found, key=rank.__getitem__))
        cells = {(str(k[0]), str(k[1])): str(v) for k, v in worst.items()}  # type: ignore[index]
        rows.append({"check": check, "cells": cells})
    return {"networks": networks, "datasets": datasets, "rows": rows}
