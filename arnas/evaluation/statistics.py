"""Accuracies with their uncertainty."""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated, NamedTuple

from pydantic import Field
from scipy.stats import binomtest

Count = Annotated[int, Field(ge=0, le=10**9)]
"""A number of images; the bounds are those of a record that is read from a file."""


class Accuracy(NamedTuple):
    """A share of correct images, in percent, with its Wilson 95 % interval."""

    correct: Count
    n: Annotated[Count, Field(ge=1)]
    percent: float
    low: float
    high: float


@lru_cache(maxsize=4096)
def wilson(correct: int, n: int) -> Accuracy:
    """Return the accuracy of n images, from 1 up, with its Wilson score interval (JASA 1927)."""
    interval = binomtest(correct, n).proportion_ci(confidence_level=0.95, method="wilson")
    return Accuracy(
        correct, n, 100 * correct / n, 100 * float(interval.low), 100 * float(interval.high)
    )
