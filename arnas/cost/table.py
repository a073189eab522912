"""What a run would cost, row by row, and these rows as a table and as JSON values."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rich.table import Table

FOOT = (
    "Hours are of one device at work on one job after the other; attacks are counted as if they "
    "broke no image, and attacks of your own not at all. Derivation, analysis, tables and report "
    "take seconds."
)


@dataclass(frozen=True)
class Cost:
    """The cost of one row: a stage on one dataset, of one search or network."""

    stage: str
    dataset: str
    name: str
    """Of the search or network; empty where there is none."""
    runs: int
    """Instances of it: one for each seed, or one."""
    steps: int
    """Of one instance: batches trained on, or passes of a batch through an attacked network."""
    step_seconds: float | None
    """Mean seconds of a step; None where nothing is computed or it could not be measured."""
    memory: int | None
    """Peak in bytes, while measuring."""
    disk: int
    """Bytes of the outputs of all instances."""
    note: str = ""

    @property
    def hours(self) -> float:
        """Return the hours of all instances, one after the other."""
        return self.runs * self.steps * (self.step_seconds or 0.0) / 3600


def as_table(rows: Sequence[Cost], title: str) -> Table:
    """Return a table with a line for each row and their totals."""
    table = Table(title=title, caption=FOOT, show_footer=True)
    hours, disk = (sum(values) for values in zip(*((r.hours, r.disk) for r in rows), strict=True))
    numbers = ("runs", "steps", "s/step", "hours", "peak memory", "disk")
    footers = {"stage": "total", "hours": _hours(hours), "disk": _size(disk)}
    for name in ("stage", "dataset", "name", *numbers, "note"):
        justify: Literal["left", "right"] = "right" if name in numbers else "left"
        table.add_column(name, footers.get(name, ""), justify=justify)
    for row in rows:
        table.add_row(
            row.stage,
            row.dataset,
            row.name,
            str(row.runs),
            f"{row.steps:,}" if row.steps else "-",
            "-" if row.step_seconds is None else f"{row.step_seconds:.3g}",
            "-" if row.step_seconds is None else _hours(row.hours),
            "-" if row.memory is None else _size(row.memory),
            _size(row.disk),
            row.note,
        )
    return table


def as_json(rows: Sequence[Cost]) -> dict[str, Any]:
    """Return the rows and their totals as JSON values; sizes are in bytes."""
    return {
        "rows": [dataclasses.asdict(row) | {"hours": row.hours} for row in rows],
        "hours": sum(row.hours for row in rows),
        "disk": sum(row.disk for row in rows),
    }


def _hours(hours: float) -> str:
    """Return hours with the digits that matter."""
    return f"{hours:,.0f}" if hours >= 100 else f"{hours:.2g}"


def _size(count: int) -> str:
    """Return a number of bytes in MB or GB."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
