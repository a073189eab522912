"""How the walks of Auto-PGD move: steps, momentum, and the schedules of their lengths.

Croce and Hein, ICML 2020 (arXiv 2003.01690, section 3) for linf and L2; ICML 2021 (arXiv
2103.01208) for L1. Where the papers leave a choice this follows the code that their authors
published.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from arnas.attacks.objectives import TINY
from arnas.attacks.oracle import LossAndGrad
from arnas.attacks.projection import length, project, shaped
from arnas.attacks.threat import Threat

MOMENTUM = 0.75
"""Share of the gradient step in a move; the rest repeats the move before."""
PROGRESS = 0.75
"""The step size stays if more than this share of the moves raised the objective."""
FIRST_PERIOD, LESS, LEAST = 0.22, 0.03, 0.06
"""Shares of the budget: length of the first period, and how the later ones shrink to the least."""
L1_PERIOD = 0.04
"""Share of the budget between two checkpoints in L1."""
L1_FIRST_SHARE = 0.2
"""Share of the pixels that the first steps from a random point move in L1."""
L1_FEWER = 1.5
"""A step moves as many pixels as the best perturbation has, divided by this."""
L1_SPARSER = 0.95
"""Below this share of its former pixels a best perturbation has become sparser."""
L1_LESS, L1_LEAST = 1.5, 10.0
"""Where it has not, the step size is divided by the first; the least is epsilon by the second."""
L1_TINY = 1e-10
"""Added to the number of pixels that a step moves."""
MOVED = 1e-6
"""Share of epsilon from which on a pixel counts as moved."""


def checkpoints(steps: int, norm: str = "linf") -> list[int]:
    """Return after how many moves the step size is reconsidered, rising.

    Periods are whole numbers of moves, rounded down, from 1 up. For linf and L2 they shrink (arXiv
    2003.01690, section 3.1).
    """
    if norm == "l1":
        period = _moves(L1_PERIOD, steps)
        return list(range(period, steps + 1, period))
    period, less, least = (_moves(share, steps) for share in (FIRST_PERIOD, LESS, LEAST))
    places, place = [], period
    while place <= steps:
        places.append(place)
        period = max(period - less, least)
        place += period
    return places


def _moves(share: float, steps: int) -> int:
    """Return a share of the budget as a number of moves."""
    return max(int(share * steps), 1)


def random_point(x: Tensor, noise: Tensor, threat: Threat) -> Tensor:
    """Return points of the ball and the box that are made of random numbers.

    Parameters
    ----------
    x
        Images in [0, 1], of shape (N, ...).
    noise
        Of x's shape: uniform in [0, 1] for linf, normal for L2 and L1. For linf they are centred
        and scaled so that the largest coordinate is epsilon, for L2 they are scaled onto the
        sphere, for L1 they are projected.
    threat
        Norm and budget.
    """
    if threat.norm == "l1":
        return (x + project(x, noise, threat)).clamp_(0, 1)
    numbers = 2 * noise - 1 if threat.norm == "linf" else noise
    size = shaped(length(numbers, threat.norm), x) + TINY
    return (x + threat.epsilon * (numbers / size)).clamp_(0, 1)


def inside(x: Tensor, point: Tensor, threat: Threat) -> Tensor:
    """Return points brought into the ball around `x` and into the box.

    As `project`, but of points: those that it need not move stay as they are,
    where the sum of an image and its perturbation would be rounded at every step.
    """
    if threat.norm == "linf":
        low, high = (x - threat.epsilon).clamp_(0, 1), (x + threat.epsilon).clamp_(0, 1)
        return torch.clamp(point, low, high)
    delta = point - x
    if threat.norm == "l1":
        return project(x, delta, threat).add_(x).clamp_(0, 1)
    size = shaped(length(delta, "l2"), x)
    return delta.div_(size + TINY).mul_(size.clamp_max(threat.epsilon)).add_(x).clamp_(0, 1)


def moved_pixels(x: Tensor, point: Tensor, epsilon: float) -> Tensor:
    """Return how many coordinates of each image were moved, of shape (N,), of x's dtype.

    What a projection has cut to zero differs from it by rounding only, often because step and cut
    are the same fraction of epsilon; it does not count. In the published code it does.
    """
    return ((point - x).abs() > MOVED * epsilon).flatten(1).sum(1).to(x)


@dataclass(kw_only=True)
class Walk:
    """Where each image still under attack stands; every tensor has the images first."""

    threat: Threat
    place: Tensor
    """int64: the image's index in the cohort."""
    x: Tensor
    labels: Tensor
    point: Tensor
    gradient: Tensor
    best: Tensor
    best_gradient: Tensor
    best_value: Tensor
    size: Tensor
    """Step size."""

    def keep(self, index: Tensor) -> None:
        """Go on with some of the images only."""
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(self, name, value.index_select(0, index))

    def note(self, slope: LossAndGrad) -> None:
        """Take in what there is at a new point."""
        self.gradient = slope.gradient
        better = (slope.value > self.best_value).nonzero().squeeze(1)
        self.best[better] = self.point[better]
        self.best_gradient[better] = slope.gradient[better]
        self.best_value[better] = slope.value[better]

    def go_back(self, which: Tensor) -> None:
        """Go on from the best point so far."""
        index = which.nonzero().squeeze(1)
        self.point[index] = self.best[index]
        self.gradient[index] = self.best_gradient[index]

    def move(self, first: bool) -> None:
        """Go to the next point."""
        raise NotImplementedError

    def review(self, moves: int) -> None:
        """Reconsider the step size after so many moves since the last time."""
        raise NotImplementedError


@dataclass(kw_only=True)
class MomentumWalk(Walk):
    """A walk in linf or L2."""

    before: Tensor
    """The point before the last move, also after a return to the best one."""
    value: Tensor
    """Objective where the last move led, also after a return to the best point."""
    raised: Tensor
    """Moves since the last checkpoint that raised the objective."""
    checked_value: Tensor
    """Best objective at the last checkpoint."""
    halved: Tensor
    """Whether the last checkpoint halved the step size."""

    def move(self, first: bool) -> None:
        """Take a projected gradient step, mixed with the move before."""
        if self.threat.norm == "linf":
            direction = self.gradient.sign()
        else:
            direction = self.gradient / (shaped(length(self.gradient, "l2"), self.x) + TINY)
        there = direction.mul_(shaped(self.size, self.x)).add_(self.point)
        share = 1.0 if first else MOMENTUM
        move = inside(self.x, there, self.threat).sub_(self.point).mul_(share)
        carried = (self.point - self.before).mul_(1 - share)
        self.before = self.point
        self.point = inside(self.x, move.add_(self.point).add_(carried), self.threat)

    def note(self, slope: LossAndGrad) -> None:
        """Take in what there is at a new point."""
        self.raised += slope.value > self.value
        self.value = slope.value
        super().note(slope)

    def review(self, moves: int) -> None:
        """Halve the step size and go back to the best point where progress stalls.

        It stalls when no more than three quarters of the moves raised the objective, or when since
        the last checkpoint, which left the step size as it was, the best objective has not changed
        (conditions 1 and 2).
        """
        stalled = self.raised <= PROGRESS * moves
        stalled |= ~self.halved & (self.checked_value >= self.best_value)
        self.size = torch.where(stalled, self.size / 2, self.size)
        self.go_back(stalled)
        self.halved = stalled
        self.checked_value = self.best_value.clone()
        self.raised = torch.zeros_like(self.raised)


@dataclass(kw_only=True)
class SparseWalk(Walk):
    """A walk in L1, whose steps move few pixels."""

    share: Tensor
    """Of the pixels, that a step moves."""
    spread: Tensor
    """Pixels that the best perturbation had moved at the last checkpoint."""

    def move(self, first: bool) -> None:
        """Move the pixels with the largest gradients by the same amount, and project."""
        sizes = self.gradient.abs().flatten(1)
        pixels = sizes.shape[1]
        rank = ((1 - self.share) * pixels).clamp(0, pixels - 1).long()
        least = sizes.sort(dim=1).values.gather(1, rank[:, None])
        signs = self.gradient.sign().mul_((sizes >= least).view_as(self.x))
        count = shaped(length(signs, "l1"), self.x) + L1_TINY
        there = signs.mul_(shaped(self.size, self.x)).div_(count).add_(self.point)
        self.point = inside(self.x, there, self.threat)

    def review(self, moves: int) -> None:
        """Adapt the number of pixels; shorten the step unless the best point has become sparser.

        If it has, the walk goes on from there with a whole step.
        """
        whole = self.threat.epsilon
        spread = moved_pixels(self.x, self.best, whole)
        sparser = spread / self.spread < L1_SPARSER
        self.share = spread / self.x[0].numel() / L1_FEWER
        self.size = torch.where(sparser, whole, self.size / L1_LESS).clamp(whole / L1_LEAST, whole)
        self.spread = spread
        self.go_back(sparser)


def begin(
    x: Tensor, labels: Tensor, point: Tensor, slope: LossAndGrad, threat: Threat, fresh: bool
) -> Walk:
    """Return a walk at its start.

    Parameters
    ----------
    x, labels, point
        Images, what the objective takes, and points of the ball to start from.
    slope
        What there is at these points.
    threat
        The ball.
    fresh
        L1 only: the points are random, and their number of pixels means nothing.
    """
    gradient, value, _ = slope
    common: dict[str, Any] = {
        "threat": threat,
        "place": torch.arange(len(x), device=x.device),
        "x": x,
        "labels": labels,
        "point": point,
        "gradient": gradient,
        "best": point.clone(),
        "best_gradient": gradient.clone(),
        "best_value": value.clone(),
    }
    if threat.norm == "l1":
        pixels = x[0].numel()
        spread = moved_pixels(x, point, threat.epsilon)
        return SparseWalk(
            **common,
            size=torch.full_like(value, threat.epsilon),
            share=torch.full_like(value, L1_FIRST_SHARE) if fresh else spread / pixels / L1_FEWER,
            spread=torch.full_like(value, pixels) if fresh else spread,
        )
    return MomentumWalk(
        **common,
        size=torch.full_like(value, 2 * threat.epsilon),
        before=point,
        # Zero, not the objective at the start: in the published code, whose first comparison
        # reaches the end of a table that is still empty.
        value=torch.zeros_like(value),
        raised=torch.zeros_like(value),
        checked_value=value.clone(),
        halved=torch.ones_like(value, dtype=torch.bool),
    )
