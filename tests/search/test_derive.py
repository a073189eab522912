"""From architecture parameters to genotypes, against a search over everything a cell could be."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from math import exp

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from arnas.search.derive import collapsed, count_skips, derive_cell, derive_genotype
from arnas.spaces.genotype import Cell, Edge, Genotype
from arnas.spaces.published import ARNAS
from arnas.spaces.registry import PRIMITIVES

FIRST_ROW = (0, 2, 5, 9)
"""Row of the first edge into each node: two edges enter the first, five the last."""


def softmax(row: list[float]) -> list[float]:
    total = sum(exp(value) for value in row)
    return [exp(value) / total for value in row]


def choices(node: int) -> Iterator[tuple[int, int]]:
    """Yield every pair of states that could feed a node, earlier states first."""
    yield from combinations(range(node + 2), 2)


def oracle(table: list[list[float]]) -> Cell:
    """Try every wiring and keep the one of the greatest sum of the edges' largest weights.

    The two largest of a set are the pair of greatest sum. The stronger edge is named first.
    """
    weights = [softmax(row) for row in table]
    cell = []
    for node, first in enumerate(FIRST_ROW):
        strength = [max(weights[first + state]) for state in range(node + 2)]
        pair = max(choices(node), key=lambda pair: strength[pair[0]] + strength[pair[1]])
        ordered = sorted(pair, key=lambda state: (-strength[state], state))
        cell.append(tuple(Edge(_operation(weights[first + s]), s) for s in ordered))
    return tuple(cell)


def _operation(weights: list[float]) -> str:
    return PRIMITIVES[weights.index(max(weights))]


numbers = st.floats(-3, 3, allow_nan=False, width=16)
tables = st.lists(st.lists(numbers, min_size=7, max_size=7), min_size=14, max_size=14)


@settings(max_examples=60, derandomize=True, deadline=None)
@given(tables)
def test_no_wiring_and_no_operation_is_better(table: list[list[float]]) -> None:
    """Ties may fall either way by rounding, so strengths are compared and not names."""
    weights = [softmax(row) for row in table]
    found, best = derive_cell(torch.tensor(table, dtype=torch.float64)), oracle(table)
    for first, edges, expected in zip(FIRST_ROW, found, best, strict=True):
        rows = [first + edge.state for edge in edges]
        taken = [
            weights[r][PRIMITIVES.index(e.primitive)] for r, e in zip(rows, edges, strict=True)
        ]
        largest = [max(weights[first + edge.state]) for edge in expected]
        assert len(set(rows)) == 2
        assert taken == pytest.approx(largest, rel=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_a_cell_of_a_random_table_is_the_best_one(seed: int) -> None:
    """Without ties, wiring, operations and order are determined."""
    table = torch.randn(14, 7, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    assert derive_cell(table) == oracle(table.tolist())


def test_an_edge_is_ranked_by_its_share_not_by_its_number() -> None:
    """A large number among equally large ones is no strong operation."""
    table = torch.zeros(14, 7)
    table[2] = 9.0
    table[3, 4] = table[4, 5] = 1.0
    assert derive_cell(table)[1] == (Edge("sep_conv_5x5", 1), Edge("dil_conv_3x3", 2))


def test_of_equal_edges_the_earlier_states_are_kept_and_the_first_operation() -> None:
    first = (Edge(PRIMITIVES[0], 0), Edge(PRIMITIVES[0], 1))
    assert derive_cell(torch.zeros(14, 7)) == (first,) * 4


def table_of(cell: Cell) -> Tensor:
    """Return a table whose strongest edges are those of a cell, the first named the strongest."""
    table = 0.1 * torch.randn(14, 7, generator=torch.Generator().manual_seed(6))
    for first, edges in zip(FIRST_ROW, cell, strict=True):
        for edge, strength in zip(edges, (4.0, 3.0), strict=True):
            table[first + edge.state, PRIMITIVES.index(edge.primitive)] = strength
    return table


def test_the_published_cells_come_back_from_a_table_of_them() -> None:
    published = ARNAS.genotype.cells
    found = derive_genotype({kind: table_of(cell) for kind, cell in published.items()}, "here")
    assert found == Genotype(published, "here")


def test_the_published_cells_have_the_skips_of_the_paper() -> None:
    assert count_skips(ARNAS.genotype) == {"accurate": 3, "reduction": 0, "robust": 0}
    assert collapsed(ARNAS.genotype) == []


def with_skips(count: int) -> Cell:
    """Return a cell with so many skips among its eight operations."""
    names = ["skip_connect"] * count + ["sep_conv_3x3"] * (8 - count)
    return tuple((Edge(names[2 * n], 0), Edge(names[2 * n + 1], 1)) for n in range(4))


@pytest.mark.parametrize("count", range(9))
def test_a_cell_collapses_when_more_than_half_of_it_are_skips(count: int) -> None:
    cells = {"accurate": with_skips(count), "robust": with_skips(2), "reduction": with_skips(8)}
    genotype = Genotype(cells, "a test")
    assert count_skips(genotype) == {"accurate": count, "robust": 2, "reduction": 8}
    assert collapsed(genotype) == (["accurate"] if count > 4 else [])
