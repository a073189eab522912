"""RobNets: their codes, and a plain network from the same bits."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from network_cases import assert_same_network
from torch import nn

from arnas.runtime.errors import UserError
from arnas.spaces.layout import CellPlan
from arnas.spaces.network import DerivedCell
from arnas.spaces.published import ROBNETS
from arnas.spaces.robnet import RobNet, cell_from_code
from benchmarks.reference.layers import PlainNetwork


def density(codes: tuple[str, ...]) -> float:
    """Return the share of ones, the architecture density of arXiv 1911.10695."""
    return sum(code.count("1") for code in codes) / sum(map(len, codes))


LARGE = "11 11 11 11 11 01 11 01 10 11 01 01 01 11"
"""Of RobNet-large, edge by edge."""


@pytest.mark.parametrize("name", ["robnet_large_v1", "robnet_large_v2"])
def test_the_large_networks_share_one_code(name: str) -> None:
    assert ROBNETS[name].codes == (LARGE.replace(" ", ""),)
    assert density(ROBNETS[name].codes) == 22 / 28
    assert round(density(ROBNETS[name].codes), 3) == 0.786


def test_the_free_network_has_a_code_for_each_cell() -> None:
    codes = ROBNETS["robnet_free"].codes
    assert len(codes) == len(set(codes)) == ROBNETS["robnet_free"].cells == 20
    assert round(density(codes), 3) == 0.641
    assert codes[10] == "1110110000001100011000011011"


def test_bits_are_read_in_the_order_of_nodes_and_states() -> None:
    cell = cell_from_code("1001" + "001100" + "10000000" + "0000000001")
    assert [[tuple(edge) for edge in node] for node in cell] == [
        [("skip_connect", 0), ("sep_conv_3x3", 1)],
        [("skip_connect", 1), ("sep_conv_3x3", 1)],
        [("skip_connect", 0)],
        [("sep_conv_3x3", 4)],
    ]


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("10" * 13, "'1010.*': needed are 28 characters"),
        ("10" * 15, "needed are 28 characters"),
        ("12" * 14, "needed are 28 characters 0 and 1"),
        ("", "the code of a RobNet cell is ''"),
        ("0" * 4 + "1" * 24, "nothing enters node 2"),
        ("1" * 18 + "0" * 10, "nothing enters node 5, give one of its edges another code"),
    ],
)
def test_impossible_codes_are_refused(code: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        cell_from_code(code)


def test_identities_only_are_sums_of_states() -> None:
    """Each node doubles what is there; nothing but the preprocessing has parameters."""
    plan = CellPlan("normal", 4, reduction=False, after_reduction=False)
    cell = DerivedCell(cell_from_code("10" * 14), plan, 6, 8, affine=False).double()
    assert sum(p.numel() for p in cell.parameters()) == 6 * 4 + 8 * 4
    older = torch.randn(3, 6, 5, 5, dtype=torch.float64)
    newer = torch.randn(3, 8, 5, 5, dtype=torch.float64)
    total = cell.before0(older) + cell.before1(newer)
    expected = torch.cat([total, 2 * total, 4 * total, 8 * total], 1)
    torch.testing.assert_close(cell(older, newer), expected, rtol=1e-12, atol=1e-12)


@st.composite
def random_code(draw: st.DrawFn) -> str:
    """Any code in which each node has an input."""
    bits = [draw(st.sampled_from(["00", "01", "10", "11"])) for _ in range(14)]
    for start, end in pairwise((0, 2, 5, 9, 14)):
        if not "".join(bits[start:end]).strip("0"):
            bits[start] = "10"
    return "".join(bits)


def build(codes: list[str]) -> RobNet:
    torch.manual_seed(0)
    sizes = {"num_classes": 3, "in_channels": 2, "channels": 2, "cells": len(codes)}
    return RobNet(codes, **sizes).double()


def plain_cell(code: str) -> list[list[tuple[str, int]]]:
    """Return the operations of each node: of every two bits identity, then convolution."""
    cell: list[list[tuple[str, int]]] = [[], [], [], []]
    edges = [(node, state) for node in range(4) for state in range(2 + node)]
    for place, (node, state) in enumerate(edges):
        cell[node] += [("skip_connect", state)] * int(code[2 * place])
        cell[node] += [("sep_conv_3x3", state)] * int(code[2 * place + 1])
    return cell


@settings(max_examples=6, deadline=None)
@given(st.lists(random_code(), min_size=3, max_size=5), st.sampled_from([8, 7]))
def test_any_network_is_the_plain_one(codes: list[str], side: int) -> None:
    cells = [plain_cell(code) for code in codes]
    sizes = {"in_channels": 2, "channels": 2, "num_classes": 3}
    plain = PlainNetwork(cells, (1, 2, 4), **sizes, affine=False).double()
    x = torch.rand(3, 2, side, side, dtype=torch.float64)
    assert_same_network(build(codes), plain, x)


def test_norms_in_cells_learn_nothing_and_the_stem_does() -> None:
    model = build([LARGE.replace(" ", "")] * 3)
    norms = {n: m for n, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)}
    assert {n for n, m in norms.items() if m.affine} == {"stem.1"}
    assert all(m.track_running_stats for m in norms.values())
    assert len(norms) > 60


def test_another_number_of_codes_than_cells_is_refused() -> None:
    with pytest.raises(UserError, match=r"cells is 4, but there are 2 codes: give one code"):
        RobNet(["10" * 14] * 2, num_classes=3, in_channels=2, channels=2, cells=4)
