"""Whether the tables of a rerun reproduce the committed ones.

Equal seed, torch version, threads and CPU give equal bytes. Elsewhere rounding differs, adversarial
training amplifies it, and two runs are like two draws: they agree when each accuracy differs by no
more than chance explains and the conclusions are the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from arnas.evaluation.result import FURTHER
from arnas.reporting.options import Ordering
from arnas.reporting.run.tables import read_table
from arnas.runtime.errors import UserError

TABLES = ("whitebox", "curve", "blackbox")
"""Tables of accuracies that a rerun must reproduce."""
MEASURED = {"epoch", "correct", "accuracy", "ci_low", "ci_high", "status"}
"""Their columns that may differ; all others name the accuracy."""
QUANTILE = 2.58
"""Two-sided 99 % of the normal distribution."""
SLACK = 2.0
"""Percentage points allowed on top, for what a seed does not fix."""


def tolerance(reference: float, found: float, n: int) -> float:
    """Return the largest difference, in points, of two accuracies in percent over n images.

    2.58 sqrt(2 p (1 - p) / n) for their mean p, plus 2 points.
    """
    p = (reference + found) / 200
    return 100 * QUANTILE * math.sqrt(2 * p * (1 - p) / n) + SLACK


def drift(reference: pd.DataFrame, found: pd.DataFrame) -> list[str]:
    """Return a sentence for each accuracy of a table that does not reproduce the reference.

    What checks and the curve broke beyond the attacks is a row only where it is anything, which
    rounding may decide: it may be on one side, where the union counts it.
    """
    keys = [column for column in reference.columns if column not in MEASURED]
    if set(keys) != set(found.columns) - MEASURED:
        return [f"the columns are {', '.join(found.columns)}, before they were {', '.join(keys)}"]
    try:
        pairs = reference.merge(
            found, on=keys, how="outer", suffixes=("", "_found"), indicator=True, validate="1:1"
        )
    except ValueError as error:  # a row stands twice, or a column holds other things
        return [f"the rows cannot be compared: {' '.join(str(error).split())}"]
    sentences = []
    for row in pairs.to_dict("records"):
        what = " ".join(str(row[key]) for key in keys if key != "n") + f" (n={row['n']})"
        if row["_merge"] != "both" and row.get("attack") == FURTHER:
            continue
        if row["_merge"] != "both":
            side = "reference" if row["_merge"] == "left_only" else "rerun"
            sentences.append(f"{what}: only in the {side}")
            continue
        old, new = float(row["accuracy"]), float(row["accuracy_found"])
        allowed = tolerance(old, new, int(row["n"]))
        if not abs(old - new) <= allowed:
            sentences.append(f"{what}: {old} before, {new} now, allowed difference {allowed:.2f}")
    return sentences


def violated(table: pd.DataFrame, orderings: Iterable[Ordering]) -> list[str]:
    """Return a sentence for each ordering that the table does not show, over the mean of seeds."""
    chosen = table[table["checkpoint"] == "selected"]
    means = chosen.groupby(["dataset", "attack", "model"])["accuracy"].mean()
    sentences = []
    for rule in orderings:
        try:
            better = float(means[rule.dataset, rule.attack, rule.better])
            worse = float(means[rule.dataset, rule.attack, rule.worse])
        except KeyError as error:
            raise UserError(
                f"reproduction.orderings names {error}, which the table does not have: correct "
                "the names of dataset, attack and networks."
            ) from None
        if not better >= worse + rule.by:
            sentences.append(
                f"{rule.dataset} {rule.attack}: {rule.better} has {better:.2f} and {rule.worse} "
                f"{worse:.2f}, expected is a lead of at least {rule.by:g}"
            )
    return sentences


def compare_folders(
    reference: Path, found: Path, orderings: Sequence[Ordering]
) -> tuple[list[str], str]:
    """Return a sentence for each difference of a folder of tables, and the verdict in one."""
    problems: list[str] = []
    count, same = 0, True
    for name in TABLES:
        paths = [folder / f"{name}.csv" for folder in (reference, found)]
        before, now = (read_table(path) for path in paths)
        problems += [f"{name}: {problem}" for problem in drift(before, now)]
        same &= paths[0].read_bytes() == paths[1].read_bytes()
        count += len(before)
        if name == "whitebox":
            problems += violated(now, orderings)
    if problems:
        return problems, f"{found} does not reproduce {reference}: {len(problems)} differences"
    equal = "the same bytes" if same else f"{count} accuracies within tolerance"
    return [], f"{found} reproduces {reference}: {equal}, orderings hold"
