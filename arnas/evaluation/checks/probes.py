"""Small attacks that the checks run, half of them on images robust to the suite.

They are simple and independent of the attacks of a suite, which they test.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from arnas.attacks.objectives import Objective, margin
from arnas.attacks.oracle import misclassified
from arnas.attacks.projection import length, project, random_perturbation, step_along
from arnas.attacks.threat import Threat
from arnas.evaluation.checks.base import (
    PROBE,
    CheckContext,
    NotApplicableError,
    evenly,
    remembered,
)
from arnas.evaluation.result import FURTHER, robust_images
from arnas.runtime.seeds import make_generator

STEPS = 20
"""Steps of an attack."""
DIRECTIONS = 32
"""Random directions of each step along a numerical gradient."""
ALIKE, OFTEN = 0.9, 4
"""Cosine similarity of a gradient with what is measured around the point, from which it counts as
honest there, and the number of steps at which it must be for an image to be left alone: the attacks
of the suite have followed that gradient already. On honest networks the median is 0.99."""


class Probe(NamedTuple):
    """Correctly classified images for the attacks of the checks; half are robust if there are."""

    x: Tensor
    y: Tensor
    robust: Tensor
    """bool: whether the image is robust to the suite; all of them if there is no result yet."""
    images: Tensor
    """int64: their positions in `CheckContext.x`."""


class PgdTrace(NamedTuple):
    """PGD iterate by iterate, the start first."""

    values: Tensor
    """Of the objective, of shape (steps + 1, N); NaN after an image's last step."""
    wrong: Tensor
    """bool of shape (steps + 1, N): whether the iterate is misclassified."""
    best: Tensor
    """The images' first misclassified iterate, or else the one with the largest objective."""

    def broken(self, steps: int | None = None) -> Tensor:
        """Return which images some iterate breaks, bool of shape (N,)."""
        return self.wrong[: None if steps is None else steps + 1].any(0)


def suite_robust(context: CheckContext) -> Tensor:
    """Return which images are robust to the suite, bool of shape (n,) on the CPU."""
    if "clean" not in context.outcomes:
        raise NotApplicableError("no attack has been run yet")
    return robust_images({k: v for k, v in context.outcomes.items() if k != FURTHER}).cpu()


def probe_of(context: CheckContext) -> Probe:
    """Return the images that the checks attack; not applicable if the model knows none."""

    def measure() -> Probe:
        robust = correct = ~misclassified(context.all_logits(), context.y)
        if context.outcomes:
            robust = correct & suite_robust(context).to(correct.device)
        standing, others = (flags.nonzero().flatten() for flags in (robust, correct & ~robust))
        others = evenly(others, PROBE - min(len(standing), PROBE // 2))
        standing = evenly(standing, PROBE - len(others))
        images = torch.cat([standing, others]).sort().values
        return Probe(context.x[images], context.y[images], robust[images], images)

    probe = remembered(context, "probe", measure)
    if not len(probe.y):
        raise NotApplicableError("no image is classified correctly")
    return probe


def perturbation(context: CheckContext, purpose: str, threat: Threat | None = None) -> Tensor:
    """Return a random point of the ball for each of the probe's images, not yet in the box."""
    unit = context.uniform(purpose, probe_of(context).images)
    return random_perturbation(unit, threat or context.threat)


def found(context: CheckContext, images: Tensor, x_adv: Tensor) -> None:
    """Hand examples within the threat to the evaluation, which counts what they break.

    Parameters
    ----------
    images
        int64 of shape (N,): positions in `CheckContext.x`.
    x_adv
        float of shape (N, C, H, W).
    """
    context.notes.setdefault(FURTHER, []).append((images, x_adv))


def pgd_trace(
    context: CheckContext,
    images: Tensor,
    start: Tensor,
    *,
    objective: Objective,
    threat: Threat | None = None,
    steps: int = STEPS,
    size: float | None = None,
    smoothing: int = 0,
    full_steps: int = 0,
) -> PgdTrace:
    """Maximise an objective as `arnas.attacks.pgd.pgd` does, and record every iterate.

    Random passes are averaged over. What it breaks within the context's threat counts as broken.

    Parameters
    ----------
    images
        int64 of shape (N,): positions in `CheckContext.x`.
    start
        Perturbations, which are projected first.
    threat
        By default that of the context.
    size
        Length of a step, by default ``2.5 * epsilon / steps``.
    smoothing
        Random points, at most half of epsilon away, that each gradient is averaged over; 0 for the
        gradient of the iterate itself. Where this is nearly the same at several steps, the image is
        left alone.
    full_steps
        Steps that an image gets although it is broken before; after them, the first misclassified
        iterate is its last.
    """
    threat = threat or context.threat
    size = 2.5 * threat.epsilon / max(steps, 1) if size is None else size
    near = Threat(threat.norm, threat.epsilon / 2)
    x, y = context.x[images], context.y[images]
    delta = project(x, start.to(x), threat)
    best, top = delta.clone(), torch.full((len(x),), -torch.inf).to(x)
    values = x.new_full((steps + 1, len(x)), torch.nan)
    wrong = torch.zeros(values.shape, dtype=torch.bool, device=x.device)
    left, honest = torch.arange(len(x), device=x.device), torch.zeros_like(y)
    with context.oracle() as oracle:
        for step in range(steps + 1):
            image, label, before = x[left], y[left], delta[left]
            gradient, value, logits = oracle.slope(image + before, label, objective)
            values[step, left], wrong[step, left] = value, (fell := misclassified(logits, label))
            score = torch.where(fell, torch.inf, value).to(top)
            higher = score > top[left]
            best[left[higher]], top[left[higher]] = before[higher], score[higher]
            if smoothing:
                names = [f"smoothing {step} {number}" for number in range(smoothing)]
                units = torch.cat([context.uniform(name, images[left]) for name in names])
                points = (image + before).repeat(smoothing, *[1] * (x.ndim - 1))
                points = (points + random_perturbation(units, near)).clamp(0, 1)
                further = oracle.slope(points, label.repeat(smoothing), objective).gradient
                average = further.view(smoothing, *image.shape).mean(0)
                honest[left] += _similarity(gradient, average) > ALIKE
                gradient = average
            delta[left] = step_along(image, before, gradient, size, threat)
            broken = wrong[:, left].any(0) if step >= full_steps else torch.zeros_like(fell)
            left = left[~broken & (honest[left] < OFTEN)]
            if not len(left):
                break
    x_adv = (x + best).clamp(0, 1)
    if threat.epsilon <= context.threat.epsilon:
        found(context, images, x_adv)
    return PgdTrace(values, wrong, x_adv)


def margin_of_known(context: CheckContext) -> Objective:
    """Return the margin over the classes that any image is in or taken for.

    Further outputs, which never win, must not hide the rivals of the true class.
    """
    logits = context.all_logits()
    known = torch.zeros(logits.shape[1], dtype=torch.bool, device=logits.device)
    known[logits.argmax(1)] = known[context.y] = True
    if int(known.sum()) < 2:
        return margin
    return lambda logits, y: margin(logits.masked_fill(~known, -torch.inf), y)


def _similarity(first: Tensor, second: Tensor) -> Tensor:
    """Return the cosine similarity of N pairs of tensors, of shape (N,); 0 where one is zero."""
    return F.cosine_similarity(first.flatten(1), second.flatten(1))


def numeric_ascent(context: CheckContext, images: Tensor) -> Tensor:
    """Return which images are broken along the margin's finite differences of forward passes.

    Simultaneous perturbation (SPSA; Uesato et al., arXiv 1802.05666, section 4): the slope is the
    mean over random directions of half a budget's length, so that it sees over the steps of rounded
    inputs. All images share a step's directions. Images are left alone whose gradient predicts the
    differences at several steps: these have been attacked along it already.
    """
    x, y, threat = context.x[images], context.y[images], context.threat
    objective = margin_of_known(context)
    delta, broken = torch.zeros_like(x), torch.zeros(len(x), dtype=torch.bool, device=x.device)
    honest = torch.zeros_like(y)
    with context.oracle() as oracle:
        for step in range(STEPS):
            left = (~broken & (honest < OFTEN)).nonzero().flatten()
            if not len(left):
                break
            generator = make_generator("check", "numeric", context.seed, step)
            image, label, point = x[left], y[left], x[left] + delta[left]
            gradient, slope = (
                oracle.slope(point, label, objective).gradient,
                torch.zeros_like(image),
            )
            expected, measured = [], []
            draw = torch.rand((DIRECTIONS, 1, *x.shape[1:]), generator=generator)
            # As many directions at a time as fill a batch.
            together = max(1, oracle.batch_size // (2 * len(left)))
            for signs in torch.split(draw.to(x).sub(0.5).sign(), together):
                reach = signs * threat.epsilon / (2 * length(signs[0], threat.norm))
                sides = torch.stack([point + reach, point - reach]).clamp(0, 1)
                labels = label.repeat(2 * len(signs))
                heights = objective(oracle.logits(sides.flatten(0, 2)), labels)
                higher, lower = heights.view(2, len(signs), len(left))
                measured.append(higher - lower)
                expected.append(((sides[0] - sides[1]) * gradient).flatten(2).sum(2))
                slope += torch.einsum("kn,k...->n...", measured[-1], signs[:, 0])
            honest[left] += _similarity(torch.cat(measured).T, torch.cat(expected).T) > ALIKE
            size = 2.5 * threat.epsilon / STEPS
            delta[left] = step_along(image, delta[left], slope.nan_to_num(0), size, threat)
            broken[left] = oracle.is_wrong(image + delta[left], label)
    found(context, images, (x + delta).clamp(0, 1))
    return broken
