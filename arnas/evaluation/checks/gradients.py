"""Checks of a model's logits and of their gradients, before it is attacked."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from arnas.attacks.eval_mode import frozen_eval
from arnas.attacks.objectives import Objective, cross_entropy, margin
from arnas.attacks.projection import project, random_perturbation
from arnas.evaluation.checks.answers import Answers, answers, forward
from arnas.evaluation.checks.base import Check, CheckContext, Status
from arnas.runtime.errors import UserError

SUM_TO_ONE = 1e-5
"""Difference from 1, or of a logarithm from 0, up to which outputs are probabilities."""
WIDE_GAP = 50.0
"""Median distance of the two largest logits above which they are looked at."""
SATURATED = 0.10
"""Share of the images whose cross-entropy may be without a gradient."""
STUCK = 0.01
"""Share of the images whose margin may be without one, and at most one image."""
TINY = 1e-30
SAME_ANSWER = 1e-6
"""Distance of all images' logits, relative to their size, up to which they are constant."""


def logits(context: CheckContext) -> Check:
    """6: the outputs are logits, finite, of enough classes, and not too large."""
    found = answers(context)
    n = len(found.gap)
    limit = saturation(found.dtype)
    wide = int((found.gap > limit).sum())
    median = float(found.gap.nanmedian())
    evidence = (
        f"{found.classes} classes, largest logit above the second by {median:.3g} (median), by "
        f"more than {limit:.0f} on {100 * wide / n:.1f} % of {n} images"
    )
    verdict = _no_logits(context, found) or _large_logits(median, wide / n) or _few_classes(found)
    if verdict is None:
        return Check("logits", "PASS", evidence, "")
    status, problem, advice = verdict
    return Check("logits", status, f"{problem}; {evidence}", advice)


def saturation(dtype: torch.dtype) -> float:
    """Return the gap of the two largest logits above which the cross-entropy has no gradient.

    The other classes' probabilities are then less than half of the smallest number above 0: gaps of
    104.0 in float32, 745 in float64.
    """
    info = torch.finfo(dtype)
    return math.log(2) - math.log(info.smallest_normal) - math.log(info.eps)


_Finding = tuple[Status, str, str]
"""Status, what was found, what to do."""


def _no_logits(context: CheckContext, found: Answers) -> _Finding | None:
    """Return why the outputs are no logits that can be attacked, if so."""
    broken = int((~found.finite).sum())
    low, high = int(context.y.min()), int(context.y.max())
    furthest, gap = float(found.first.max()), float(found.gap.max())
    exact = max(SUM_TO_ONE, 4 * torch.finfo(found.dtype).eps)
    inside = float(found.low.min()) >= -exact and float(found.high.max()) <= 1 + exact
    one = float((found.total - 1).abs().max()) <= exact
    # Rounding grows with the largest of the logits.
    rounding = exact * max(1.0, -float(found.low.min()))
    findings: tuple[tuple[bool, _Finding], ...] = (
        (
            broken > 0,
            (
                "FAIL",
                f"NaN or infinite logits on {broken} of {len(found.finite)} images",
                "look for divisions by zero, logarithms and overflow in the model",
            ),
        ),
        (
            found.classes == 1,
            (
                "FAIL",
                "one class only",
                "return a logit for each class: a single logit z of two classes becomes (0, z)",
            ),
        ),
        (
            low < 0 or high >= found.classes,
            (
                "FAIL",
                f"labels from {low} to {high}",
                "give labels from 0 to classes - 1: these are not the model's images",
            ),
        ),
        (
            len(found.first) > 1 and furthest <= SAME_ANSWER * max(gap, TINY),
            (
                "FAIL",
                "all images have the same logits",
                "the model does not look at its images: is it trained, and loaded?",
            ),
        ),
        (
            inside and one,
            (
                "FAIL",
                "the outputs are probabilities, with a sum of 1",
                "return the logits: leave out the softmax, whose gradient vanishes",
            ),
        ),
        (
            inside,
            (
                "WARN",
                "all outputs lie between 0 and 1",
                "return the logits: leave out what keeps them there, for its gradient vanishes",
            ),
        ),
        (
            float(found.log_total.abs().max()) <= rounding,
            (
                "WARN",
                "the outputs are logarithms of probabilities",
                "return the logits; the attacks' objectives are the same for both",
            ),
        ),
    )
    return next((finding for applies, finding in findings if applies), None)


def _large_logits(median: float, share: float) -> _Finding | None:
    """Return what is wrong with the logits' size, if anything."""
    advice = "quote an attack on the margin, and scale the logits down in training or evaluation"
    if share > SATURATED:
        problem = f"the cross-entropy has no gradient on {100 * share:.1f} % of the images"
        return "FAIL", problem, advice
    return ("WARN", "large logits", advice) if median > WIDE_GAP else None


def _few_classes(found: Answers) -> _Finding | None:
    """Return that objectives by ratios need more classes, if so."""
    if found.classes > 3:
        return None
    missing = "ratio losses" if found.classes == 2 else "targeted ratio losses"
    return (
        "WARN",
        f"{missing} are not defined for {found.classes} classes",
        "name the objective: attacks take the margin instead",
    )


def gradient(context: CheckContext) -> Check:
    """7: a gradient reaches every image, of the cross-entropy and of the margin."""
    x, y = context.probe()
    name, n = "gradient", len(x)
    check_labels(context)
    unit = context.uniform("gradient", n)
    away = x + project(x, random_perturbation(unit, context.threat), context.threat)
    counts: dict[str, tuple[int, int]] = {}
    with frozen_eval(context.model):
        for objective in (cross_entropy, margin):
            missing = torch.zeros(n, dtype=torch.bool, device=x.device)
            odd = missing.clone()
            for images in (x, away):
                slope = _slope(context, images, y, objective)
                if slope is None:
                    return Check(
                        name,
                        "FAIL",
                        "the logits have no gradient by the image",
                        "remove detach(), no_grad() and NumPy from the forward pass, or attack a "
                        "differentiable approximation",
                    )
                missing |= (slope == 0).flatten(1).all(1)
                odd |= ~slope.isfinite().flatten(1).all(1)
            counts[objective.__name__] = int(missing.sum()), int(odd.sum())
    (entropy, entropy_odd), (of_margin, margin_odd) = counts.values()
    odd_images = max(entropy_odd, margin_odd)
    evidence = (
        f"of {n} images {entropy} without a gradient of the cross-entropy, {of_margin} without one "
        f"of the margin, {odd_images} with NaN or infinity in one"
    )
    bad = max(of_margin, odd_images)
    if bad > max(STUCK * n, 1) or bad == n or entropy > SATURATED * n:
        status: Status = "FAIL"
    else:
        status = "WARN" if bad or entropy else "PASS"
    advice = "look for rounding, thresholds and saturated activations; attack an approximation"
    if not of_margin and not odd_images:
        advice = "the cross-entropy saturates: quote an attack on the margin"
    return Check(name, status, evidence, advice)


def _slope(context: CheckContext, images: Tensor, y: Tensor, objective: Objective) -> Tensor | None:
    """Return an objective's gradient by the images, or None if there is no graph between them."""
    parts = []
    for part, labels in zip(
        torch.split(images, context.batch_size), torch.split(y, context.batch_size), strict=True
    ):
        x = part.detach().clone().requires_grad_()
        with torch.enable_grad():
            value = objective(forward(context.model, x), labels).sum()
        found = torch.autograd.grad(value, x, allow_unused=True)[0] if value.requires_grad else None
        if found is None:
            return None
        parts.append(found)
    return torch.cat(parts)


def check_labels(context: CheckContext) -> None:
    """Refuse labels that the model has no logit for, on which a GPU would stop the process.

    Raises
    ------
    UserError
        Naming the labels.
    """
    low, high, classes = int(context.y.min()), int(context.y.max()), answers(context).classes
    if low < 0 or high >= classes:
        raise UserError(f"labels run from {low} to {high}, the model has {classes} classes")
