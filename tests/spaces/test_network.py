"""Derived networks against a plain one built from the same description."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from network_cases import assert_same_network

from arnas.runtime.errors import UserError
from arnas.spaces.genotype import Cell, Edge, Genotype
from arnas.spaces.network import DerivedNetwork
from arnas.spaces.options import SpaceOptions
from arnas.spaces.published import ARNAS
from benchmarks.reference.layers import PRIMITIVE_NAMES, PlainNetwork


@st.composite
def cells_of(draw: st.DrawFn) -> Cell:
    """A cell with one to three edges a node, which may come from the same state."""
    edge = st.tuples(st.sampled_from(PRIMITIVE_NAMES), st.integers(0, 4))
    nodes = [draw(st.lists(edge, min_size=1, max_size=3)) for _ in range(4)]
    return tuple(
        tuple(Edge(name, state % (node + 2)) for name, state in edges)
        for node, edges in enumerate(nodes)
    )


def compare(genotype: Genotype, space: SpaceOptions, count: int, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    sizes = {"in_channels": 2, "channels": 2}
    network = DerivedNetwork(genotype, space, num_classes=3, cells=count, **sizes).double()
    first, second = count // 3, 2 * count // 3
    kinds = [space.kinds[(i >= first) + (i >= second)] for i in range(count)]
    kinds[first] = kinds[second] = "reduction"
    cells = [genotype.cells[kind] for kind in kinds]
    plain = PlainNetwork(cells, space.widths, num_classes=3, **sizes).double()
    assert_same_network(network, plain, torch.rand(4, 2, *size, dtype=torch.float64))


@pytest.mark.parametrize("size", [(8, 8), (7, 7), (5, 10)], ids=str)
@pytest.mark.parametrize("cells", [3, 4, 6])
def test_arnas_network(cells: int, size: tuple[int, int]) -> None:
    compare(ARNAS.genotype, ARNAS.space, cells, size)


@settings(max_examples=15, deadline=None)
@given(cells_of(), cells_of(), cells_of(), st.sampled_from([(6, 6), (9, 7)]))
def test_any_genotype(first: Cell, second: Cell, third: Cell, size: tuple[int, int]) -> None:
    genotype = Genotype({"accurate": first, "robust": second, "reduction": third}, "random")
    space = SpaceOptions(kinds=["robust", "accurate", "robust"], widths=[2, 1, 3])
    compare(genotype, space, 5, size)


def small(**changes: object) -> DerivedNetwork:
    sizes = {"num_classes": 3, "in_channels": 2, "channels": 2, "cells": 3}
    return DerivedNetwork(ARNAS.genotype, ARNAS.space, **(sizes | changes))


def test_normalisation_is_inside_and_not_trained() -> None:
    torch.manual_seed(0)
    mean, std = [0.4, 0.5], [0.2, 0.25]
    normalised = small(mean=mean, std=std).eval()
    plain = small().eval()
    weights = normalised.state_dict()
    assert {"normalise.mean", "normalise.std"} <= set(weights)
    assert not any(name.startswith("normalise") for name, _ in normalised.named_parameters())
    kept = {name: value for name, value in weights.items() if "normalise" not in name}
    plain.load_state_dict(kept, strict=False)
    x = torch.rand(3, 2, 8, 8)
    by_hand = torch.stack([(x[:, c] - mean[c]) / std[c] for c in range(2)], dim=1)
    torch.testing.assert_close(normalised(x), plain(by_hand))


def test_a_missing_kind_is_named() -> None:
    cells = {kind: ARNAS.genotype.cells[kind] for kind in ("accurate", "reduction")}
    genotype = Genotype(cells, "here")
    with pytest.raises(UserError, match=r"here .* the space's kinds need robust.*space\.kinds"):
        DerivedNetwork(genotype, SpaceOptions(), num_classes=2, in_channels=1, channels=2, cells=4)
