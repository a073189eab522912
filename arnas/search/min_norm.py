"""Two gradients into one direction."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

TINY = 1e-300
"""Guards the denominator when both gradients are equal; beyond any square that float64 holds."""


class Direction(NamedTuple):
    """Two gradients combined."""

    direction: Tensor
    """Of their shape and dtype."""
    gamma: float
    """Share of the first gradient, in [0, 1]; NaN where they are not combined by shares."""


def min_norm(first: Tensor, second: Tensor) -> Direction:
    """Return the point of least norm on the segment between two gradients.

    With ``gamma = clip((second - first) . second / |second - first|^2, 0, 1)`` the direction
    ``d = gamma * first + (1 - gamma) * second`` has ``d . first >= |d|^2`` and
    ``d . second >= |d|^2``: a step along ``-d`` lowers both losses, unless d is zero and the point
    is Pareto-stationary (MGDA; Sener and Koltun, arXiv 1810.04650, equation 4).

    Parameters
    ----------
    first, second
        Gradients of equal shape.

    Notes
    -----
    The shorter gradient gets the larger share; it is taken alone when
    ``cos(first, second) >= |shorter| / |longer|``.
    """
    a, b = first.to(torch.float64), second.to(torch.float64)
    difference = b - a
    ratio = (difference * b).sum() / difference.square().sum().clamp_min(TINY)
    gamma = ratio.clamp(0, 1)
    return Direction((gamma * a + (1 - gamma) * b).to(first.dtype), float(gamma))
