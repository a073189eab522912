"""Accuracies with their uncertainty."""

from __future__ import annotations

import math
from typing import Annotated, NamedTuple

from pydantic import Field

QUANTILE = 1.959963984540054
"""The 97.5 percent quantile of the normal distribution; scipy.stats takes half a second to load."""
Count = Annotated[int, Field(ge=0, le=10**9)]
"""A number of images; the bounds are those of a record that is read from a file."""


class Accuracy(NamedTuple):
    """A share of correct images, in percent, with its Wilson 95 % interval."""

    correct: Count
    n: Annotated[Count, Field(ge=1)]
    percent: float
    low: float
    high: float


def wilson(correct: int, n: int) -> Accuracy:
    """Return the accuracy of n images, from 1 up, with its Wilson score interval (JASA 1927)."""
    share, square = correct / n, QUANTILE**2
    total = 2 * (n + square)
    centre = (2 * n * share + square) / total
    half = QUANTILE / total * math.sqrt(4 * n * share * (1 - share) + square)
    low = centre - half if correct else 0.0
    high = centre + half if correct < n else 1.0
    return Accuracy(correct, n, 100 * correct / n, 100 * low, 100 * high)
