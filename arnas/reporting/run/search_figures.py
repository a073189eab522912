"""Figures of the search and of what it found. Each draws one result table and nothing else."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from arnas.reporting.style import PALETTE, assigned, nothing, panels
from arnas.spaces.registry import colour_of, label_of


def gamma(table: pd.DataFrame) -> Figure:
    """Draw the share of the natural gradient in each step of the second stage."""
    if table.empty:
        return nothing("no step of this run combined two gradients")
    colour = assigned(table["search"], PALETTE)
    figure, (panel,) = panels(1, 2.3)
    for (search, _), rows in table.groupby(["search", "seed"], sort=False):
        panel.plot(rows["step"], rows["gamma"], color=colour[str(search)], linewidth=1.1)
    keys = [Line2D([], [], color=value, label=name) for name, value in colour.items()]
    panel.legend(handles=keys, loc="upper left")
    panel.set_ylim(0, max(1.15 * float(table["gamma"].max()), 0.05))
    panel.set_xlabel("architecture step of the search")
    panel.set_ylabel("gamma: 1 is natural only,\n0 adversarial only")
    return figure


def alphas(table: pd.DataFrame) -> Figure:
    """Draw the softmax weight of each operation: mean over the edges, and their range."""
    if table.empty:
        return nothing("no search in this run")
    table, chosen = _first_seed(table)
    cells = list(table.groupby(["search", "kind"], sort=False))
    figure, axes = panels(len(cells), 1.9)
    for panel, ((search, kind), here) in zip(axes, cells, strict=True):
        for name, rows in here.groupby("primitive", sort=False):
            colour = colour_of(str(name))
            panel.fill_between(
                rows["epoch"], rows["lowest"], rows["highest"], color=colour, alpha=0.08
            )
            panel.plot(rows["epoch"], rows["mean"], color=colour)
        panel.set_title(f"{search}: {kind} cell{chosen}")
        panel.set_ylabel("weight")
    axes[-1].set_xlabel("epoch of the search")
    names = dict.fromkeys(table["primitive"])
    keys = [Line2D([], [], color=colour_of(name), label=label_of(name)) for name in names]
    figure.legend(handles=keys, loc="outside lower center", ncols=4)
    return figure


def _first_seed(table: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """Return the rows of the first seed, and its name for titles where there are others."""
    first = table["seed"].iloc[0]
    chosen = f", seed {first}" if table["seed"].nunique() > 1 else ""
    return table[table["seed"] == first], chosen


def operations(table: pd.DataFrame) -> Figure:
    """Draw the share of each operation in each cell, the first cell at the top."""
    if table.empty:
        return nothing("no network of this run has cells")
    table, chosen = _first_seed(table)
    models = list(table.groupby("model", sort=False))
    depth = int(table["cell"].max()) + 1
    figure, axes = panels(len(models), 0.75 + 0.24 * depth)
    for panel, (model, here) in zip(axes, models, strict=True):
        cells = here[["cell", "kind"]].drop_duplicates()
        left = pd.Series(0.0, index=cells["cell"])
        for name, rows in here.groupby("primitive", sort=False):
            share = rows.set_index("cell")["share"]
            panel.barh(share.index, share, left=left, color=colour_of(str(name)), height=0.8)
            left = left + share
        panel.set_yticks(cells["cell"], [f"{row.cell} {row.kind}" for row in cells.itertuples()])
        panel.invert_yaxis()
        panel.set_xlim(0, 100)
        panel.grid(visible=False, axis="y")
        panel.set_title(f"{model}{chosen}")
    axes[-1].set_xlabel("share of the cell's operations, percent")
    names = dict.fromkeys(table["primitive"])
    keys = [Patch(color=colour_of(name), label=label_of(name)) for name in names]
    figure.legend(handles=keys, loc="outside lower center", ncols=4)
    return figure
