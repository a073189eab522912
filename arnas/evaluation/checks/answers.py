"""What a model answers: its logits, whether they repeat, and in what units they differ."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from arnas.attacks.eval_mode import frozen_eval
from arnas.evaluation.checks.base import CheckContext, remembered
from arnas.runtime.errors import UserError

TINY = 1e-30
PASSES = 3
SAME_AGAIN, OTHER_AGAIN = 1e-6, 1e-4
"""Difference of the logits of equal passes, relative to their size, up to which they are the same,
and from which the model draws random numbers; between them sums run in any order."""


def forward(model: nn.Module, x: Tensor) -> Tensor:
    """Return the logits of a batch; the model gets a copy if it might write into the images.

    Raises
    ------
    UserError
        When it returns anything but a floating tensor of shape (N, classes).
    """
    logits = model(x if x.requires_grad else x.clone())
    if not isinstance(logits, Tensor):
        raise UserError(f"the model returns a {type(logits).__name__}: needed is a tensor")
    if not logits.is_floating_point():
        raise UserError(f"the model returns {logits.dtype}: needed are logits, floating numbers")
    if logits.ndim != 2 or len(logits) != len(x) or not logits.shape[1]:
        raise UserError(
            f"the model returns shape {tuple(logits.shape)} for {len(x)} images: needed is "
            f"({len(x)}, classes)"
        )
    return logits


def clean_logits(context: CheckContext, x: Tensor, batch_size: int | None = None) -> Tensor:
    """Return the logits of images in evaluation mode, of shape (N, classes)."""
    with frozen_eval(context.model), torch.no_grad():
        parts = torch.split(x, batch_size or context.batch_size)
        return torch.cat([forward(context.model, part) for part in parts])


def logit_size(logits: Tensor) -> float:
    """Return the size of logits: the median, over images, of the distance from their mean.

    What is common to the classes of an image changes no prediction and does not count.
    """
    centred = logits.double()
    if logits.shape[1] > 1:
        centred = centred - centred.mean(1, keepdim=True)
    median = centred.abs().amax(1).nanmedian().nan_to_num(0.0, 0.0, 0.0)
    return max(float(median), TINY)


def answers(context: CheckContext) -> Tensor:
    """Return the logits of all images in evaluation mode, of shape (n, classes); asked once."""
    return remembered(context, "answers", lambda: clean_logits(context, context.x))


def repeats(context: CheckContext) -> tuple[float, int, int]:
    """Return how far passes differ, how many predictions change, and the images looked at."""

    def measure() -> tuple[float, int, int]:
        images = context.x[: context.batch_size]
        passes = [clean_logits(context, images) for _ in range(PASSES)]
        worst = max(distance(one, passes[0]) for one in passes[1:]) / logit_size(passes[0])
        flipped = torch.stack([one.argmax(1) != passes[0].argmax(1) for one in passes[1:]])
        return worst, int(flipped.any(0).sum()), len(images)

    return remembered(context, "repeats", measure)


def distance(first: Tensor, second: Tensor) -> float:
    """Return the largest difference; equal values have none, NaN and infinite ones included."""
    if first.shape != second.shape:
        return float("inf")
    same = (first == second) | (first.isnan() & second.isnan())
    gap = torch.where(same, 0, (first.double() - second.double()).abs())
    return float(gap.nan_to_num(torch.inf).max())


def tolerance(share: float, context: CheckContext) -> float:
    """Return a tolerance in units of the logits' size, no finer than the types resolve."""
    return max(share, *(2 * torch.finfo(d).eps for d in (context.x.dtype, answers(context).dtype)))


def is_random(context: CheckContext) -> bool:
    """Return whether equal passes differ by more than the order of sums can explain."""
    worst, flips, _ = repeats(context)
    again = tolerance(SAME_AGAIN, context)
    return not worst <= max(again, OTHER_AGAIN) or (flips > 0 and not worst <= again)
