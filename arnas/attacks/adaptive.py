"""Auto-PGD: gradient steps whose size follows the progress (arXiv 2003.01690, section 3)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from arnas.attacks.gradient import (
    Objective,
    ascent_direction,
    check_start,
    cross_entropy,
    draw_perturbation,
    input_gradient,
    project,
)
from arnas.attacks.modes import BatchNorm, attacked
from arnas.attacks.threat import Threat
from arnas.runtime.seeds import make_generator

MOMENTUM = 0.75
"""Share of the gradient step in a move; the rest repeats the move before."""
PROGRESS = 0.75
"""Share of steps that must raise the objective for the step size to stay."""
FIRST_PERIOD, LESS, LEAST = 0.22, 0.03, 0.06
"""Shares of the budget: length of the first period, and how the later ones shrink to the least."""


def checkpoints(steps: int) -> list[int]:
    """Return the steps after which the step size is reconsidered, rising (section 3.1)."""
    shares, period = [FIRST_PERIOD], FIRST_PERIOD
    while shares[-1] < 1:
        period = max(period - LESS, LEAST)
        shares.append(shares[-1] + period)
    # Rounded first: 0.22 + 0.19 + 0.16 is a little more than 0.57.
    places = (round(share * steps, 6) for share in shares if share <= 1)
    return sorted({math.ceil(place) for place in places})


@dataclass
class _Walk:
    """Where each image still under attack stands; every field has the images first."""

    place: Tensor
    """int64: the image's index in the batch."""
    delta: Tensor
    before: Tensor
    """The perturbation one move ago."""
    gradient: Tensor
    value: Tensor
    """Objective at `delta`."""
    best: Tensor
    best_gradient: Tensor
    best_value: Tensor
    size: Tensor
    raised: Tensor
    """Moves since the last checkpoint that raised the objective."""
    checked_value: Tensor
    """Best objective at the last checkpoint."""
    halved: Tensor
    """Whether the last checkpoint halved the step size."""

    def keep(self, index: Tensor) -> None:
        """Go on with some of the images only."""
        for name, value in vars(self).items():
            setattr(self, name, value[index])


def apgd(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    steps: int = 100,
    start: Tensor | None = None,
    generator: torch.Generator | None = None,
    batch_norm: BatchNorm = "eval",
    objective: Objective = cross_entropy,
) -> Tensor:
    """Climb an objective with momentum, halving the step size where progress stalls.

    Images leave the batch as soon as an iterate is misclassified.

    Parameters
    ----------
    model, x, y, threat, generator, batch_norm, objective
        As for `arnas.attacks.gradient.pgd`.
    steps
        Number of moves, from 1 up; the published budget is 100.
    start
        A perturbation of x's shape to start from; by default a random point of the ball.

    Returns
    -------
    Tensor
        x_adv of x's shape: the first misclassified iterate of an image, else its best one.

    Raises
    ------
    UserError
        When x and y do not fit each other, x leaves [0, 1], or an argument is impossible.
    """
    check_start(x, y, steps, start)
    x = x.detach()
    if start is None:
        generator = make_generator("apgd") if generator is None else generator
        start = draw_perturbation(x, threat, generator)
    result = project(x, start.to(x), threat)
    if not len(x):
        return x.clone()
    with attacked(model, batch_norm):
        walk, wrong = _begin(model, x, y, threat, result.clone(), objective)
        _leave(walk, result, wrong)
        reviews, last_review = checkpoints(steps), 0
        for step in range(1, steps + 1):
            if not len(walk.place):
                break
            wrong = _move(model, x, y, threat, walk, objective, first=step == 1)
            _leave(walk, result, wrong)
            if step in reviews:
                _review(walk, step - last_review)
                last_review = step
        result[walk.place] = walk.best
    return (x + result).clamp(0, 1)


def _shaped(values: Tensor, like: Tensor) -> Tensor:
    """Return one number an image, broadcastable to images."""
    return values.view(-1, *[1] * (like.ndim - 1))


def _begin(
    model: nn.Module, x: Tensor, y: Tensor, threat: Threat, delta: Tensor, objective: Objective
) -> tuple[_Walk, Tensor]:
    """Return the walk at its start, its step size twice epsilon, and who is misclassified."""
    gradient, value, logits = input_gradient(model, x + delta, y, objective)
    walk = _Walk(
        place=torch.arange(len(x), device=x.device),
        delta=delta,
        before=delta.clone(),
        gradient=gradient,
        value=value,
        best=delta.clone(),
        best_gradient=gradient.clone(),
        best_value=value.clone(),
        size=torch.full_like(value, 2 * threat.epsilon),
        raised=torch.zeros_like(value),
        checked_value=value.clone(),
        halved=torch.ones_like(value, dtype=torch.bool),
    )
    return walk, logits.argmax(1) != y


def _leave(walk: _Walk, result: Tensor, wrong: Tensor) -> None:
    """Store the perturbations of misclassified images and go on without them."""
    result[walk.place[wrong]] = walk.delta[wrong]
    walk.keep(~wrong)


def _move(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    walk: _Walk,
    objective: Objective,
    first: bool,
) -> Tensor:
    """Take one move, look at the objective there, and return which images are misclassified."""
    image, label = x[walk.place], y[walk.place]
    direction = ascent_direction(walk.gradient, threat.norm)
    there = project(image, walk.delta + _shaped(walk.size, image) * direction, threat)
    share = 1.0 if first else MOMENTUM
    mixed = walk.delta + share * (there - walk.delta) + (1 - share) * (walk.delta - walk.before)
    walk.before, walk.delta = walk.delta, project(image, mixed, threat)
    value_before = walk.value
    walk.gradient, walk.value, logits = input_gradient(model, image + walk.delta, label, objective)
    walk.raised += walk.value > value_before
    better = walk.value > walk.best_value
    walk.best[better] = walk.delta[better]
    walk.best_gradient[better] = walk.gradient[better]
    walk.best_value[better] = walk.value[better]
    return logits.argmax(1) != label


def _review(walk: _Walk, moves: int) -> None:
    """Halve the step sizes of images whose progress stalls; they go on from their best iterate.

    It stalls when fewer than three quarters of the moves raised the objective, or when neither
    the step size nor the best objective has changed since the last checkpoint (conditions 1 and 2).
    The momentum starts anew there, which the paper leaves open.
    """
    stalled = walk.raised < PROGRESS * moves
    stalled |= ~walk.halved & (walk.checked_value >= walk.best_value)
    walk.size[stalled] /= 2
    walk.delta[stalled] = walk.best[stalled]
    walk.before[stalled] = walk.best[stalled]
    walk.gradient[stalled] = walk.best_gradient[stalled]
    walk.value[stalled] = walk.best_value[stalled]
    walk.halved = stalled
    walk.checked_value = walk.best_value.clone()
    walk.raised.zero_()
