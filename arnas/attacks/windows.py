"""The square windows of Square: how large, where, and what is put there (arXiv 1912.00049)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from arnas.attacks.projection import ORDERS

FIRST_SHARE = 0.8
"""Share of the image that the first windows cover."""
HALVED_AFTER = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""Queries after which the share halves, as in AutoAttack, which does not rescale them."""
DECAY = {"l2": 2, "l1": 4}
"""Power of the distance with which a bump falls off."""
TILES = 5
"""Bumps side by side at the start, in L2 and L1."""


class Window(NamedTuple):
    """What all windows of one side have in common."""

    side: int
    offsets: Tensor
    """int64 of shape (C * side * side,): from the window's first pixel to each of its values, in
    an image of C * H * W values."""
    bumps: Tensor
    """A bump upright and lying, of shape (2, side * side); empty for linf."""


def window_side(query: int, shape: Sequence[int], norm: str) -> int:
    """Return the side of the window that a query tries, in pixels.

    Parameters
    ----------
    query
        Number of the query, from 0.
    shape
        (C, H, W).
    norm
        In L2 and L1 sides are odd and from 3 up, unless the image is smaller.
    """
    channels, height, width = shape
    share = FIRST_SHARE / 2 ** sum(query > last for last in HALVED_AFTER)
    # In the package's order of rounding, because the root can lie halfway between two sides.
    side = round(math.sqrt(share * (channels * height * width) / channels))
    if norm != "linf":
        side = max(side, 3) | 1
    return min(max(side, 1), height, width)


def make_window(side: int, shape: Sequence[int], norm: str, like: Tensor) -> Window:
    """Return what windows of one side have in common, on the device and in the dtype of `like`."""
    channels, height, width = shape
    channel = torch.arange(channels).view(-1, 1, 1) * height * width
    offsets = channel + torch.arange(side).view(-1, 1) * width + torch.arange(side)
    bumps = torch.empty(0)
    if norm != "linf":
        upright = bump(side, norm)
        bumps = torch.stack([upright, upright.T]).flatten(1).to(like)
    return Window(side, offsets.flatten().to(like.device), bumps)


def bump(side: int, norm: str) -> Tensor:
    """Return a hill above a hollow, float64 of shape (side, side) and length 1 in `norm`.

    Each half sums concentric rectangles (section 3.3, figure 3), so that its height depends on the
    Chebyshev distance from its middle only. The AutoAttack package has the same halves in L1, with
    a steeper fall.
    """
    upper = side // 2
    both = torch.cat([_hill(upper, side, norm), -_hill(side - upper, side, norm)])
    unit: Tensor = both / torch.linalg.vector_norm(both, ORDERS[norm])
    return unit


def _hill(height: int, width: int, norm: str) -> Tensor:
    """Return the upper half of a bump, of length 1."""
    levels = torch.arange(1, max(height, width) // 2 + 2, dtype=torch.float64) ** -DECAY[norm]
    heights = levels.flip(0).cumsum(0).flip(0)
    row = (torch.arange(height) - height // 2).abs()
    column = (torch.arange(width) - width // 2).abs()
    hill = heights[torch.maximum(row[:, None], column[None])]
    unit: Tensor = hill / torch.linalg.vector_norm(hill, ORDERS[norm])
    return unit


def start_numbers(shape: Sequence[int], norm: str) -> int:
    """Return how many random numbers the start of an image takes."""
    channels, height, width = shape
    if norm == "linf":
        return channels * width
    side = max(height // TILES, 1)
    return (height // side) * (width // side) * (1 + channels)


def query_numbers(shape: Sequence[int], norm: str) -> int:
    """Return how many random numbers a query takes: its places, its turn, a sign per channel."""
    return shape[0] + (2 if norm == "linf" else 5)


def signs(numbers: Tensor, like: Tensor) -> Tensor:
    """Return 1 for numbers above one half and -1 for others, with one dimension more."""
    return (2 * (numbers > 0.5).to(like) - 1).unsqueeze(-1)


def corners(numbers: Tensor, shape: Sequence[int], side: int) -> tuple[Tensor, Tensor]:
    """Return the rows and the columns of windows, int64 of shape (M,), from numbers (M, 2).

    The last place of either is not taken unless it is the only one, as in the package.
    """
    row, column = ((numbers[:, i] * (shape[1 + i] - side)).long() for i in range(2))
    return row, column


def places(window: Window, shape: Sequence[int], numbers: Tensor) -> Tensor:
    """Return the values that windows cover, int64 of shape (M, C * side * side), as `corners`."""
    row, column = corners(numbers, shape, window.side)
    return (row * shape[2] + column)[:, None] + window.offsets


def covered(window: Window, shape: Sequence[int], first: Tensor, second: Tensor) -> Tensor:
    """Return where second windows lie on first ones, bool of shape (M, 1, side * side).

    `first` and `second` are the numbers of their corners.
    """
    steps = torch.arange(window.side, device=first.device)
    ends = (corners(numbers, shape, window.side) for numbers in (first, second))
    apart = ((b - a)[:, None] + steps for a, b in zip(*ends, strict=True))
    rows, columns = ((line >= 0) & (line < window.side) for line in apart)
    on_both: Tensor = rows[:, :, None] & columns[:, None]
    return on_both.flatten(1)[:, None]


def channel_lengths(values: Tensor, norm: str) -> Tensor:
    """Return the length of each channel's window, (M, C, 1), from values (M, C, side * side)."""
    lengths: Tensor = torch.linalg.vector_norm(values, ORDERS[norm], dim=2, keepdim=True)
    return lengths


def stripes(numbers: Tensor, shape: Sequence[int], like: Tensor) -> Tensor:
    """Return random signs, one for each column of each channel, of shape (M, C * H * W)."""
    channels, height, width = shape
    columns = signs(numbers, like).view(-1, channels, 1, width)
    return columns.expand(-1, -1, height, -1).flatten(1)


def tiles(numbers: Tensor, shape: Sequence[int], norm: str, like: Tensor) -> Tensor:
    """Return bumps side by side, turned at random, with random signs, of shape (M, C * H * W).

    Tiles are a fifth of the height and cut where the image ends; the package cannot do without
    whole ones, nor with fewer than five rows.
    """
    channels, height, width = shape
    side = max(height // TILES, 1)
    edge = max((height - TILES * side) // 2, 0)
    bumps = make_window(side, shape, norm, like).bumps.view(2, 1, side, side)
    delta = like.new_zeros(len(numbers), *shape)
    numbers = numbers.view(len(numbers), height // side, width // side, 1 + channels)
    for i in range(numbers.shape[1]):
        for j in range(numbers.shape[2]):
            turn, sign = (numbers[:, i, j, 0] > 0.5).long(), signs(numbers[:, i, j, 1:], like)
            top, left = edge + i * side, edge + j * side
            part = delta[:, :, top : top + side, left : left + side]
            part += (bumps[turn] * sign.unsqueeze(-1))[:, :, : part.shape[2], : part.shape[3]]
    return delta.flatten(1)
