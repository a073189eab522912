"""The ball of a threat model: lengths, projections, directions and random points."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from arnas.attacks.threat import Threat

ORDERS = {"linf": float("inf"), "l2": 2.0, "l1": 1.0}
TINY = 1e-12
L1_SHARE = 0.05
"""Share of the pixels that an ascent step in L1 moves."""


def shaped(values: Tensor, like: Tensor) -> Tensor:
    """Return one number for each image, (N,), broadcastable to images (N, ...)."""
    return values.view(-1, *[1] * (like.ndim - 1))


def length(delta: Tensor, norm: str) -> Tensor:
    """Return the norm of each image's perturbation, of shape (N,)."""
    return vector_length(delta.flatten(1), norm)


def vector_length(values: Tensor, norm: str) -> Tensor:
    """Return the norm over the last dimension.

    A CPU takes 15 times as long for it by `torch.linalg.vector_norm` in linf, 5 times in L1.
    """
    if norm == "l2":
        size: Tensor = torch.linalg.vector_norm(values, dim=-1)
        return size
    return values.abs().amax(-1) if norm == "linf" else values.abs().sum(-1)


def project(x: Tensor, delta: Tensor, threat: Threat, clip: bool = True) -> Tensor:
    """Return `delta` brought into the ball and, if `clip`, x + delta into the box [0, 1].

    The ball comes first and the box second: clipping towards a box that holds the image never
    leaves the ball again. For linf and L1 this is the nearest point, for L2 a nearby one. Images
    `x` and `delta` are of shape (N, ...), `x` in [0, 1].
    """
    if threat.norm == "l1":
        room = torch.where(delta > 0, 1 - x, x) if clip else torch.full_like(x, torch.inf)
        return project_l1(delta, room, threat.epsilon)
    if threat.norm == "linf":
        delta = delta.clamp(-threat.epsilon, threat.epsilon)
    else:
        size = shaped(length(delta, "l2"), delta)
        delta = delta * (threat.epsilon / size.clamp_min(TINY)).clamp_max(1)
    return torch.minimum(torch.maximum(delta, -x), 1 - x) if clip else delta


def project_l1(delta: Tensor, room: Tensor, epsilon: float) -> Tensor:
    """Return the nearest point of the L1 ball whose coordinates are no longer than `room`.

    Every coordinate is shortened by one common amount and cut at its room (Croce and Hein, ICML
    2021, arXiv 2103.01208, proposition 2.1); the amount solves a piecewise linear equation, exact
    after sorting its kinks. `room`, of delta's shape (N, ...), is 0 and more: how far a coordinate
    may go in the direction of `delta`.
    """
    size = delta.abs().flatten(1)
    room = room.flatten(1).clamp_min(0)
    start, end = size, (size - room).clamp_min(0)
    # The sum of clamp(size - cut, 0, room) as a function of the cut: its slope falls by one at
    # each `end` and rises by one at each `start`.
    kinks, order = torch.cat([start, end], 1).sort(dim=1, descending=True)
    turn = torch.where(order < size.shape[1], 1.0, -1.0).to(size)
    slope = turn.cumsum(1)
    gaps = kinks[:, :-1] - kinks[:, 1:]
    total = torch.cat([torch.zeros_like(kinks[:, :1]), (slope[:, :-1] * gaps).cumsum(1)], 1)
    # The last kink at which the sum is still within the radius, and from there along the slope.
    last = (total <= epsilon).sum(1, keepdim=True) - 1
    cut = kinks.gather(1, last) - (epsilon - total.gather(1, last)) / slope.gather(
        1, last
    ).clamp_min(1)
    cut = cut.clamp_min(0)
    short = torch.minimum((size - cut).clamp_min(0), room)
    return delta.sign() * short.view_as(delta)


def ascent_direction(gradient: Tensor, norm: str) -> Tensor:
    """Return the unit step of ascent in `norm`; zero where the gradient is zero.

    Steepest for linf and L2. The steepest of L1 moves one pixel; this one shares the step among
    the pixels with the largest gradients (Tramer and Boneh, arXiv 1904.13000, section 5).
    """
    if norm == "linf":
        return gradient.sign()
    if norm == "l1":
        size = gradient.abs().flatten(1)
        most = math.ceil(L1_SHARE * size.shape[1])
        threshold = size.topk(most, dim=1).values[:, -1]
        direction = gradient.sign() * (gradient.abs() >= shaped(threshold, gradient))
        return direction / shaped(length(direction, "l1"), gradient).clamp_min(TINY)
    return gradient / shaped(length(gradient, "l2"), gradient).clamp_min(TINY)


def step_along(
    x: Tensor, delta: Tensor, direction: Tensor, size: float, threat: Threat, clip: bool = True
) -> Tensor:
    """Return the perturbation a step of ascent along `direction` from `delta`, projected."""
    if threat.norm == "l1" and clip:
        # The step moves few pixels; one that cannot go further would be in others' place.
        stuck = ((delta >= 1 - x) & (direction > 0)) | ((delta <= -x) & (direction < 0))
        direction = direction.masked_fill(stuck, 0)
    return project(x, delta + size * ascent_direction(direction, threat.norm), threat, clip)


def random_perturbation(unit: Tensor, threat: Threat) -> Tensor:
    """Return a random point of the ball from numbers uniform in [0, 1] of the images' shape.

    Uniform in the ball: for linf coordinate by coordinate; for L2 and L1 the numbers' normal or
    Laplace quantiles give the direction, and the lower digits of the first number, which hardly
    enter it, the radius.
    """
    if threat.norm == "linf":
        return threat.epsilon * (2 * unit - 1)
    inside = unit.clamp(1e-6, 1 - 1e-6)
    if threat.norm == "l2":
        point: Tensor = torch.special.ndtri(inside)
    else:
        tail = torch.minimum(inside, 1 - inside)
        point = -(inside - 0.5).sign() * (2 * tail).log()
    dimension = unit[0].numel() if len(unit) else 1
    share = shaped((4096 * unit.flatten(1)[:, 0]).frac(), unit)
    radius = threat.epsilon * share ** (1 / dimension)
    point = radius * point / shaped(length(point, threat.norm), point).clamp_min(TINY)
    return point


def draw_perturbation(x: Tensor, threat: Threat, generator: torch.Generator) -> Tensor:
    """Draw a random point of the ball for each image; of x's shape, dtype and device."""
    unit = torch.rand(x.shape, generator=generator, device=generator.device).to(x)
    return random_perturbation(unit, threat)


def draw_noise(x: Tensor, threat: Threat, generator: torch.Generator) -> Tensor:
    """Draw numbers of x's shape, uniform in [0, 1] for linf, normal for L2 and L1."""
    draw = torch.rand if threat.norm == "linf" else torch.randn
    return draw(x.shape, generator=generator, device=generator.device).to(x)
