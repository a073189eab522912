"""Two ways to do the same work, timed in turn in one process, and the row that comes of it."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Work = Callable[[], object]
STEADY = 1.3
"""Largest ratio of the extremes over the rounds of a row that is judged."""


class UnavailableError(Exception):
    """What a row needs is not there."""


class Measurement(NamedTuple):
    """What the rounds of a row measured."""

    ratios: list[float]
    """Our CPU time over the peer's, by round."""
    floors: list[float]
    """Our CPU time over that of the bare passes, by round; empty where those are not timed."""
    agreement: dict[str, Any]
    """Name of a result to its largest relative difference in float64, or to the counts of both."""


class Case(NamedTuple):
    """A line of the table before it is measured."""

    work: str
    peer: str
    target: float
    measure: Callable[[], Measurement]


def cpu_time(work: Work) -> float:
    """Return the CPU seconds of a call."""
    gc.collect()
    start = time.process_time()
    work()
    return time.process_time() - start


def interleaved(
    ours: Work, peer: Work, bare: Work | None = None, *, rounds: int, warm: bool = True
) -> tuple[list[float], list[float]]:
    """Return ours / peer and ours / bare of each round; every other round goes backwards.

    `warm` runs each once before, for work so short that first calls show.
    """
    works = [work for work in (ours, peer, bare) if work is not None]
    if warm:
        for work in works:
            work()
    ratios, floors = [], []
    for number in range(rounds):
        order = works[:: -1 if number % 2 else 1]
        seconds = {work: cpu_time(work) for work in order}
        ratios.append(seconds[ours] / seconds[peer])
        if bare is not None:
            floors.append(seconds[ours] / seconds[bare])
    return ratios, floors


def row(case: Case) -> dict[str, Any]:
    """Measure a case and return its row; one that cannot be measured says why."""
    values: dict[str, Any] = {"work": case.work, "peer": case.peer, "ratio": None, "spread": None}
    values |= {"target": case.target, "floor_ratio": None, "agreement": {}}
    try:
        found = case.measure()
    except (ImportError, UnavailableError) as error:
        return values | {"verdict": f"not available: {error}"}
    ratio, low, high = statistics.median(found.ratios), min(found.ratios), max(found.ratios)
    values |= {"ratio": ratio, "spread": [low, high], "agreement": found.agreement}
    if found.floors:
        values["floor_ratio"] = statistics.median(found.floors)
    verdict = "met" if ratio <= case.target else "missed"
    return values | {"verdict": verdict if high <= STEADY * low else "rounds disagree"}


def difference(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference of two tensors, relative to the largest entry expected."""
    return float((found - expected).abs().max() / expected.abs().max())


def input_gradient(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Return the input gradient of the mean cross-entropy: a bare pass."""
    x = x.detach().requires_grad_()
    return torch.autograd.grad(F.cross_entropy(model(x), y), x)[0]
