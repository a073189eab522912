"""The smallest change that brings a point of the box [0, 1] onto a hyperplane.

It is the inner problem of the Fast Adaptive Boundary attack (Croce and Hein, ICML 2020, arXiv
1907.02044, section 2.1): minimise the norm of d subject to value + w.d = 0 and 0 <= t + d <= 1. By
the optimality conditions every coordinate moves in the one direction that helps, no further than
its room up to the face of the box there, and

* linf: all move by one common amount, cut at their rooms;
* L2: all move in proportion to abs(w), cut at their rooms;
* L1: those with the largest abs(w) move first and all the way, the last one as far as is needed.

Where even the corner of the box does not reach the hyperplane, the answer is that corner.
"""

from __future__ import annotations

import torch
from torch import Tensor

LEAST_WEIGHT = 1e-8
"""Coordinates of which the plane depends less than this stay where they are in L2 and L1, as in
the reference package; in linf only those that it does not depend on at all."""


def change_onto(points: Tensor, normal: Tensor, value: Tensor, norm: str) -> Tensor:
    """Return the smallest changes that bring points onto hyperplanes, within the box [0, 1].

    A hyperplane is given by its normal w and by the value of its linear function at the point,
    which for the plane w.z = b is w.t - b. That number is known where the function has been
    linearised, whereas the difference would lose its last digits.

    Exact but for rounding.

    Parameters
    ----------
    points
        Of shape (..., D), values in [0, 1].
    normal
        The normals w; of shape (..., D), broadcast against the points.
    value
        Of shape (...): the linear function at the point, of either sign.
    norm
        ``linf``, ``l2`` or ``l1``: what is small.

    Returns
    -------
    Tensor
        The changes d, of the points' shape; no number (NaN) only where the arguments hold none.
    """
    size, needed = normal.abs(), value.abs()[..., None]
    if norm != "linf":
        normal = normal.masked_fill(size <= LEAST_WEIGHT, 0)
    # Downwards where the point lies on the positive side. Products of signs instead of choices,
    # which cost ten times as much on a CPU; no room for coordinates that stay.
    side = (normal * torch.where(value >= 0, -1.0, 1.0).to(normal)[..., None]).sign()
    room = torch.maximum(side * (1 - points), -side * points)
    if norm == "l1":
        length = _largest_first(size, room, needed)
    elif norm == "l2":
        length = _in_proportion(size, room, needed)
    else:
        length = torch.minimum(room, _common_amount(room, size, needed))
    return side * length


def _common_amount(reach: Tensor, weight: Tensor, needed: Tensor) -> Tensor:
    """Return the amount for which the sum of weight * min(reach, amount) is what is needed.

    No less than every reach where no amount suffices. The sum is concave, rising, and linear
    between the reaches: Newton's method from below never steps beyond the solution, and when a step
    has passed no reach, it has got there. Three to five passes over the coordinates do, for a
    fraction of the time that it takes to sort the reaches; their number bounds it.
    """
    slope = weight.sum(-1, keepdim=True)
    amount = needed / slope.clamp_min(torch.finfo(slope.dtype).tiny)
    for _ in range(reach.shape[-1]):
        free = (reach - amount).sign_().clamp_(min=0)
        rest = torch.linalg.vecdot(free, weight)[..., None]
        if not bool((rest < slope).any()):
            break
        done = torch.linalg.vecdot(torch.minimum(reach, amount), weight)[..., None]
        # Without a number where nothing is missing and nothing could move.
        slope, amount = rest, torch.fmax(amount, amount + (needed - done) / rest)
    return amount


def _in_proportion(size: Tensor, room: Tensor, needed: Tensor) -> Tensor:
    """Return how far coordinates move when their weights say how fast.

    Those that stay count as though they had room without end, as in the package, which leaves the
    change a little short where no weight is much larger than theirs.
    """
    limits = torch.finfo(size.dtype)
    # As large as numbers get but finite, because infinity times a weight of zero is no number.
    endless = torch.zeros_like(size).masked_fill_(size <= LEAST_WEIGHT, limits.max)
    reach = room / size.clamp_min(limits.tiny) + endless
    amount = _common_amount(reach, size.square(), needed)
    out_of_reach = torch.linalg.vecdot(room, size)[..., None] < needed
    return torch.minimum(reach, amount.masked_fill(out_of_reach, limits.max)) * size


def _largest_first(size: Tensor, room: Tensor, needed: Tensor) -> Tensor:
    """Return how far coordinates move when those with the largest weight do all they can."""
    size, order = size.sort(dim=-1, descending=True)
    room = torch.take_along_dim(room, order, dim=-1)
    gain = size * room
    missing = needed - (gain.cumsum(-1) - gain)
    length = torch.minimum(missing.clamp_min(0) / size.clamp_min(LEAST_WEIGHT), room)
    return torch.zeros_like(room).scatter(-1, order.expand_as(room), length)
