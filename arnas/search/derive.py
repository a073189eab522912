"""From architecture parameters to a genotype."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from arnas.spaces.genotype import INPUTS, NODES, Cell, Edge, Genotype, edge_index
from arnas.spaces.registry import PRIMITIVES

EDGES_PER_NODE = 2
"""Edges of each node in a genotype."""


def derive_cell(table: Tensor, primitives: Sequence[str] = PRIMITIVES) -> Cell:
    """Return the two strongest edges of each node, with the strongest operation of each edge.

    Edges are ranked by the softmax weight of their strongest operation (DARTS, arXiv 1806.09055,
    section 2.4); on equal weights the earlier state, and the earlier operation, win.

    Parameters
    ----------
    table
        Architecture parameters of shape (14, number of primitives).
    primitives
        The operations of the columns.
    """
    strength, operation = table.softmax(dim=1).max(dim=1)
    cell = []
    for node in range(NODES):
        rows = {state: edge_index(node, state) for state in range(INPUTS + node)}
        ranked = sorted(rows, key=lambda state: -float(strength[rows[state]]))[:EDGES_PER_NODE]
        cell.append(tuple(Edge(primitives[int(operation[rows[s]])], s) for s in ranked))
    return tuple(cell)


def derive_genotype(
    tables: Mapping[str, Tensor], origin: str, primitives: Sequence[str] = PRIMITIVES
) -> Genotype:
    """Return the genotype of a set of architecture parameters; `origin` names the run."""
    cells = {kind: derive_cell(table, primitives) for kind, table in tables.items()}
    return Genotype(cells, origin)


def count_skips(genotype: Genotype) -> dict[str, int]:
    """Return the number of skip connections among the eight operations of each kind."""
    return {
        kind: sum(edge.primitive == "skip_connect" for edges in cell for edge in edges)
        for kind, cell in genotype.cells.items()
    }


def collapsed(genotype: Genotype) -> list[str]:
    """Return the kinds, `reduction` apart, of which more than half the operations are skips.

    Differentiable search tends towards skip connections because they help the supernet's other
    operations train, not because the derived network is better (arXiv 1909.09656).
    """
    half = NODES * EDGES_PER_NODE // 2
    skips = count_skips(genotype)
    return [kind for kind, count in skips.items() if kind != "reduction" and count > half]
