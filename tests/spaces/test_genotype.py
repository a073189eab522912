"""Genotypes: what is accepted, what is refused and how they are stored."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arnas.runtime.errors import UserError
from arnas.spaces.genotype import (
    EDGES,
    KINDS,
    Cell,
    Edge,
    Genotype,
    edge_index,
    genotype_from_json,
    load_genotype,
    save_genotype,
)
from arnas.spaces.registry import PRIMITIVES

CELL: Cell = tuple((Edge("skip_connect", 0), Edge("sep_conv_3x3", 1)) for _ in range(4))


def with_edge(node: int, edge: Edge) -> dict[str, Cell]:
    """Return cells whose reduction cell has `edge` as the last into `node` (0 to 3)."""
    nodes = list(CELL)
    nodes[node] = (CELL[node][0], edge)
    return {"normal": CELL, "reduction": tuple(nodes)}


@st.composite
def genotypes(draw: st.DrawFn) -> Genotype:
    kinds = draw(st.sets(st.sampled_from(KINDS))) | {"reduction"}
    primitive = st.sampled_from(PRIMITIVES)
    cells = {
        kind: tuple(
            tuple(
                Edge(draw(primitive), state)
                for state in draw(st.lists(st.integers(0, 1 + node), min_size=2, max_size=2))
            )
            for node in range(4)
        )
        for kind in sorted(kinds)
    }
    return Genotype(cells, draw(st.text('a b"\\\u03b1', max_size=5)))


@settings(max_examples=50, deadline=None)
@given(genotypes())
def test_json_text_gives_the_genotype_back(genotype: Genotype) -> None:
    text = json.dumps(genotype.to_json())
    assert genotype_from_json(json.loads(text), "x.json") == genotype


def test_file_gives_the_genotype_back(tmp_path: Path) -> None:
    genotype = Genotype({"normal": CELL, "reduction": CELL}, "a run of seed 0, epoch 3: \u03b1")
    path = tmp_path / "new" / "genotype.json"
    save_genotype(path, genotype)
    assert load_genotype(path) == genotype
    assert sorted(p.name for p in path.parent.iterdir()) == ["genotype.json"]


@pytest.mark.parametrize("node", range(4))
def test_states_up_to_the_node_before_are_allowed(node: int) -> None:
    Genotype(with_edge(node, Edge("skip_connect", node + 1)), "here")
    for state in (node + 2, -1):
        words = f"genotype from here: reduction node {node + 2} takes state {state}, .* 0 to"
        with pytest.raises(UserError, match=words):
            Genotype(with_edge(node, Edge("skip_connect", state)), "here")


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        (
            with_edge(2, Edge("none", 0)),
            f"reduction node 4 .* 'none', allowed are {', '.join(PRIMITIVES)}",
        ),
        ({"odd": CELL, "reduction": CELL}, r"kinds are \['odd', 'reduction'\]"),
        ({"normal": CELL}, "reduction is needed"),
        *(
            ({"reduction": CELL[:1] * n}, f"reduction cell has {n} nodes, allowed are 4")
            for n in (0, 3, 5)
        ),
        ({"reduction": (CELL[0], (), *CELL[2:])}, "reduction node 3 has no edges"),
    ],
)
def test_impossible_cells_are_named(cells: dict[str, Cell], words: str) -> None:
    with pytest.raises(UserError, match=f"genotype from here: .*{words}"):
        Genotype(cells, "here")


def test_origin_falls_back_to_the_source() -> None:
    value = {"cells": {"reduction": [[["skip_connect", 0]]] * 4}}
    assert genotype_from_json(value, "x.json").origin == "x.json"


def test_edge_index_numbers_the_edges_node_by_node() -> None:
    edges = [(node, state) for node in range(4) for state in range(node + 2)]
    assert [edge_index(node, state) for node, state in edges] == list(range(14))
    assert EDGES == 14
