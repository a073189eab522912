"""Checks of a model's logits and of their gradients, before it is attacked."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from arnas.attacks.eval_mode import frozen_eval
from arnas.attacks.objectives import Objective, cross_entropy, margin
from arnas.attacks.projection import project, random_perturbation
from arnas.evaluation.checks.base import TINY, CheckContext, forward
from arnas.evaluation.checks.grades import grade
from arnas.evaluation.result import Check, Status
from arnas.runtime.errors import UserError

SUM_TO_ONE = 1e-5
"""Difference from 1, or of a logarithm from 0, up to which outputs are probabilities."""
WIDE_GAP = 50.0
"""Median distance of the two largest logits above which they are looked at."""
COARSE = 0.01
"""Rounding of the logits, relative to the median distance of the two largest, worth a look."""
SATURATED = 0.10
"""Share of the images whose cross-entropy may be without a gradient."""
STUCK = 0.01
"""Share of the images whose margin may be without one, and at most one image."""
OBJECTIVES = (cross_entropy, margin)
NO_GRAPH = (
    "remove detach(), no_grad() and NumPy from the forward pass, or attack a differentiable "
    "approximation"
)
SAME_ANSWER = 1e-6
"""Distance of all images' logits, relative to their size, up to which they are constant."""


def logits(context: CheckContext) -> Check:
    """Fail if the outputs are no logits, or so large that the cross-entropy has no gradient."""
    outputs = context.all_logits()
    n, classes = outputs.shape
    top = outputs.topk(min(2, classes), dim=1).values
    gap = top[:, 0] - top[:, -1]
    limit, median = saturation(outputs.dtype), float(gap.nanmedian())
    wide = int((gap > limit).sum())
    evidence = (
        f"{classes} classes, largest logit above the second by {median:.3g} (median), by "
        f"more than {limit:.0f} on {100 * wide / n:.1f} % of {n} images"
    )
    finding = (
        _unusable(context, outputs, gap)
        or _probabilities(outputs)
        or _doubtful(classes, median, wide / n, _resolution(outputs))
    )
    if finding is None:
        return Check("logits", "PASS", evidence, "")
    status, problem, advice = finding
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


def _unusable(context: CheckContext, outputs: Tensor, gap: Tensor) -> _Finding | None:
    """Return why the outputs cannot be attacked, if so."""
    n, classes = outputs.shape
    broken, low, high = int((~outputs.isfinite()).any(1).sum()), *context.y.aminmax()
    if broken:
        problem = f"NaN or infinite logits on {broken} of {n} images"
        weights = context.model.named_parameters()
        if odd := [name for name, weight in weights if not bool(weight.isfinite().all())]:
            problem += f", NaN or infinity in {len(odd)} weights, such as {odd[0]}"
            return "FAIL", problem, "train again with a lower learning rate: the training diverged"
        return "FAIL", problem, "look for divisions by zero, logarithms and overflow in the model"
    if classes == 1:
        advice = "return a logit for each class: a single logit z of two classes becomes (0, z)"
        return "FAIL", "one class only", advice
    if low < 0 or high >= classes:
        advice = "give labels from 0 to classes - 1: these are not the model's images"
        return "FAIL", f"labels from {low} to {high}", advice
    furthest = float((outputs - outputs[:1]).abs().max())
    if n > 1 and furthest <= SAME_ANSWER * max(float(gap.max()), TINY):
        advice = "the model does not look at its images: is it trained, and loaded?"
        return "FAIL", "all images have the same logits", advice
    return None


def _probabilities(outputs: Tensor) -> _Finding | None:
    """Return that the outputs are probabilities, or their logarithms, if so."""
    exact, lowest = max(SUM_TO_ONE, 4 * torch.finfo(outputs.dtype).eps), float(outputs.min())
    if lowest >= -exact and float(outputs.max()) <= 1 + exact:
        if float((outputs.sum(1) - 1).abs().max()) <= exact:
            advice = (
                "return the logits: leave out the softmax, whose gradient vanishes, or take the "
                "logarithm of an ensemble's mean"
            )
            return "FAIL", "the outputs are probabilities, with a sum of 1", advice
        advice = "return the logits: leave out what keeps them there, for its gradient vanishes"
        return "WARN", "all outputs lie between 0 and 1", advice
    # Rounding grows with the largest of the logits.
    if float(outputs.logsumexp(1).abs().max()) <= exact * max(1.0, -lowest):
        advice = "return the logits; the attacks' objectives are the same for both"
        return "WARN", "the outputs are logarithms of probabilities", advice
    return None


def _resolution(outputs: Tensor) -> float:
    """Return the distance of neighbouring numbers at the size of the logits."""
    return float(outputs.abs().median()) * torch.finfo(outputs.dtype).eps


def _doubtful(classes: int, median: float, share: float, resolution: float) -> _Finding | None:
    """Return what is wrong with the logits' size, or the number of classes, if anything."""
    advice = "quote an attack on the margin, and scale the logits down in training or evaluation"
    if share > SATURATED:
        problem = f"the cross-entropy has no gradient on {100 * share:.1f} % of the images"
        return "FAIL", problem, advice
    if median > WIDE_GAP:
        return "WARN", "large logits", advice
    if resolution > COARSE * median:
        problem = f"logits so large that they are rounded to {resolution:.2g}"
        return "WARN", problem, "subtract what all logits have in common, inside the model"
    if classes <= 3:
        missing = "ratio losses" if classes == 2 else "targeted ratio losses"
        problem = f"{missing} are not defined for {classes} classes"
        return "WARN", problem, "name the objective: attacks take the margin instead"
    return None


def gradient(context: CheckContext) -> Check:
    """Fail if no gradient reaches some images, so that attacks cannot move them."""
    check_labels(context)
    probe = context.probe()
    x, y = context.x[probe], context.y[probe]
    name, n = "gradient", len(x)
    unit = context.uniform("gradient", probe)
    away = x + project(x, random_perturbation(unit, context.threat), context.threat)
    missing = {objective: torch.zeros_like(y, dtype=torch.bool) for objective in OBJECTIVES}
    odd = {objective: torch.zeros_like(y, dtype=torch.bool) for objective in OBJECTIVES}
    with frozen_eval(context.model):
        for objective in OBJECTIVES:
            for images in (x, away):
                slope = _slope(context, images, y, objective)
                if slope is None:
                    return Check(name, "FAIL", "the logits have no gradient by the image", NO_GRAPH)
                missing[objective] |= (slope == 0).flatten(1).all(1)
                odd[objective] |= ~slope.isfinite().flatten(1).all(1)
    entropy, of_margin = (int(flags.sum()) for flags in missing.values())
    odd_images = max(int(flags.sum()) for flags in odd.values())
    evidence = (
        f"of {n} images {entropy} without a gradient of the cross-entropy, {of_margin} without one "
        f"of the margin, {odd_images} with NaN or infinity in one"
    )
    bad = max(of_margin, odd_images)
    fail = bad > max(STUCK * n, 1) or bad == n or entropy > SATURATED * n
    advice = "look for rounding, thresholds and saturated activations; attack an approximation"
    if not of_margin and not odd_images:
        advice = "the cross-entropy saturates: quote an attack on the margin"
    return Check(name, grade(fail=fail, warn=bad or entropy), evidence, advice)


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
    low, high, classes = *context.y.aminmax(), context.all_logits().shape[1]
    if low < 0 or high >= classes:
        raise UserError(f"labels run from {low} to {high}, the model has {classes} classes")
