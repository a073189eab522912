"""Derived networks against a plain one built from the same description."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_layers import PRIMITIVE_NAMES, PlainFactorizedReduce, primitive, relu_conv
from torch import Tensor, nn

from arnas.runtime.errors import UserError
from arnas.spaces.genotype import Cell, Edge, Genotype
from arnas.spaces.network import DerivedNetwork
from arnas.spaces.options import SpaceOptions
from arnas.spaces.published import ARNAS


def plain_network(
    genotype: Genotype, space: SpaceOptions, in_channels: int, channels: int, cells: int
) -> nn.ModuleList:
    """Return stem, then per cell its two preprocessings and its operations, then classifier."""
    older = newer = 3 * channels
    stem = [nn.Conv2d(in_channels, newer, 3, padding=1, bias=False), nn.BatchNorm2d(newer)]
    layers: list[nn.Module] = [nn.Sequential(*stem)]
    stage, shrunk = 0, False
    for index in range(cells):
        reduces = index in (cells // 3, 2 * cells // 3)
        stage += reduces
        width = channels * space.widths[stage]
        make = PlainFactorizedReduce if shrunk else relu_conv
        layers += [make(older, width, True), relu_conv(newer, width, True)]
        for node in genotype.cells["reduction" if reduces else space.kinds[stage]]:
            for name, state in node:
                layers.append(primitive(name, width, 2 if reduces and state < 2 else 1))
        older, newer, shrunk = newer, 4 * width, reduces
    return nn.ModuleList([*layers, nn.Linear(newer, 3)])


def plain_forward(
    network: nn.ModuleList, genotype: Genotype, space: SpaceOptions, cells: int, x: Tensor
) -> Tensor:
    layers = iter(network)
    older = newer = next(layers)(x)
    stage = 0
    for index in range(cells):
        reduces = index in (cells // 3, 2 * cells // 3)
        stage += reduces
        states = [next(layers)(older), next(layers)(newer)]
        for node in genotype.cells["reduction" if reduces else space.kinds[stage]]:
            states.append(torch.stack([next(layers)(states[state]) for _, state in node]).sum(0))
        older, newer = newer, torch.cat(states[2:], dim=1)
    return next(layers)(newer.mean((2, 3)))


@st.composite
def cells_of(draw: st.DrawFn) -> Cell:
    """A cell with one to three edges a node, which may come from the same state."""
    edge = st.tuples(st.sampled_from(PRIMITIVE_NAMES), st.integers(0, 4))
    nodes = [draw(st.lists(edge, min_size=1, max_size=3)) for _ in range(4)]
    return tuple(
        tuple(Edge(name, state % (node + 2)) for name, state in edges)
        for node, edges in enumerate(nodes)
    )


def assert_same_network(
    genotype: Genotype, space: SpaceOptions, cells: int, size: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    sizes = {"in_channels": 2, "channels": 2, "cells": cells}
    network = DerivedNetwork(genotype, space, num_classes=3, **sizes).double()
    plain = plain_network(genotype, space, **sizes).double()
    own, other = plain.state_dict(), network.state_dict()
    constants = [name for name in other if name.startswith("normalise.")]
    values = [value for name, value in other.items() if name not in constants]
    plain.load_state_dict(dict(zip(own, values, strict=True)))
    x = torch.rand(4, 2, *size, dtype=torch.float64)
    for train in (True, False):
        network.train(train)
        plain.train(train)
        found = network(x)
        expected = plain_forward(plain, genotype, space, cells, x)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("size", [(8, 8), (7, 7), (5, 10)], ids=str)
@pytest.mark.parametrize("cells", [3, 4, 6])
def test_arnas_network(cells: int, size: tuple[int, int]) -> None:
    assert_same_network(ARNAS.genotype, ARNAS.space, cells, size)


@settings(max_examples=15, deadline=None)
@given(cells_of(), cells_of(), cells_of(), st.sampled_from([(6, 6), (9, 7)]))
def test_any_genotype(first: Cell, second: Cell, third: Cell, size: tuple[int, int]) -> None:
    genotype = Genotype({"accurate": first, "robust": second, "reduction": third}, "random")
    space = SpaceOptions(kinds=["robust", "accurate", "robust"], widths=[2, 1, 3])
    assert_same_network(genotype, space, 5, size)


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
