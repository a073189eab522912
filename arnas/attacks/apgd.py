"""Auto-PGD: gradient steps whose size follows the progress.

Croce and Hein, ICML 2020 (arXiv 2003.01690, section 3) for linf and L2; ICML 2021 (arXiv
2103.01208) for L1. Where the papers leave a choice this follows the code that their authors
published. In float64 it visits the same points, once the same pixels count as moved in L1
(`arnas.attacks.walks.moved_pixels`).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from arnas.attacks.eval_mode import BatchNorm, frozen_eval
from arnas.attacks.objectives import (
    Objective,
    cross_entropy,
    dlr,
    margin,
    targeted_cross_entropy,
    targeted_dlr,
    targeted_margin,
)
from arnas.attacks.oracle import AttackOutput, LossAndGrad, Oracle, RandomStreams, misclassified
from arnas.attacks.pgd import check_start, pairs
from arnas.attacks.threat import Threat
from arnas.attacks.walks import Walk, begin, checkpoints, inside, random_point
from arnas.runtime.errors import UserError
from arnas.runtime.seeds import make_generator

L1_BALLS = ((3.0, 0.3), (2.0, 0.3))
"""Larger balls, in epsilons, that a walk in L1 passes through, and the shares of its moves."""
AIMED: dict[Objective, Objective] = {
    cross_entropy: targeted_cross_entropy,
    margin: targeted_margin,
    dlr: targeted_dlr,
}
"""What objectives become when there is a target."""


class _Leg(NamedTuple):
    """A part of a walk."""

    threat: Threat
    """The ball that it stays in."""
    moves: int


def _legs(threat: Threat, steps: int, larger_first: bool = True) -> list[_Leg]:
    """Return the parts of a walk, the last of which is in the ball itself."""
    if threat.norm != "l1" or not larger_first:
        return [_Leg(threat, steps)]
    legs, left = [], steps
    for times, share in L1_BALLS:
        legs.append(_Leg(Threat("l1", times * threat.epsilon), min(math.ceil(share * steps), left)))
        left -= legs[-1].moves
    return [*legs, _Leg(threat, left)]


def apgd(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    steps: int = 100,
    restarts: int = 1,
    targets: Tensor | None = None,
    start: Tensor | None = None,
    generator: torch.Generator | None = None,
    batch_norm: BatchNorm = "eval",
    objective: Objective = cross_entropy,
    batch_size: int = 256,
) -> Tensor:
    """Climb an objective with steps whose size follows the progress.

    Images that are misclassified already are left alone, and an image costs nothing any more once
    an iterate is misclassified. In L1 the walk passes through larger balls first, see `apgd_batch`.

    Parameters
    ----------
    model, x, y, threat, batch_norm
        As for `arnas.attacks.pgd.pgd`.
    steps
        Number of moves, from 0 up; the published budget is 100.
    restarts
        Walks at most, from 1 up; images that are broken take no further one.
    targets
        int64 of shape (N,): classes that the walks head for. An image counts as broken where it is
        not taken for its true class, be it for the target or another one.
    start
        A perturbation of x's shape from which the first walk starts; projected first.
    generator
        Source of the random starts, on any device; None uses a CPU generator with a fixed seed.
    objective
        What the steps climb; the cross-entropy by default. With `targets` the cross-entropy, the
        margin and the ratio take their targeted form, other objectives must take pairs of labels.
    batch_size
        Images that go through the model together, from 1 up.

    Returns
    -------
    Tensor
        x_adv of x's shape and dtype, inside the ball and the box within 1e-6: an image's first
        misclassified iterate, or else the last walk's iterate with the highest objective.

    Raises
    ------
    UserError
        When x, y and targets do not fit each other, x leaves [0, 1], or an argument is impossible.
    """
    check_start(x, y, steps, start)
    _check_walks(restarts, batch_size)
    x = x.detach()
    labels = y
    if targets is not None:
        labels, objective = pairs(y, targets), AIMED.get(objective, objective)
    generator = make_generator("apgd") if generator is None else generator
    legs = _legs(threat, steps)
    found = x.clone()
    if not len(x):
        return found
    with frozen_eval(model, batch_norm):
        oracle = Oracle(model, batch_size)
        standing = (~oracle.is_wrong(x, y)).nonzero().squeeze(1)
        for walk in range(restarts):
            if walk == 0 and start is not None:
                points = inside(x, x + start.to(x), legs[0].threat)
            else:
                points = random_point(x, _draw(x, threat, generator), legs[0].threat)
            came = _walk(oracle, x[standing], labels[standing], legs, points[standing], objective)
            found[standing] = came.x_adv
            standing = standing[~came.broken]
    return found


def _check_walks(restarts: int, batch_size: int) -> None:
    """Refuse what no walk can mean."""
    if restarts < 1:
        raise UserError(f"restarts is {restarts}: allowed are 1 and more.")
    if batch_size < 1:
        raise UserError(f"batch_size is {batch_size}: allowed are 1 and more.")


def _draw(x: Tensor, threat: Threat, generator: torch.Generator) -> Tensor:
    """Draw what `apgd_batch` makes random starts of."""
    draw = torch.rand if threat.norm == "linf" else torch.randn
    return draw(x.shape, generator=generator, device=generator.device).to(x)


def apgd_batch(
    oracle: Oracle,
    x: Tensor,
    labels: Tensor,
    threat: Threat,
    streams: RandomStreams,
    *,
    steps: int = 100,
    objective: Objective = cross_entropy,
    larger_first: bool = True,
) -> AttackOutput:
    """Take one walk from a random point for each of many images, in step.

    An image leaves as soon as an iterate, the start included, is not taken for its true class, and
    costs nothing from then on. The images themselves are not looked at.

    Parameters
    ----------
    oracle
        The model, inside `frozen_eval`. An image that withstands costs `steps`
        gradients and one forward pass more; in L1 with larger balls three more.
    x
        float of shape (N, ...) with values in [0, 1].
    labels
        int64 of shape (N,) or, for a targeted objective, (N, 2): true class and target. Whatever
        is not taken for the true class is broken, for the target or not.
    threat
        Norm and budget.
    streams
        Random numbers of the starts: uniform in [0, 1] for linf, normal for L2 and L1.
    steps
        Number of moves, from 0 up; the published budget is 100.
    objective
        What to climb; it must take `labels`.
    larger_first
        L1 only: spend three tenths of the moves in the ball of three epsilons and then as many in
        that of two, where nobody is broken, as AutoAttack's standard suite does (arXiv 2103.01208).

    Returns
    -------
    AttackOutput
        Of an image that stands, `x_adv` is the iterate with the highest objective.
    """
    x = x.detach()
    legs = _legs(threat, steps, larger_first)
    draw = streams.uniform if threat.norm == "linf" else streams.normal
    start = random_point(x, draw(tuple(x.shape[1:])).to(x), legs[0].threat)
    return _walk(oracle, x, labels, legs, start, objective)


def _walk(
    oracle: Oracle,
    x: Tensor,
    labels: Tensor,
    legs: list[_Leg],
    start: Tensor,
    objective: Objective,
) -> AttackOutput:
    """Walk all legs from points of the first one's ball; only the last one can break an image."""
    threat = legs[-1].threat
    found = AttackOutput(torch.zeros(len(x), dtype=torch.bool, device=x.device), x.clone())
    if not len(x):
        return found
    if threat.epsilon == 0:
        y = labels if labels.ndim == 1 else labels[:, 0]
        return AttackOutput(oracle.is_wrong(x, y), x.clone())
    point = start
    for leg in legs:
        last = leg is legs[-1]
        if leg is not legs[0]:
            point = inside(x, point, leg.threat)
        slope = _look(oracle, point, labels, objective, leg.moves == 0)
        walk = begin(x, labels, point, slope, leg.threat, fresh=len(legs) == 1)
        if last:
            _leave(walk, slope.logits, found)
        _take(oracle, walk, leg.moves, objective, found if last else None)
        point = walk.best
    found.x_adv[walk.place] = walk.best
    return found


def _look(
    oracle: Oracle, point: Tensor, labels: Tensor, objective: Objective, last: bool
) -> LossAndGrad:
    """Return the objective, the logits and, unless this is the last point, the gradient."""
    if not last:
        return oracle.slope(point, labels, objective)
    logits = oracle.logits(point)
    return LossAndGrad(torch.zeros_like(point), objective(logits, labels), logits)


def _take(
    oracle: Oracle, walk: Walk, moves: int, objective: Objective, found: AttackOutput | None
) -> None:
    """Take the moves of one leg; `found` collects who is broken, None if nobody can be."""
    reviews, reviewed = checkpoints(moves, walk.threat.norm), 0
    for move in range(1, moves + 1):
        if not len(walk.place):
            return
        walk.move(first=move == 1)
        slope = _look(oracle, walk.point, walk.labels, objective, move == moves)
        walk.note(slope)
        if found is not None:
            _leave(walk, slope.logits, found)
        if move in reviews and len(walk.place):
            walk.review(move - reviewed)
            reviewed = move


def _leave(walk: Walk, logits: Tensor, found: AttackOutput) -> None:
    """Store the points of misclassified images and go on without them."""
    y = walk.labels if walk.labels.ndim == 1 else walk.labels[:, 0]
    wrong = misclassified(logits, y)
    if not wrong.any():
        return
    place = walk.place[wrong]
    found.broken[place] = True
    found.x_adv[place] = walk.point[wrong]
    walk.keep((~wrong).nonzero().squeeze(1))
