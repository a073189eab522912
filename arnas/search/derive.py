"""From architecture parameters to a genotype."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from arnas.spaces.genotype import INPUTS, NODES, PRIMITIVES, Cell, Edge, Genotype, edge_index

KEPT = 2
"""Edges kept for each node."""


def derive_cell(table: Tensor) -> Cell:
    """Keep the two strongest edges of each node and the strongest operation of each edge.

    Edges are ranked by the softmax weight of their strongest operation (DARTS, arXiv 1806.09055,
    section 2.4); on equal weights the earlier state, and the earlier operation, win.

    Parameters
    ----------
    table
        Architecture table of shape (14, 7).
    """
    strength, operation = table.softmax(dim=1).max(dim=1)
    cell = []
    for node in range(NODES):
        rows = {state: edge_index(node, state) for state in range(INPUTS + node)}
        ranked = sorted(rows, key=lambda state: -float(strength[rows[state]]))[:KEPT]
        cell.append(tuple(Edge(PRIMITIVES[int(operation[rows[s]])], s) for s in ranked))
    return tuple(cell)


def derive_genotype(tables: Mapping[str, Tensor], origin: str) -> Genotype:
    """Return the genotype of a set of architecture parameters; `origin` names the run."""
    return Genotype({kind: derive_cell(table) for kind, table in tables.items()}, origin)


def count_skips(genotype: Genotype) -> dict[str, int]:
    """Return how many of the eight operations of each kind are skip connections."""
    return {
        kind: sum(edge.primitive == "skip_connect" for edges in cell for edge in edges)
        for kind, cell in genotype.cells.items()
    }


def collapsed(genotype: Genotype) -> list[str]:
    """Return the kinds, `reduction` apart, of which more than half the operations are skips.

    Differentiable search tends towards skip connections because they help the supernet's other
    operations train, not because the derived network is better (arXiv 1909.09656).
    """
    half = NODES * KEPT // 2
    skips = count_skips(genotype)
    return [kind for kind, count in skips.items() if kind != "reduction" and count > half]
