"""Result tables in long form, from outcomes, histories and descriptions.

Clock times have no place here: equal results must give equal bytes.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from functools import reduce
from operator import and_
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from arnas.evaluation.result import Check
from arnas.evaluation.statistics import wilson
from arnas.reporting.format import UNION, in_registry_order
from arnas.runtime.errors import UserError
from arnas.runtime.files import read_verified, write_bytes

Row = dict[str, Any]
DECIMALS = 2
CELL = ["dataset", "model", "training"]
SUMMARY_KEYS = [*CELL, "checkpoint", "attack", "norm", "epsilon", "n"]


def whitebox_rows(arrays: Mapping[str, np.ndarray], description: Mapping[str, Any]) -> list[Row]:
    """Return one row for each checkpoint and attack of an outcome file, and for their union.

    Parameters
    ----------
    arrays
        ``<checkpoint>.<attack>`` to uint8 of shape (n,), 1 where the image is robust.
    description
        The outcome file's description.
    """
    rows = []
    for checkpoint in ("selected", "last"):
        origin = description["checkpoints"][checkpoint]
        outcomes = outcomes_of(arrays, checkpoint)
        outcomes[UNION] = union(outcomes)
        rows += [
            {
                **network_columns(description, origin["loss"]),
                "checkpoint": checkpoint,
                "epoch": origin["epoch"],
                "attack": attack,
                "norm": description["threat"]["norm"],
                "epsilon": description["threat"]["epsilon"],
                **accuracy_columns(outcomes[attack]),
            }
            for attack in in_registry_order(outcomes)
        ]
    return rows


def outcomes_of(arrays: Mapping[str, np.ndarray], checkpoint: str) -> dict[str, np.ndarray]:
    """Return the outcomes of one checkpoint by attack."""
    start = f"{checkpoint}."
    return {k.removeprefix(start): flags for k, flags in arrays.items() if k.startswith(start)}


def union(outcomes: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return which images are robust under every attack that ran on all of them."""
    n = len(outcomes["clean"])
    return reduce(and_, (flags for flags in outcomes.values() if len(flags) == n))


def network_columns(description: Mapping[str, Any], training: str) -> Row:
    """Return the columns that name a network."""
    return {
        "dataset": description["dataset"]["name"],
        "model": description["network"],
        "training": training,
        "seed": description["seed"],
    }


def accuracy_columns(flags: np.ndarray) -> Row:
    """Return the columns of an accuracy from its images' flags."""
    accuracy = wilson(int(flags.sum()), len(flags))
    return {
        "n": accuracy.n,
        "correct": accuracy.correct,
        "accuracy": round(accuracy.percent, DECIMALS),
        "ci_low": round(accuracy.low, DECIMALS),
        "ci_high": round(accuracy.high, DECIMALS),
    }


def curve_rows(arrays: Mapping[str, np.ndarray], description: Mapping[str, Any]) -> list[Row]:
    """Return one row for each budget of an outcome file's curve of accuracy against epsilon."""
    cell = network_columns(description, description["checkpoints"]["selected"]["loss"])
    points = zip(description["epsilon_curve"], arrays["curve"], strict=True)
    return [
        {
            **cell,
            "attack": description["curve_attack"],
            "norm": description["threat"]["norm"],
            "epsilon": point["epsilon"],
            "budget": point["budget"],
            **accuracy_columns(flags),
        }
        for point, flags in points
    ]


def blackbox_rows(arrays: Mapping[str, np.ndarray], description: Mapping[str, Any]) -> list[Row]:
    """Return one row for each target and source; the source of Square is ``square``.

    Parameters
    ----------
    arrays
        ``<seed>.<target>.<source>`` to uint8 of shape (n,), 1 where the image is robust.
    description
        The outcome file's description.
    """
    networks = description["networks"]
    seeds = sorted({int(key.split(".")[0]) for key in arrays})
    return [
        {
            "dataset": description["dataset"],
            "model": target,
            "training": description["losses"][target],
            "seed": seed,
            "source": source,
            "norm": description["threat"]["norm"],
            "epsilon": description["threat"]["epsilon"],
            **accuracy_columns(arrays[f"{seed}.{target}.{source}"]),
        }
        for target in networks
        for seed in seeds
        for source in [*networks, "square"]
    ]


def transfer(whitebox: pd.DataFrame, searched_on: str, searches: Iterable[str]) -> pd.DataFrame:
    """Return the selected checkpoints on datasets other than the one searched on.

    The column ``searched_on`` is empty for networks that no search of the run has found.
    """
    chosen = (whitebox["dataset"] != searched_on) & (whitebox["checkpoint"] == "selected")
    table = whitebox[chosen].drop(columns=["checkpoint", "epoch"])
    found = table["model"].isin(list(searches))
    table.insert(0, "searched_on", found.map({True: searched_on, False: ""}))
    return table


def check_rows(cell: Row, checks: Iterable[Check]) -> list[Row]:
    """Return a row for each check of the network in `cell`; advice where it did not pass."""
    return [
        {**cell, "check": check.id, "status": check.status, "evidence": check.evidence}
        | {"advice": "" if check.status == "PASS" else check.advice}
        for check in checks
    ]


def with_status(whitebox: pd.DataFrame, checks: pd.DataFrame) -> pd.DataFrame:
    """Return the accuracies with a status: ``unreliable`` where a check failed, else ``ok``.

    A failed check of the model ``all`` concerns every network of its dataset and seed.
    """
    failed = checks[checks["status"] == "FAIL"]
    networks = set(zip(failed["dataset"], failed["model"], failed["seed"], strict=True))
    own = zip(whitebox["dataset"], whitebox["model"], whitebox["seed"], strict=True)
    bad = [(d, m, s) in networks or (d, "all", s) in networks for d, m, s in own]
    return whitebox.assign(status=["unreliable" if flag else "ok" for flag in bad])


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


def write_tables(
    outputs: Mapping[str, Path], tables: Mapping[str, pd.DataFrame | list[Row]]
) -> None:
    """Write each table to the outputs ``<name>_csv`` and ``<name>_md``, as far as there are."""
    for name, content in tables.items():
        table = content if isinstance(content, pd.DataFrame) else pd.DataFrame(content)
        for kind, text in (("csv", to_csv), ("md", to_markdown)):
            if f"{name}_{kind}" in outputs:
                write_bytes(outputs[f"{name}_{kind}"], text(table).encode())


COUNTED = ("seed", "n", "correct", "accuracy", "ci_low", "ci_high")
BESIDE = ("n", "seeds", "ours", "published", "difference")
NUMBERS = {*COUNTED, *BESIDE}
COLUMNS = {
    "whitebox": (*CELL, "checkpoint", "attack", "epsilon", *COUNTED),
    "curve": (*CELL, "attack", "epsilon", *COUNTED),
    "blackbox": (*CELL, "source", "epsilon", *COUNTED),
    "checks": (*CELL, "seed", "check", "status", "evidence", "advice"),
    "published": (*CELL, "checkpoint", "attack", *BESIDE, "source", "recipe", "protocol"),
}
"""Columns without which some tables are of no use; those of `NUMBERS` hold numbers."""


def read_table(path: Path, manifest: Path | None = None) -> pd.DataFrame:
    """Read a table written by `write_tables`; one without rows may have no columns.

    Parameters
    ----------
    path
        A CSV file; what some tables must hold is known by their names.
    manifest
        That of the stage which has written it, for comparison.

    Raises
    ------
    UserError
        When the file is missing or damaged.
    """
    if not path.exists():
        raise UserError(
            f"{path} is missing: run `snakemake --cores all`, or name a folder of tables."
        )
    data = read_verified(path, manifest)
    try:
        table = pd.read_csv(io.BytesIO(data), dtype={"epsilon": str}, keep_default_na=True)
    except pd.errors.EmptyDataError:
        table = pd.DataFrame()
    except (ValueError, pd.errors.ParserError) as error:
        raise _no_table(path, " ".join(str(error).split())) from None
    # Without rows where nothing fits; what a column holds is then not known.
    absent = path.stem == "published" and table.empty
    for column in COLUMNS.get(path.stem, ()):
        if column not in table:
            raise _no_table(path, f"it has no column {column}")
        numbers = pd.api.types.is_numeric_dtype(table[column]) and table[column].notna().all()
        if column in NUMBERS and not numbers and not absent:
            raise _no_table(path, f"its column {column} does not hold numbers only")
    return table


def _no_table(path: Path, reason: str) -> UserError:
    """Return what to say of a file that holds no table of results."""
    return UserError(
        f"{path} is not a readable table ({reason}): delete it and run `snakemake --cores all`, or "
        "restore it from git."
    )


def to_csv(table: pd.DataFrame) -> str:
    """Return a table as CSV with Unix line ends."""
    return str(table.to_csv(index=False, lineterminator="\n"))


def to_markdown(table: pd.DataFrame) -> str:
    """Return a table as GitHub Markdown; missing values are empty."""
    if table.empty:
        return "Nothing of this kind was measured in this run.\n"
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
