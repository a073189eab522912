"""Small attacks that the checks run, on the first images.

They are simple and independent of the attacks of a suite, which they test.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from arnas.attacks.eval_mode import frozen_eval
from arnas.attacks.objectives import Objective, margin
from arnas.attacks.oracle import misclassified
from arnas.attacks.projection import length, project, random_perturbation, shaped, step_along
from arnas.attacks.threat import Threat
from arnas.evaluation.checks.base import CheckContext, NotApplicableError, remembered
from arnas.evaluation.result import robust_images
from arnas.runtime.seeds import make_generator

STEPS = 20
"""Steps of an attack."""
DIRECTIONS = 32
"""Random directions of each step along a numerical gradient."""


class Probe(NamedTuple):
    """Images for the attacks of the checks: of the first ones, those classified correctly."""

    x: Tensor
    y: Tensor
    robust: Tensor
    """bool: whether the image is robust to the suite; all of them if there is no result yet."""
    places: Tensor
    """int64: the images' places among the first ones."""
    labels: Tensor
    """Of all first images, those classified wrongly too."""


class PgdTrace(NamedTuple):
    """PGD iterate by iterate, the start first."""

    values: Tensor
    """Of the objective, of shape (steps + 1, N)."""
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
    return robust_images(context.outcomes).cpu()


def probe_of(context: CheckContext) -> Probe:
    """Return the images that the checks attack; not applicable if the model knows none."""

    def measure() -> Probe:
        x, y = (values.detach().clone() for values in context.probe())
        places = (~misclassified(context.logits(x), y)).nonzero().flatten()
        robust = torch.ones(len(y), dtype=torch.bool)
        if context.outcomes:
            robust = suite_robust(context)[: len(y)]
        return Probe(x[places], y[places], robust.to(places.device)[places], places, y)

    probe = remembered(context, "probe", measure)
    if not len(probe.y):
        raise NotApplicableError("no image of the probe is classified correctly")
    return probe


def perturbation(context: CheckContext, purpose: str, threat: Threat | None = None) -> Tensor:
    """Return a random point of the ball for each of the probe's images, not yet in the box."""
    probe = probe_of(context)
    unit = context.uniform(purpose, len(probe.labels))[probe.places]
    return random_perturbation(unit, threat or context.threat)


def pgd_trace(
    context: CheckContext,
    x: Tensor,
    y: Tensor,
    start: Tensor,
    *,
    objective: Objective,
    threat: Threat | None = None,
    steps: int = STEPS,
    size: float | None = None,
) -> PgdTrace:
    """Maximise an objective as `arnas.attacks.pgd.pgd` does, and record every iterate.

    Random passes are averaged over. The start is a perturbation and is projected first; the threat
    is by default that of the context, the length of a step ``2.5 * epsilon / steps``.
    """
    threat = threat or context.threat
    size = 2.5 * threat.epsilon / max(steps, 1) if size is None else size
    oracle, delta = context.oracle(), project(x, start.to(x), threat)
    best, top = delta, torch.full((len(x),), -torch.inf).to(x)
    values, wrong = [], []
    with frozen_eval(context.model):
        for _ in range(steps + 1):
            slope = oracle.slope(x + delta, y, objective)
            values.append(slope.value)
            wrong.append(misclassified(slope.logits, y))
            score = torch.where(wrong[-1], torch.inf, slope.value).to(top)
            better = score > top
            best = torch.where(shaped(better, delta), delta, best)
            top = torch.where(better, score, top)
            delta = step_along(x, delta, slope.gradient, size, threat)
    return PgdTrace(torch.stack(values), torch.stack(wrong), (x + best).clamp(0, 1))


def numeric_ascent(context: CheckContext, x: Tensor, y: Tensor) -> Tensor:
    """Return which images are broken along the margin's finite differences of forward passes.

    Simultaneous perturbation (SPSA; Uesato et al., arXiv 1802.05666, section 4): the slope is the
    mean over random directions of half a budget's length, so that it sees over the steps of rounded
    inputs. All images share a step's directions.
    """
    threat, oracle = context.threat, context.oracle()
    delta, broken = torch.zeros_like(x), torch.zeros(len(x), dtype=torch.bool, device=x.device)
    with frozen_eval(context.model):
        for step in range(STEPS):
            left = (~broken).nonzero().flatten()
            if not len(left):
                break
            generator = make_generator("check", "numeric", context.seed, step)
            image, label, point = x[left], y[left], x[left] + delta[left]
            slope = torch.zeros_like(image)
            for _ in range(DIRECTIONS):
                sign = torch.rand((1, *x.shape[1:]), generator=generator).to(x).sub(0.5).sign()
                reach = sign * threat.epsilon / (2 * length(sign, threat.norm))
                sides = torch.cat([point + reach, point - reach]).clamp(0, 1)
                heights = margin(oracle.logits(sides), torch.cat([label, label]))
                rise = heights[: len(left)] - heights[len(left) :]
                slope += shaped(rise, sign) * sign
            size = 2.5 * threat.epsilon / STEPS
            delta[left] = step_along(image, delta[left], slope.nan_to_num(0), size, threat)
            broken[left] = oracle.is_wrong(image + delta[left], label)
    return broken
