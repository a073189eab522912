"""Auto-PGD: gradient ascent whose step size follows the progress.

Croce and Hein, ICML 2020 (arXiv 2003.01690, section 3) for linf and L2; ICML 2021 (arXiv
2103.01208) for L1. Where the papers leave a choice this follows the code that their authors
published. In float64 it visits the same points, once the same pixels count as changed in L1
(`changed_pixels`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from arnas.attacks.eval_mode import BatchNorm
from arnas.attacks.folding import attacked
from arnas.attacks.objectives import (
    TINY,
    Objective,
    cross_entropy,
    dlr,
    margin,
    targeted_cross_entropy,
    targeted_dlr,
    targeted_margin,
)
from arnas.attacks.oracle import (
    ActiveImages,
    AttackOutput,
    LossAndGrad,
    Oracle,
    RandomStreams,
)
from arnas.attacks.pgd import check_attack
from arnas.attacks.projection import draw_noise, length, project, shaped
from arnas.attacks.threat import Threat
from arnas.runtime.seeds import make_generator

TARGETED: dict[Objective, Objective] = {
    cross_entropy: targeted_cross_entropy,
    margin: targeted_margin,
    dlr: targeted_dlr,
}
"""Objective to its targeted form."""
MOMENTUM = 0.75
"""Weight of the gradient step in an update; the rest repeats the update before."""
PROGRESS = 0.75
"""The step size stays if more than this share of the steps raised the objective."""
FIRST_PERIOD, PERIOD_DECREASE, LEAST_PERIOD = 0.22, 0.03, 0.06
"""Shares of the steps: length of the first period, and how the later ones shrink to the least."""
L1_BALLS = ((3.0, 0.3), (2.0, 0.3))
"""Larger balls, in epsilons, that L1 iterates pass through, and their shares of the steps."""
L1_PERIOD = 0.04
"""Share of the steps between two checkpoints in L1."""
L1_FIRST_SHARE = 0.2
"""Share of the pixels that the first steps from a random point change in L1."""
L1_FEWER = 1.5
"""A step changes as many pixels as the best perturbation has, divided by this."""
L1_SPARSER = 0.95
"""Below this share of its former pixels a best perturbation has become sparser."""
L1_DECREASE, L1_LEAST = 1.5, 10.0
"""Where it has not, the step size is divided by the first; the least is epsilon by the second."""
L1_TINY = 1e-10
"""Added to the number of pixels that a step changes."""
CHANGED = 1e-6
"""Share of epsilon from which on a pixel counts as changed."""


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
    """Maximise an objective with steps whose size follows the progress.

    Images that are misclassified already are left alone, and an image costs nothing any more once
    an iterate is misclassified. In L1 the iterates pass through larger balls first, see
    `apgd_batch`.

    Parameters
    ----------
    model, x, y, threat, batch_norm
        As for `arnas.attacks.pgd.pgd`.
    steps
        From 0 up; the published budget is 100.
    restarts
        Number of runs from random points, from 1 up; broken images take no further one.
    targets
        int64 of shape (N,): target classes. An image counts as broken where it is misclassified,
        as the target or as another class.
    start
        A perturbation of x's shape from which the first run starts; projected first.
    generator
        Source of the random starts, on any device; None uses a CPU generator with a fixed seed.
    objective
        What to maximise; the cross-entropy by default. With `targets` the cross-entropy, the margin
        and the difference of logits ratio take their targeted form, other objectives must take
        pairs of labels.
    batch_size
        Images that go through the model together, from 1 up.

    Returns
    -------
    Tensor
        x_adv of x's shape and dtype, inside the ball and the box within 1e-6: an image's first
        misclassified iterate, or else the last run's iterate with the highest objective.

    Raises
    ------
    UserError
        As for `arnas.attacks.pgd.pgd`.
    """
    labels = check_attack(
        x, y, targets, start, steps=steps, restarts=restarts, batch_size=batch_size
    )
    x = x.detach()
    if targets is not None:
        objective = TARGETED.get(objective, objective)
    generator = make_generator("apgd") if generator is None else generator
    phases = _phases(threat, steps)
    x_adv = x.clone()
    if not len(x):
        return x_adv
    with attacked(model, x, batch_norm) as network:
        oracle = Oracle(network, batch_size)
        robust = (~oracle.is_wrong(x, y)).nonzero().squeeze(1)
        for restart in range(restarts):
            if restart == 0 and start is not None:
                points = project_point(x, x + start.to(x), phases[0].threat)
            else:
                points = random_point(x, draw_noise(x, threat, generator), phases[0].threat)
            found = _run(oracle, x[robust], labels[robust], phases, points[robust], objective)
            x_adv[robust] = found.x_adv
            robust = robust[~found.broken]
    return x_adv


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
    """Run Auto-PGD once from a random point for each of many images, all in step.

    An image drops out as soon as an iterate, the start included, is misclassified, and costs
    nothing from then on. The clean images themselves are not classified.

    A robust image costs `steps` gradients and one forward pass more; in L1 with larger balls three
    more. Its `x_adv` is the iterate with the highest objective.

    Parameters
    ----------
    labels
        int64 of shape (N,) or, for a targeted objective, (N, 2): true class and target. Every
        misclassified image is broken, as the target or not.
    larger_first
        L1 only: take three tenths of the steps in the ball of three epsilons and then as many in
        that of two, where no image can be broken, as AutoAttack does (arXiv 2103.01208).
    """
    x = x.detach()
    phases = _phases(threat, steps, larger_first)
    draw = streams.uniform if threat.norm == "linf" else streams.normal
    start = random_point(x, draw(tuple(x.shape[1:])).to(x), phases[0].threat)
    return _run(oracle, x, labels, phases, start, objective)


class _Phase(NamedTuple):
    """A part of a run, which takes place in one ball."""

    threat: Threat
    steps: int


def _phases(threat: Threat, steps: int, larger_first: bool = True) -> list[_Phase]:
    """Return the parts of a run, the last of which is in the ball itself."""
    if threat.norm != "l1" or not larger_first:
        return [_Phase(threat, steps)]
    phases, left = [], steps
    for times, share in L1_BALLS:
        ball = Threat("l1", times * threat.epsilon)
        phases.append(_Phase(ball, min(math.ceil(share * steps), left)))
        left -= phases[-1].steps
    return [*phases, _Phase(threat, left)]


def _run(
    oracle: Oracle,
    x: Tensor,
    labels: Tensor,
    phases: list[_Phase],
    start: Tensor,
    objective: Objective,
) -> AttackOutput:
    """Run all phases from points of the first one's ball; only the last one can break an image."""
    threat = phases[-1].threat
    found = AttackOutput(torch.zeros(len(x), dtype=torch.bool, device=x.device), x.clone())
    if not len(x):
        return found
    if threat.epsilon == 0:
        y = labels if labels.ndim == 1 else labels[:, 0]
        return AttackOutput(oracle.is_wrong(x, y), x.clone())
    point = start
    for phase in phases:
        last = phase is phases[-1]
        if phase is not phases[0]:
            point = project_point(x, point, phase.threat)
        slope = _query(oracle, point, labels, objective, phase.steps == 0)
        state = initial_state(x, labels, point, slope, phase.threat, fresh=len(phases) == 1)
        if last:
            _drop_broken(oracle, state, slope.logits, found)
        _run_phase(oracle, state, phase.steps, objective, found if last else None)
        point = state.best
    found.x_adv[state.index] = state.best
    return found


def _query(
    oracle: Oracle, point: Tensor, labels: Tensor, objective: Objective, last: bool
) -> LossAndGrad:
    """Return the objective, the logits and, unless these are the last points, the gradient."""
    if not last:
        return oracle.slope(point, labels, objective)
    logits = oracle.logits(point)
    return LossAndGrad(torch.zeros_like(point), objective(logits, labels), logits)


def _run_phase(
    oracle: Oracle, state: ApgdState, steps: int, objective: Objective, found: AttackOutput | None
) -> None:
    """Take the steps of one phase; `found` collects broken images, None if there can be none."""
    reviews, reviewed = checkpoints(steps, state.threat.norm), 0
    for step in range(1, steps + 1):
        if not len(state.index):
            return
        state.step(first=step == 1)
        slope = _query(oracle, state.point, state.labels, objective, step == steps)
        state.update(slope)
        if found is not None:
            _drop_broken(oracle, state, slope.logits, found)
        if step in reviews and len(state.index):
            state.adapt_step_size(step - reviewed)
            reviewed = step


def _drop_broken(oracle: Oracle, state: ApgdState, logits: Tensor, found: AttackOutput) -> None:
    """Store the points of misclassified images and go on without them."""
    y = state.labels if state.labels.ndim == 1 else state.labels[:, 0]
    wrong = oracle.misclassified(logits, y)
    if wrong.any():
        found.broken[state.index[wrong]] = True
        found.x_adv[state.index[wrong]] = state.point[wrong]
        state.select((~wrong).nonzero().squeeze(1))


def checkpoints(steps: int, norm: str = "linf") -> list[int]:
    """Return after how many steps the step size is adapted, rising.

    Periods are whole numbers of steps, rounded down, from 1 up. For linf and L2 they shrink (arXiv
    2003.01690, section 3.1).
    """
    period, decrease, least = (
        max(int(share * steps), 1) for share in (FIRST_PERIOD, PERIOD_DECREASE, LEAST_PERIOD)
    )
    if norm == "l1":
        period = least = max(int(L1_PERIOD * steps), 1)
    found, step = [], period
    while step <= steps:
        found.append(step)
        period = max(period - decrease, least)
        step += period
    return found


def random_point(x: Tensor, noise: Tensor, threat: Threat) -> Tensor:
    """Return points of the ball and the box that are made of noise of x's shape.

    For linf it is uniform in [0, 1], and is centred and scaled so that the largest coordinate is
    epsilon. For L2 and L1 it is normal, scaled onto the sphere and projected respectively.
    """
    if threat.norm == "l1":
        return (x + project(x, noise, threat)).clamp_(0, 1)
    numbers = 2 * noise - 1 if threat.norm == "linf" else noise
    size = shaped(length(numbers, threat.norm), x) + TINY
    return (x + threat.epsilon * (numbers / size)).clamp_(0, 1)


def project_point(x: Tensor, point: Tensor, threat: Threat) -> Tensor:
    """Return points projected into the ball around `x` and into the box.

    As `project`, but of points instead of perturbations: a point inside stays as it is, where the
    sum of an image and its perturbation would be rounded at every step.
    """
    if threat.norm == "linf":
        low, high = (x - threat.epsilon).clamp_(0, 1), (x + threat.epsilon).clamp_(0, 1)
        return torch.clamp(point, low, high)
    delta = point - x
    if threat.norm == "l1":
        return project(x, delta, threat).add_(x).clamp_(0, 1)
    size = shaped(length(delta, "l2"), x)
    return delta.div_(size + TINY).mul_(size.clamp_max(threat.epsilon)).add_(x).clamp_(0, 1)


def changed_pixels(x: Tensor, point: Tensor, epsilon: float) -> Tensor:
    """Return how many coordinates of each image were changed, of shape (N,), of x's dtype.

    What a projection has cut to zero differs from it by rounding only, often because step and cut
    are the same fraction of epsilon; it does not count. In the published code it does.
    """
    return ((point - x).abs() > CHANGED * epsilon).flatten(1).sum(1).to(x)


@dataclass(kw_only=True)
class ApgdState(ActiveImages):
    """The state of a run in one ball."""

    threat: Threat
    index: Tensor
    """int64: the image's position in the batch."""
    x: Tensor
    labels: Tensor
    point: Tensor
    gradient: Tensor
    best: Tensor
    best_gradient: Tensor
    best_value: Tensor
    step_size: Tensor

    def update(self, slope: LossAndGrad) -> None:
        """Record objective and gradient at a new point."""
        self.gradient = slope.gradient
        better = (slope.value > self.best_value).nonzero().squeeze(1)
        self.best[better] = self.point[better]
        self.best_gradient[better] = slope.gradient[better]
        self.best_value[better] = slope.value[better]

    def return_to_best(self, which: Tensor) -> None:
        """Go on from the best point so far."""
        rows = which.nonzero().squeeze(1)
        self.point[rows] = self.best[rows]
        self.gradient[rows] = self.best_gradient[rows]

    def step(self, first: bool) -> None:
        """Go to the next point."""
        raise NotImplementedError

    def adapt_step_size(self, steps: int) -> None:
        """Reconsider the step size, so many steps after the last time."""
        raise NotImplementedError


@dataclass(kw_only=True)
class MomentumState(ApgdState):
    """Auto-PGD in linf or L2."""

    before: Tensor
    """The point before the last step, also after a return to the best one."""
    value: Tensor
    """Objective after the last step, also after a return to the best point."""
    increases: Tensor
    """Steps since the last checkpoint that raised the objective."""
    checkpoint_value: Tensor
    """Best objective at the last checkpoint."""
    halved: Tensor
    """Whether the last checkpoint halved the step size."""

    def step(self, first: bool) -> None:
        """Take a projected gradient step with momentum."""
        if self.threat.norm == "linf":
            direction = self.gradient.sign()
        else:
            direction = self.gradient / (shaped(length(self.gradient, "l2"), self.x) + TINY)
        ahead = direction.mul_(shaped(self.step_size, self.x)).add_(self.point)
        weight = 1.0 if first else MOMENTUM
        change = project_point(self.x, ahead, self.threat).sub_(self.point).mul_(weight)
        carried = (self.point - self.before).mul_(1 - weight)
        self.before = self.point
        self.point = project_point(self.x, change.add_(self.point).add_(carried), self.threat)

    def update(self, slope: LossAndGrad) -> None:
        """Record objective and gradient at a new point."""
        self.increases += slope.value > self.value
        self.value = slope.value
        super().update(slope)

    def adapt_step_size(self, steps: int) -> None:
        """Halve the step size and return to the best point where progress stalls.

        It stalls when no more than three quarters of the steps raised the objective, or when since
        the last checkpoint, which left the step size as it was, the best objective has not changed
        (conditions 1 and 2).
        """
        stalled = self.increases <= PROGRESS * steps
        stalled |= ~self.halved & (self.checkpoint_value >= self.best_value)
        self.step_size = torch.where(stalled, self.step_size / 2, self.step_size)
        self.return_to_best(stalled)
        self.halved = stalled
        self.checkpoint_value = self.best_value.clone()
        self.increases = torch.zeros_like(self.increases)


@dataclass(kw_only=True)
class SparseState(ApgdState):
    """Auto-PGD in L1, whose steps change few pixels."""

    share: Tensor
    """Of the pixels, that a step changes."""
    pixels: Tensor
    """Pixels that the best perturbation had at the last checkpoint."""

    def step(self, first: bool) -> None:
        """Change the pixels with the largest gradients by the same amount, and project."""
        sizes = self.gradient.abs().flatten(1)
        pixels = sizes.shape[1]
        rank = ((1 - self.share) * pixels).clamp(0, pixels - 1).long()
        least = sizes.sort(dim=1).values.gather(1, rank[:, None])
        signs = self.gradient.sign().mul_((sizes >= least).view_as(self.x))
        count = shaped(length(signs, "l1"), self.x) + L1_TINY
        ahead = signs.mul_(shaped(self.step_size, self.x)).div_(count).add_(self.point)
        self.point = project_point(self.x, ahead, self.threat)

    def adapt_step_size(self, steps: int) -> None:
        """Adapt the number of pixels; shorten the step unless the best point has become sparser.

        If it has, go on from there with a step of epsilon.
        """
        epsilon = self.threat.epsilon
        pixels = changed_pixels(self.x, self.best, epsilon)
        sparser = pixels / self.pixels < L1_SPARSER
        self.share = pixels / self.x[0].numel() / L1_FEWER
        shorter = self.step_size / L1_DECREASE
        self.step_size = torch.where(sparser, epsilon, shorter).clamp(epsilon / L1_LEAST, epsilon)
        self.pixels = pixels
        self.return_to_best(sparser)


def initial_state(
    x: Tensor, labels: Tensor, point: Tensor, slope: LossAndGrad, threat: Threat, fresh: bool
) -> ApgdState:
    """Return the state before the first step from points with these objectives and gradients.

    `fresh` matters in L1 only: the points are random, and their number of pixels means nothing.
    """
    gradient, value, _ = slope
    common: dict[str, Any] = {
        "threat": threat,
        "index": torch.arange(len(x), device=x.device),
        "x": x,
        "labels": labels,
        "point": point,
        "gradient": gradient,
        "best": point.clone(),
        "best_gradient": gradient.clone(),
        "best_value": value.clone(),
    }
    if threat.norm == "l1":
        total = x[0].numel()
        pixels = changed_pixels(x, point, threat.epsilon)
        return SparseState(
            **common,
            step_size=torch.full_like(value, threat.epsilon),
            share=torch.full_like(value, L1_FIRST_SHARE) if fresh else pixels / total / L1_FEWER,
            pixels=torch.full_like(value, total) if fresh else pixels,
        )
    return MomentumState(
        **common,
        step_size=torch.full_like(value, 2 * threat.epsilon),
        before=point,
        # Zero, not the objective at the start: in the published code, whose first comparison
        # reaches the end of a table that is still empty.
        value=torch.zeros_like(value),
        increases=torch.zeros_like(value),
        checkpoint_value=value.clone(),
        halved=torch.ones_like(value, dtype=torch.bool),
    )
