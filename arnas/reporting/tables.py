"""Result tables in long form, from outcomes, histories and descriptions.

Clock times have no place here: equal results must give equal bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd
from torch import Tensor

from arnas.attacks.registry import ATTACKS
from arnas.evaluation.intervals import wilson

Row = dict[str, Any]
DECIMALS = 2
CELL = ["dataset", "model", "training"]
SUMMARY_KEYS = [*CELL, "checkpoint", "attack", "norm", "epsilon", "n"]


def whitebox_rows(tensors: Mapping[str, Tensor], description: Mapping[str, Any]) -> list[Row]:
    """Return one row for each checkpoint and attack of an outcome file.

    Parameters
    ----------
    tensors
        ``<checkpoint>.<attack>`` to uint8 of shape (n,), 1 where the image stands.
    description
        The outcome file's description.
    """
    rows = []
    for key, flags in tensors.items():
        checkpoint, attack = key.split(".", 1)
        accuracy = wilson(int(flags.sum()), len(flags))
        rows.append(
            {
                "dataset": description["dataset"]["name"],
                "model": description["network"],
                "training": description["checkpoints"][checkpoint]["loss"],
                "seed": description["seed"],
                "checkpoint": checkpoint,
                "epoch": description["checkpoints"][checkpoint]["epoch"],
                "attack": attack,
                "norm": description["threat"]["norm"],
                "epsilon": description["threat"]["epsilon"],
                "n": accuracy.n,
                "correct": accuracy.correct,
                "accuracy": round(accuracy.percent, DECIMALS),
                "ci_low": round(accuracy.low, DECIMALS),
                "ci_high": round(accuracy.high, DECIMALS),
                "status": "ok",
            }
        )
    order = ["clean", *ATTACKS]
    rank = {"selected": 0, "last": 1}
    return sorted(rows, key=lambda row: (rank[row["checkpoint"]], order.index(row["attack"])))


def summary(whitebox: pd.DataFrame) -> pd.DataFrame:
    """Return mean and sample standard deviation over seeds; no deviation for a single seed."""
    groups = whitebox.groupby(SUMMARY_KEYS, sort=False)["accuracy"]
    table = groups.agg(seeds="count", mean="mean", sd="std").reset_index()
    return table.round({"mean": DECIMALS, "sd": DECIMALS})


def search_rows(search: str, seed: int, history: Iterable[Mapping[str, Any]]) -> list[Row]:
    """Return one row for each epoch of a search, nested figures spread over columns."""
    rows = []
    for epoch in history:
        row: Row = {"search": search, "seed": seed}
        for key, value in epoch.items():
            if key == "genotype":
                continue
            if isinstance(value, Mapping):
                row |= {f"{key}_{kind}": _rounded(item) for kind, item in value.items()}
            else:
                row[key] = "+".join(value) if isinstance(value, list) else _rounded(value)
        rows.append(row)
    return rows


def training_rows(cell: Mapping[str, Any], history: Iterable[Mapping[str, Any]]) -> list[Row]:
    """Return one row for each epoch of a training."""
    return [{**cell, **{k: _rounded(v) for k, v in epoch.items()}} for epoch in history]


def _rounded(value: Any) -> Any:
    """Return floats with the digits that a table shows."""
    return float(f"{value:.5g}") if isinstance(value, float) else value


def metrics(whitebox: pd.DataFrame) -> dict[str, Any]:
    """Return dataset -> network -> attack -> mean accuracy of the selected checkpoints."""
    chosen = whitebox[whitebox["checkpoint"] == "selected"]
    result: dict[str, Any] = {}
    for keys, group in chosen.groupby(["dataset", "model", "attack"], sort=False):
        dataset, model, attack = (str(key) for key in keys)
        mean = round(float(group["accuracy"].mean()), DECIMALS)
        result.setdefault(dataset, {}).setdefault(model, {})[attack] = mean
    return result


def to_csv(table: pd.DataFrame) -> str:
    """Return a table as CSV with Unix line ends."""
    return str(table.to_csv(index=False, lineterminator="\n"))


def to_markdown(table: pd.DataFrame) -> str:
    """Return a table as GitHub Markdown; missing values are empty."""
    lines = [
        "| " + " | ".join(table.columns) + " |",
        "|" + " --- |" * len(table.columns),
    ]
    for values in table.astype(object).where(table.notna(), "").itertuples(index=False):
        lines.append("| " + " | ".join(str(value) for value in values) + " |")
    return "\n".join(lines) + "\n"


def overview(whitebox: pd.DataFrame) -> pd.DataFrame:
    """Return the selected checkpoints for reading: a row a network, a column an attack.

    Each cell is ``accuracy [interval]``, with n where it is not that of the clean accuracy.
    """
    chosen = whitebox[whitebox["checkpoint"] == "selected"].copy()
    clean = chosen[chosen["attack"] == "clean"].set_index(["dataset", "model", "seed"])["n"]

    def text(row: Any) -> str:
        shown = f"{row['accuracy']:.1f} [{row['ci_low']:.1f}, {row['ci_high']:.1f}]"
        same = row["n"] == clean.loc[(row["dataset"], row["model"], row["seed"])]
        return shown if same else f"{shown} n={row['n']}"

    chosen["text"] = chosen.apply(text, axis=1)
    keys = [*CELL, "seed", "epsilon"]
    table = chosen.pivot(index=keys, columns="attack", values="text")
    table = table.reindex(columns=list(dict.fromkeys(chosen["attack"])))
    order = chosen[keys].drop_duplicates()
    return table.reindex(pd.MultiIndex.from_frame(order)).fillna("-").reset_index()
