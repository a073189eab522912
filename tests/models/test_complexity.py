"""Exact sizes: published integers, a closed form and torch's own counter."""

from __future__ import annotations

import pytest
import torch
from closed_form import derived_size, robnet_size
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from arnas.models.complexity import count_macs, count_parameters
from arnas.models.registry import build_model
from arnas.spaces.genotype import KINDS, Cell, Edge, Genotype
from arnas.spaces.network import DerivedNetwork
from arnas.spaces.options import SpaceOptions
from arnas.spaces.registry import PRIMITIVES
from arnas.spaces.robnet import RobNet


@pytest.mark.parametrize(
    ("channels", "cells", "parameters", "macs"),
    [
        (64, 20, 4_520_394, 1_240_151_040),
        (36, 20, 1_533_718, 423_796_032),
        (24, 8, 285_874, 80_638_848),
        (16, 8, 141_306, 39_963_904),
    ],
)
def test_published_sizes(channels: int, cells: int, parameters: int, macs: int) -> None:
    model = build_model("arnas", num_classes=10, channels=channels, cells=cells)
    assert count_parameters(model) == parameters
    assert count_macs(model, (3, 32, 32)) == macs


def test_published_size_is_the_default() -> None:
    with torch.device("meta"):
        assert count_parameters(build_model("arnas", num_classes=10)) == 4_520_394
        assert count_parameters(build_model("arnas", num_classes=100)) == 4_566_564


def test_sizes_on_digits() -> None:
    """With exchanged cells in test_registry.py."""
    model = build_model("arnas", num_classes=10, image_size=8, in_channels=1, channels=16, cells=5)
    assert count_parameters(model) == 85_178
    assert count_macs(model, (1, 8, 8)) == 1_466_752


@st.composite
def random_cells(draw: st.DrawFn) -> Cell:
    """A cell with two edges a node, anywhere the space allows."""
    name, state = st.sampled_from(PRIMITIVES), st.integers(0, 59)
    return tuple(
        tuple(Edge(draw(name), draw(state) % (node + 2)) for _ in range(2)) for node in range(4)
    )


@settings(max_examples=40, deadline=None)
@given(
    st.fixed_dictionaries({kind: random_cells() for kind in KINDS}),
    st.lists(st.sampled_from(["accurate", "robust", "normal"]), min_size=3, max_size=3),
    st.lists(st.integers(1, 4), min_size=3, max_size=3),
    st.fixed_dictionaries(
        {
            "num_classes": st.integers(2, 100),
            "in_channels": st.integers(1, 4),
            "channels": st.integers(1, 4).map(lambda half: 2 * half),
            "cells": st.integers(3, 8),
        }
    ),
    st.integers(4, 19),
)
def test_any_network_has_the_closed_form_size(
    cells: dict[str, Cell],
    kinds: list[str],
    widths: list[int],
    sizes: dict[str, int],
    image_size: int,
) -> None:
    genotype = Genotype(cells, "random")
    model = DerivedNetwork(genotype, SpaceOptions(kinds=kinds, widths=widths), **sizes)
    expected = derived_size(genotype, kinds, widths, **sizes, image_size=image_size)
    assert count_parameters(model) == expected.parameters
    shape = (sizes["in_channels"], image_size, image_size)
    assert count_macs(model, shape) == expected.macs


NODES_OF_BITS = [st.text("01", min_size=length, max_size=length) for length in (4, 6, 8, 10)]
"""The bits of each node of a RobNet cell; one without a one has no input."""
CODES = st.tuples(*(bits.filter(lambda text: "1" in text) for bits in NODES_OF_BITS)).map("".join)


@settings(max_examples=10, deadline=None)
@given(
    st.lists(CODES, min_size=3, max_size=5),
    st.integers(2, 9),
    st.integers(2, 100),
    st.integers(1, 3),
    st.integers(4, 19),
)
def test_any_robnet_has_the_closed_form_size(
    codes: list[str], channels: int, num_classes: int, in_channels: int, image_size: int
) -> None:
    sizes = {"num_classes": num_classes, "in_channels": in_channels, "channels": channels}
    model = RobNet(codes, **sizes, cells=len(codes))
    expected = robnet_size(codes, **sizes, image_size=image_size)
    assert count_parameters(model) == expected.parameters
    assert count_macs(model, (in_channels, image_size, image_size)) == expected.macs


@pytest.mark.long
@pytest.mark.parametrize("cells", [4, 8])
def test_torch_counts_twice_as_many_operations(cells: int) -> None:
    """Even sizes only: on odd ones the phases of a dilated convolution hold a few zeros more."""
    with torch.device("meta"):
        model = build_model("arnas", num_classes=10, channels=8, cells=cells).eval()
        with FlopCounterMode(display=False) as counter:
            model(torch.zeros(1, 3, 32, 32))
    assert counter.get_total_flops() == 2 * count_macs(model, (3, 32, 32))


def small_model() -> nn.Module:
    return build_model("arnas", num_classes=4, image_size=8, channels=2, cells=3)


def test_counting_leaves_the_model_as_it_was() -> None:
    model = small_model().train()
    model.stem[1].eval()
    modes = [module.training for module in model.modules()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    count_macs(model, (3, 8, 8))
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())
    assert not any("forward" in vars(module) for module in model.modules())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_a_failed_count_leaves_the_model_as_it_was() -> None:
    model = small_model().train()
    with pytest.raises(RuntimeError):
        count_macs(model, (5, 8, 8))
    assert all(module.training for module in model.modules())
    assert not any(module._forward_hooks for module in model.modules())
    assert not any("forward" in vars(module) for module in model.modules())


def test_counting_follows_the_dtype_of_the_model() -> None:
    assert count_macs(small_model().double(), (3, 8, 8)) == count_macs(small_model(), (3, 8, 8))


def test_frozen_parameters_are_not_counted() -> None:
    model = small_model()
    before = count_parameters(model)
    model.classifier.bias.requires_grad_(False)
    assert before - count_parameters(model) == 4


class Reused(nn.Module):
    """One layer that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(4, 4, 3, padding=1, groups=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.layer(x))


def test_every_call_is_counted() -> None:
    assert count_macs(Reused(), (4, 5, 6)) == 2 * 30 * 4 * 2 * 9
