"""How every figure looks and is written: narrow enough for a phone, the same bytes each time."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

WIDTH = 4.8
"""Inches; a page shows it at its own size, a phone a little smaller."""
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#b8860b", "#444444", "#882255")
"""Told apart without seeing red or green (Okabe and Ito), darkened for lines on white."""
MARKERS = "osD^vP*X"
GREY = "#888888"
RC: dict[str, Any] = {
    "svg.hashsalt": "arnas",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "sans-serif"],
    "font.size": 8.5,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e3e3e3",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
}


@contextmanager
def styled() -> Iterator[None]:
    """Draw in the house style; a user's own matplotlibrc would change the bytes."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(RC)  # type: ignore[arg-type]
        yield


def panels(
    count: int, height: float, columns: int = 1, heights: Sequence[float] | None = None
) -> tuple[Figure, list[Axes]]:
    """Return a figure of the house's width with `count` panels, each `height` inches high.

    `heights` are those of the rows where they differ.
    """
    rows = -(-count // columns)
    figure = Figure(figsize=(WIDTH, height * rows), layout="constrained")
    grid = figure.add_gridspec(rows, columns, height_ratios=heights)
    axes = [figure.add_subplot(grid[divmod(number, columns)]) for number in range(count)]
    return figure, axes


def nothing(text: str) -> Figure:
    """Return a figure that says why there is nothing to draw."""
    figure, (axes,) = panels(1, 0.8)
    axes.axis("off")
    axes.text(0.5, 0.5, text, ha="center", va="center", color=GREY)
    return figure


def assigned(names: Iterable[str], looks: Sequence[str]) -> dict[str, str]:
    """Return a colour of `PALETTE` or a marker of `MARKERS` for each name, in their order."""
    return dict(zip(dict.fromkeys(names), cycle(looks), strict=False))


def svg_bytes(figure: Figure) -> bytes:
    """Return a figure as SVG, the same bytes each time."""
    stream = io.BytesIO()
    figure.savefig(stream, format="svg", metadata={"Date": None})
    return stream.getvalue()
