"""Drawings of cells."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch

from arnas.reporting.style import panels, styled, svg_bytes
from arnas.runtime.files import write_bytes
from arnas.spaces.genotype import INPUTS, Cell, Genotype
from arnas.spaces.registry import colour_of, label_of

KINDS = ("accurate", "normal", "reduction", "robust")
"""The kinds in the order of the drawing, as they stand in a network."""
POSITIONS = ((0.0, 1.0), (0.0, -1.0), (1.6, 0.0), (3.2, 0.9), (4.8, -0.9), (6.4, 0.3))
"""Places of the two inputs and the four nodes."""
OUTPUT = (7.9, 0.0)
NAMES = ("older\ninput", "newer\ninput", "2", "3", "4", "5")


def draw_cells(path: Path, genotype: Genotype) -> None:
    """Draw every cell of a genotype below each other and write an SVG, the same bytes each time."""
    with styled():
        write_bytes(path, svg_bytes(cells_figure(genotype)))


def cells_figure(genotype: Genotype) -> Figure:
    """Return the drawing of every cell of a genotype, below each other."""
    kinds = [kind for kind in KINDS if kind in genotype.cells]
    figure, axes = panels(len(kinds), 2.0)
    for panel, kind in zip(axes, kinds, strict=True):
        _draw(panel, kind, genotype.cells[kind])
    return figure


def _draw(axes: Axes, kind: str, cell: Cell) -> None:
    """Draw one cell: states as circles, operations as labelled arrows."""
    axes.set_title(f"{kind.capitalize()} cell")
    axes.set_xlim(-0.8, 8.7)
    axes.set_ylim(-1.6, 1.5)
    axes.axis("off")
    for node, edges in enumerate(cell):
        for edge in edges:
            _arrow(axes, edge.state, INPUTS + node, edge.primitive)
    for start in POSITIONS[INPUTS:]:  # the output concatenates the nodes
        x, y = zip(start, OUTPUT, strict=True)
        axes.plot(x, y, color="#bbbbbb", linewidth=0.9, linestyle=":", zorder=1)
    for place, name in zip((*POSITIONS, OUTPUT), (*NAMES, "out"), strict=True):
        axes.text(
            *place,
            name,
            ha="center",
            va="center",
            fontsize=6.5,
            bbox={"boxstyle": "round,pad=0.4", "facecolor": "white", "edgecolor": "#333333"},
            zorder=4,
        )


def _arrow(axes: Axes, source: int, target: int, primitive: str) -> None:
    """Draw an operation; arrows over longer spans bend further out."""
    start, end = POSITIONS[source], POSITIONS[target]
    bend = 0.0 if target - source == 1 else 0.13 * (1 if start[1] <= end[1] else -1)
    colour = colour_of(primitive)
    axes.add_patch(
        FancyArrowPatch(
            start,
            end,
            connectionstyle=f"arc3,rad={bend}",
            arrowstyle="-|>",
            mutation_scale=8,
            shrinkA=9,
            shrinkB=8,
            color=colour,
            linewidth=1.4,
            zorder=2,
        )
    )
    share = 0.38
    along = [a + share * (b - a) for a, b in zip(start, end, strict=True)]
    across = (end[1] - start[1], -(end[0] - start[0]))
    # arc3 is a quadratic curve whose control point lies `bend` lengths beside the chord.
    offset = 2 * share * (1 - share) * bend
    axes.text(
        along[0] + offset * across[0],
        along[1] + offset * across[1],
        label_of(primitive),
        ha="center",
        va="center",
        fontsize=7,
        color="#222222",
        bbox={"boxstyle": "round,pad=0.08", "facecolor": "white", "edgecolor": "none"},
        zorder=3,
    )
