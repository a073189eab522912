"""The check that a model's gradient is the derivative of its logits."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from arnas.attacks.eval_mode import frozen_eval
from arnas.attacks.projection import shaped
from arnas.evaluation.checks.base import TINY, CheckContext, evenly, forward
from arnas.evaluation.checks.grades import grade
from arnas.evaluation.checks.gradients import check_labels
from arnas.evaluation.checks.state import own_randomness
from arnas.evaluation.result import Check
from arnas.runtime.errors import Preempted

NAME = "finite_differences"
IMAGES = 8
DIRECTIONS = 8
INSIDE = 0.02
"""How far those images are moved into [0, 1]: on equal pixels, or a background of exactly 0,
maxima and rectifiers have kinks, where there is no derivative to compare with."""
FINE = {torch.float64: (1e-6, 1e-5, 1e-4), torch.float32: (1e-4, 1e-3, 1e-2)}
"""Steps, root mean square over the pixels, at which derivatives are taken; the best one counts,
because curvature spoils longer ones and rounding shorter ones."""
COARSE = (1 / 255, 4 / 255)
"""Steps as attacks take them, at which a gradient that is none may still point the right way."""
AGREE = {torch.float64: 0.98, torch.float32: 0.9}
"""Least cosine of derivatives and differences. Honest networks have 1.0000 in float64."""
SHATTERED = 0.5
"""Cosine below which short steps and gradient have nothing to do with each other."""
SLOPE = (0.8, 1.25)
"""Range of the factor between them."""
SURROGATE = (
    "the gradient is a substitute's, such as that of a straight-through estimator: attack with "
    "black-box attacks and other approximations too"
)
DETACHED = (
    "part of the model has no gradient, or a wrong one: look for detach(), rounding and custom "
    "backward passes, and attack a differentiable approximation"
)


@dataclass(frozen=True)
class _Probe:
    """The distance of two logits as a function of the images, and its gradient."""

    model: nn.Module
    seed: int
    x: Tensor
    y: Tensor
    rival: Tensor
    """int64 of shape (N,): the strongest other class at `x`."""
    gradient: Tensor | None
    """Of the summed distance by the images; None where there is no graph."""
    size: float
    """Of the logits, for the rounding."""

    def value(self, x: Tensor) -> Tensor:
        """Return the rival's logit minus the true one, of shape (N,)."""
        found = _logits(self.model, x, self.seed)
        pair = [found.gather(1, labels[:, None]).squeeze(1) for labels in (self.rival, self.y)]
        return pair[0] - pair[1]


class _Comparison(NamedTuple):
    """Differences against derivatives, image by image, at one step."""

    cosine: Tensor
    """Of shape (N,): over the directions; 0 where only one of the two moves, NaN where neither."""
    slope: Tensor
    """Of shape (N,): differences over derivatives."""
    step: float

    @property
    def median(self) -> float:
        """Return the median cosine, or -1 if no image has one."""
        return float(self.cosine.nanmedian().nan_to_num(-1.0))


def finite_differences(context: CheckContext) -> Check:
    """Fail if the gradient is not the derivative of the logits."""
    check_labels(context)
    x, y = _chosen(context)
    probe = _exact_probe(context, x, y) or _probe(context.model, context.seed, x.float(), y)
    if probe is None:
        evidence = "passes with equal random numbers give other logits"
        return Check(NAME, "SKIP", evidence, "look at the check determinism")
    if probe.gradient is None:
        return Check(NAME, "FAIL", "the logits have no gradient by the image", DETACHED)
    with frozen_eval(probe.model), torch.no_grad():
        return _check_gradient(probe, context.seed)


def _chosen(context: CheckContext) -> tuple[Tensor, Tensor]:
    """Return some images of the probe, moved into [0, 1], and labels."""
    images = evenly(context.probe(), IMAGES)
    x = context.x[images]
    inward = torch.where(x < 0.5, 1.0, -1.0)
    return x + INSIDE * inward * context.uniform("inside", images), context.y[images]


def _exact_probe(context: CheckContext, x: Tensor, y: Tensor) -> _Probe | None:
    """Return a probe of a copy in float64, or None if the model knows one type only."""
    try:
        model = copy.deepcopy(context.model).double()
        probe = _probe(model, context.seed, x.double(), y)
        with torch.no_grad():
            kind = None if probe is None else probe.value(probe.x).dtype
    except Preempted:
        raise
    except Exception:  # whatever a copy, or a layer without such a type, raises
        return None
    return probe if kind == torch.float64 else None


def _probe(model: nn.Module, seed: int, x: Tensor, y: Tensor) -> _Probe | None:
    """Return a probe, or None if the logits change from pass to pass."""
    with frozen_eval(model), torch.enable_grad():
        x = x.clone().requires_grad_()
        found = _logits(model, x, seed)
        again = _logits(model, x.detach(), seed)
        size = float(found.detach().abs().nan_to_num(0).max())
        tolerance = 16 * torch.finfo(x.dtype).eps * size
        if not torch.allclose(again, found, rtol=0, atol=tolerance, equal_nan=True):
            return None
        rival = found.detach().scatter(1, y[:, None], -torch.inf).argmax(1)
        probe = _Probe(model, seed, x.detach(), y, rival, None, size)
        value = probe.value(x).sum()
        if not value.requires_grad:
            return probe
        (gradient,) = torch.autograd.grad(value, x, allow_unused=True)
    return _Probe(model, seed, x.detach(), y, rival, gradient, size)


def _logits(model: nn.Module, x: Tensor, seed: int) -> Tensor:
    """Return logits; the random numbers of the model are the same in every pass."""
    with own_randomness(NAME, seed):
        return forward(model, x)


def _check_gradient(probe: _Probe, seed: int) -> Check:
    """Return the check of a gradient."""
    kind = probe.x.dtype
    with own_randomness("directions", seed):
        directions = [torch.randn_like(probe.x) for _ in range(DIRECTIONS)]
    fine = _best(probe, FINE[kind], directions)
    coarse = None
    cosine = fine.cosine
    if fine.median < AGREE[kind] or bool(cosine.isnan().any()):
        coarse = _best(probe, COARSE, directions)
        # Where nothing moves at short steps, longer ones show what the gradient does not see.
        cosine = torch.where(cosine.isnan(), coarse.cosine, cosine)
    if bool(cosine.isnan().all()):
        evidence = "neither the logits nor their gradient change, or they are no numbers"
        return Check(NAME, "SKIP", evidence, "look at the checks logits and gradient")
    median, least = float(cosine.nanmedian()), float(cosine[~cosine.isnan()].min())
    slope = float(fine.slope.nanmedian())
    own = _own_slope(probe, fine.step)
    evidence = (
        f"{len(probe.x)} images in {str(kind).removeprefix('torch.')}: cosine of differences and "
        f"gradient {median:.4f} (least {least:.4f})"
    )
    if math.isfinite(slope):
        evidence += f", differences {slope:.3f} times the gradient, {own:.3f} times along it"
    if median >= AGREE[kind]:
        status = grade(fail=not _fits(slope) or not _fits(own), warn=least < AGREE[kind])
        return Check(NAME, status, evidence, DETACHED)
    if (
        coarse is not None
        and _shattered(probe, directions)
        and coarse.median >= AGREE[torch.float32]
        and _fits(float(coarse.slope.nanmedian()))
    ):
        evidence += f"; cosine {coarse.median:.4f} at steps of {255 * coarse.step:.0f}/255"
        return Check(NAME, "WARN", evidence, SURROGATE)
    return Check(NAME, "FAIL", evidence, DETACHED)


def _fits(slope: float) -> bool:
    """Return whether differences are as large as the gradient says."""
    return SLOPE[0] <= slope <= SLOPE[1]


def _shattered(probe: _Probe, directions: list[Tensor]) -> bool:
    """Return whether gradient and differences over the shortest step have little in common."""
    return _compare(probe, FINE[probe.x.dtype][0], directions).median < SHATTERED


def _best(probe: _Probe, steps: tuple[float, ...], directions: list[Tensor]) -> _Comparison:
    """Return the comparison at the step at which differences and gradient agree best."""
    best = _compare(probe, steps[0], directions)
    for step in steps[1:]:
        if best.median > 0.999:
            break
        best = max(best, _compare(probe, step, directions), key=lambda found: found.median)
    return best


def _own_slope(probe: _Probe, step: float) -> float:
    """Return the median slope along the gradient, over the gradient's own length."""
    assert probe.gradient is not None
    size = probe.gradient.flatten(1).square().mean(1).sqrt()
    along = probe.gradient / shaped(size.clamp_min(TINY), probe.gradient)
    return float(_compare(probe, step, [along]).slope.nanmedian())


def _compare(probe: _Probe, step: float, directions: list[Tensor]) -> _Comparison:
    """Compare central differences along directions with the gradient."""
    assert probe.gradient is not None
    rises, slopes = [], []
    for direction in directions:
        ahead = probe.value(probe.x + step * direction)
        behind = probe.value(probe.x - step * direction)
        rises.append((ahead - behind).double() / (2 * step))
        slopes.append((probe.gradient.double() * direction.double()).flatten(1).sum(1))
    rise, slope = torch.stack(rises, 1), torch.stack(slopes, 1)
    # Rounding alone must not count as a change.
    noise = 8 * torch.finfo(probe.x.dtype).eps * probe.size / step
    rise = torch.where(rise.abs() > noise, rise, rise * 0)
    lengths = rise.norm(dim=1), slope.norm(dim=1)
    product = (rise * slope).sum(1)
    cosine = torch.where(
        (lengths[0] > 0) & (lengths[1] > 0), product / (lengths[0] * lengths[1]), 0.0
    )
    cosine[(lengths[0] == 0) & (lengths[1] == 0)] = torch.nan
    cosine[~product.isfinite()] = torch.nan
    return _Comparison(cosine, product / lengths[1].square(), step)
