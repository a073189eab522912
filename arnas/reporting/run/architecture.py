"""What the run worked with and found: datasets, operations by depth, trajectories, examples."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from arnas.data.sources.registry import SPLITS
from arnas.reporting.run.tables import Row
from arnas.spaces.genotype import NODES, Genotype
from arnas.spaces.layout import CellPlan
from arnas.spaces.registry import PRIMITIVES

DIGITS = 5
"""Decimals of softmax weights."""


def dataset_row(info: Mapping[str, Any], counts: Mapping[str, int]) -> Row:
    """Return what a dataset is and how many images each of its splits has."""
    keys = ("source", "synthetic", "num_classes", "image_size", "in_channels", "citation")
    images = {split: counts[split] for split in SPLITS}
    return {"dataset": info["name"], **{key: info[key] for key in keys}} | images


def operation_rows(
    model: str, seed: int, genotype: Genotype, plans: Sequence[CellPlan], side: int
) -> list[Row]:
    """Return how often each operation stands in each cell, from the input to the output.

    A row for each cell and primitive; ``share`` is of the cell's operations, in percent, and
    ``channels`` and ``side`` are those of the cell's output on images of `side` pixels.
    """
    rows: list[Row] = []
    everywhere = {e.primitive for cell in genotype.cells.values() for edges in cell for e in edges}
    names = dict.fromkeys([*PRIMITIVES, *sorted(everywhere)])
    for depth, plan in enumerate(plans):
        side = -(-side // 2) if plan.reduction else side
        used = [edge.primitive for edges in genotype.cells[plan.kind] for edge in edges]
        rows += [
            {
                "model": model,
                "seed": seed,
                "cell": depth,
                "kind": plan.kind,
                "channels": NODES * plan.channels,
                "side": side,
                "primitive": primitive,
                "count": used.count(primitive),
                "share": round(100 * used.count(primitive) / len(used), 2),
            }
            for primitive in names
        ]
    return rows


def alpha_rows(
    origin: Row,
    trajectory: Sequence[Mapping[str, Tensor]],
    primitives: Sequence[str] = PRIMITIVES,
) -> list[Row]:
    """Return the softmax weight of each operation over the edges of each kind, epoch by epoch.

    Parameters
    ----------
    origin
        The columns that name the run, its search and the seed.
    trajectory
        The architecture parameters, kind to shape (14, primitives), initially and after each epoch.
    primitives
        The operations of the columns.
    """
    return [
        {
            **origin,
            "epoch": epoch,
            "kind": kind,
            "primitive": primitive,
            "mean": round(float(weights.mean()), DIGITS),
            "lowest": round(float(weights.min()), DIGITS),
            "highest": round(float(weights.max()), DIGITS),
        }
        for epoch, tables in enumerate(trajectory)
        for kind, table in tables.items()
        for primitive, weights in zip(primitives, table.double().softmax(1).unbind(1), strict=True)
    ]


def gamma_rows(origin: Row, gammas: Tensor) -> list[Row]:
    """Return the share of the natural gradient in each architecture step that had one.

    `origin` has the columns that name the run, its search and the seed.
    """
    return [
        {**origin, "step": step, "gamma": round(gamma, DIGITS)}
        for step, gamma in enumerate(gammas.tolist(), 1)
        if not math.isnan(gamma)
    ]


def example_rows(cell: Row, examples: Mapping[str, np.ndarray], count: int) -> list[Row]:
    """Return what a network said of the first test images, clean and attacked.

    `cell` has the columns that name the network, `examples` the arrays of an examples file.
    """
    return [
        {
            **cell,
            "image": index,
            "label": int(examples["labels"][index]),
            "clean_class": int(examples["clean.predicted"][index]),
            "clean_confidence": _percent(examples["clean.confidence"][index]),
            "adversarial_class": int(examples["adversarial.predicted"][index]),
            "adversarial_confidence": _percent(examples["adversarial.confidence"][index]),
        }
        for index in range(min(count, len(examples["labels"])))
    ]


def _percent(share: np.float32) -> float:
    """Return a probability in percent, rounded so that other CPUs print the same."""
    return round(100 * float(share), 1)
