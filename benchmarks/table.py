"""The benchmark's results as a table, for the terminal and for the documentation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from arnas.reporting.run.tables import to_markdown


def _agreement(found: Mapping[str, Any]) -> str:
    """Return in words how far the results of both agree."""
    if "robust" in found:
        pairs = zip(*found["robust"], strict=True)
        counts = ", ".join(f"{ours} and {theirs}" for ours, theirs in pairs)
        return f"robust of {found['images']}: {counts}"
    return ", ".join(f"{name} {value:.0e}" for name, value in found.items())


def _cells(row: Mapping[str, Any]) -> dict[str, str]:
    """Return a row's cells by their headings."""
    spread, floor = row["spread"], row["floor_ratio"]
    return {
        "work": row["work"],
        "peer": row["peer"],
        "ratio": "" if row["ratio"] is None else f"{row['ratio']:.2f}",
        "spread": "" if spread is None else f"{spread[0]:.2f} to {spread[1]:.2f}",
        "target": f"{row['target']:.2f}",
        "verdict": row["verdict"],
        "over bare passes": "" if floor is None else f"{floor:.2f}",
        "agreement": _agreement(row["agreement"]),
    }


def markdown(results: Mapping[str, Any]) -> str:
    """Return the table, and where and when it was measured."""
    where = results["environment"]
    load = ", ".join(f"{value:.1f}" for value in where["load"])
    return (
        f"{to_markdown(pd.DataFrame([_cells(row) for row in results['rows']]))}\n"
        f"{where['date']}, one thread of {where['cpu']} ({where['cores']} cores, "
        f"{where['capability']}), PyTorch {where['torch']}, load before and after {load}.\n"
    )
