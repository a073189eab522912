"""What was found: operations counted by hand, and weights against numpy's softmax."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from arnas.reporting.run.architecture import (
    alpha_rows,
    dataset_row,
    example_rows,
    gamma_rows,
    operation_rows,
)
from arnas.spaces.genotype import Edge, Genotype
from arnas.spaces.layout import CellPlan, plan_cells
from arnas.spaces.network import DerivedNetwork
from arnas.spaces.options import SpaceOptions
from arnas.spaces.published import ARNAS
from arnas.spaces.registry import PRIMITIVES

COUNTS = {
    "accurate": {"skip_connect": 3, "sep_conv_5x5": 3, "sep_conv_3x3": 2},
    "reduction": {"avg_pool_3x3": 3, "dil_conv_5x5": 5},
    "robust": {"dil_conv_5x5": 5, "dil_conv_3x3": 3},
}
"""Read off the published cells, eight edges each."""
KINDS = ["accurate", "reduction", "accurate", "reduction", "robust"]
"""Of five cells the second and the fourth halve the resolution."""


# Datasets


def test_a_dataset_is_described_with_the_sizes_of_its_parts() -> None:
    info = {
        "name": "digits",
        "source": "sklearn_digits",
        "synthetic": False,
        "num_classes": 10,
        "image_size": 8,
        "in_channels": 1,
        "scale": 16,
        "citation": "someone",
    }
    counts = {"test": 4, "val": 3, "search_val": 2, "train": 1}
    row = dataset_row(info, counts)
    keys = ("source", "synthetic", "num_classes", "image_size", "in_channels", "citation")
    sizes = [("train", 1), ("search_val", 2), ("val", 3), ("test", 4)]
    assert list(row.items()) == [("dataset", "digits"), *((k, info[k]) for k in keys), *sizes]


# Operations


def test_the_operations_of_arnas_are_those_of_its_cells_by_depth() -> None:
    plans = plan_cells(5, 16, ARNAS.space)
    rows = operation_rows("arnas", 3, ARNAS.genotype, plans, 32)
    assert len(rows) == 5 * 7
    for depth, kind in enumerate(KINDS):
        own = rows[7 * depth : 7 * depth + 7]
        assert [row["primitive"] for row in own] == list(PRIMITIVES)
        assert {(row["model"], row["seed"], row["cell"], row["kind"]) for row in own} == {
            ("arnas", 3, depth, kind)
        }
        assert {row["primitive"]: row["count"] for row in own if row["count"]} == COUNTS[kind]
        shares = {row["primitive"]: row["share"] for row in own if row["share"]}
        assert shares == {name: 12.5 * count for name, count in COUNTS[kind].items()}


def test_sizes_are_those_of_a_forward_pass() -> None:
    """Channels and side of every cell's output, on images whose side is odd on the way."""
    side = 14
    model = DerivedNetwork(
        ARNAS.genotype, num_classes=10, in_channels=1, channels=4, cells=7, space=ARNAS.space
    ).eval()
    seen: list[tuple[int, ...]] = []

    def note(module: nn.Module, inputs: object, output: Tensor) -> None:
        assert output.shape[2] == output.shape[3]
        seen.append(tuple(output.shape[1:3]))

    for cell in model.cells:
        cell.register_forward_hook(note)
    with torch.no_grad():
        model(torch.rand(2, 1, side, side))
    rows = operation_rows("arnas", 0, model.genotype, model.plans, side)
    assert [(row["channels"], row["side"]) for row in rows[::7]] == seen
    assert [size for _, size in seen] == [14, 14, 7, 7, 4, 4, 4]
    assert all((row["channels"], row["side"]) == seen[row["cell"]] for row in rows)


def test_a_share_is_of_the_operations_that_a_cell_has() -> None:
    """Nodes may have other numbers of edges than two: here seven in all."""
    skip, pool = Edge("skip_connect", 0), Edge("max_pool_3x3", 1)
    cell = ((skip, pool), (skip, pool, pool), (skip,), (skip,))
    genotype = Genotype({"normal": cell, "reduction": cell}, "a test")
    rows = operation_rows("a", 0, genotype, [CellPlan("normal", 2, False, False)], 8)
    found = {row["primitive"]: (row["count"], row["share"]) for row in rows}
    assert found["skip_connect"] == (4, 57.14)
    assert found["max_pool_3x3"] == (3, 42.86)
    assert Counter(found.values())[0, 0.0] == 5


# Trajectories


ORIGIN = {"run": "digits", "search": "dsara", "seed": 2}


def tables(
    count: int, kinds: tuple[str, ...] = ("accurate", "reduction")
) -> list[dict[str, Tensor]]:
    """Return a trajectory of random architecture parameters."""
    generator = torch.Generator().manual_seed(0)
    return [{k: 2 * torch.randn(14, 7, generator=generator) for k in kinds} for _ in range(count)]


def test_the_weights_of_operations_are_softmax_weights_over_the_edges() -> None:
    """Against numpy: mean, least and greatest of fourteen edges, from before the first epoch."""
    trajectory = tables(3)
    rows = alpha_rows(ORIGIN, trajectory)
    expected = []
    for epoch, kinds in enumerate(trajectory):
        for kind, table in kinds.items():
            powers = np.exp(table.numpy().astype(np.float64))
            weights = powers / powers.sum(axis=1, keepdims=True)
            for number, name in enumerate(PRIMITIVES):
                column = weights[:, number]
                figures = [column.mean(), column.min(), column.max()]
                expected.append((epoch, kind, name, *(round(float(f), 5) for f in figures)))
    keys = ("epoch", "kind", "primitive", "mean", "lowest", "highest")
    assert [tuple(row[key] for key in keys) for row in rows] == expected
    assert all(row.items() >= ORIGIN.items() for row in rows)
    assert all(row["lowest"] < row["mean"] < row["highest"] for row in rows)


# Shares of the natural gradient


def test_steps_without_a_share_are_left_out_and_keep_their_place() -> None:
    """Those of the first stage share nothing; steps count from one."""
    gammas = torch.tensor([math.nan, math.nan, 0.0, 0.123456789, math.nan, 1.0])
    rows = gamma_rows(ORIGIN, gammas.double())
    assert rows == [
        {**ORIGIN, "step": 3, "gamma": 0.0},
        {**ORIGIN, "step": 4, "gamma": 0.12346},
        {**ORIGIN, "step": 6, "gamma": 1.0},
    ]
    assert all(type(row["step"]) is int and type(row["gamma"]) is float for row in rows)


@pytest.mark.parametrize("gammas", [torch.empty(0), torch.full((3,), math.nan)])
def test_a_search_that_never_shared_has_no_rows(gammas: Tensor) -> None:
    assert gamma_rows(ORIGIN, gammas) == []


# Examples


def examples(count: int) -> dict[str, Tensor]:
    return {
        "x_adv": torch.zeros(count, 1, 2, 2),
        "labels": torch.arange(count),
        "clean.predicted": torch.arange(count) + 10,
        "clean.confidence": torch.linspace(0.1, 0.98765, count),
        "adversarial.predicted": torch.arange(count) + 20,
        "adversarial.confidence": torch.linspace(0.55555, 1, count),
        "square": torch.ones(count, dtype=torch.uint8),
    }


def test_the_first_images_are_shown_with_what_the_network_says_of_them() -> None:
    cell = {"dataset": "digits", "model": "a_net", "training": "pgd", "seed": 0}
    rows = example_rows(cell, examples(5), 2)
    keys = ("clean_class", "clean_confidence", "adversarial_class", "adversarial_confidence")
    assert [tuple(row[key] for key in ("image", "label", *keys)) for row in rows] == [
        (0, 0, 10, 10.0, 20, 55.6),
        (1, 1, 11, 32.2, 21, 66.7),
    ]
    assert all(row.items() >= cell.items() for row in rows)
    assert len(example_rows(cell, examples(3), 9)) == 3
    assert all(type(value) is not Tensor for row in rows for value in row.values())


def test_a_space_with_one_kind_of_cell_has_its_own_rows() -> None:
    """DARTS tells normal cells from reductions only."""
    space = SpaceOptions(kinds=["normal", "normal", "normal"], widths=[1, 2, 4])
    nodes = ((Edge("sep_conv_3x3", 0), Edge("skip_connect", 1)),) * 4
    genotype = Genotype({"normal": nodes, "reduction": nodes}, "a test")
    rows = operation_rows("a", 0, genotype, plan_cells(6, 4, space), 9)
    assert [(row["kind"], row["channels"], row["side"]) for row in rows[::7]] == [
        ("normal", 16, 9),
        ("normal", 16, 9),
        ("reduction", 32, 5),
        ("normal", 32, 5),
        ("reduction", 64, 3),
        ("normal", 64, 3),
    ]
