"""Checks that the labels belong to the model's outputs, and the images to its input."""

from __future__ import annotations

import torch
from scipy.optimize import linear_sum_assignment
from scipy.special import bdtrc
from torch import Tensor

from arnas.evaluation.checks.base import CheckContext, NotApplicableError
from arnas.evaluation.checks.grades import grade
from arnas.evaluation.result import ROBUST, Check, robust_images
from arnas.evaluation.statistics import wilson

LUCK = 0.05
"""Probability with which guessing reaches an accuracy, above which it is no better than guessing.
"""
ENOUGH = 50
"""Images from which an accuracy that is no better than guessing fails."""
LITTLE = 1 / 8
"""Share of the way from guessing to 100 % that even few images must allow for."""
RELABELLED = 0.2
"""Share of the images by which another numbering of the classes must be better to fail."""
SHOWN = 6
"""Classes of the numbering that are named."""


def above_chance(context: CheckContext) -> Check:
    """Fail if the clean accuracy is no better than guessing."""
    predictions, classes = _predictions(context)
    if classes == 1:
        raise NotApplicableError("the model has one class only", "look at the check logits")
    y, n = context.y.cpu(), len(context.y)
    clean = wilson(int((predictions == y).sum()), n)
    chance = 1 / classes
    guessed = float(bdtrc(clean.correct - 1, n, chance)) > LUCK
    fail = guessed and (n >= ENOUGH or clean.high < 100 * (chance + LITTLE * (1 - chance)))
    named = predictions.bincount().nonzero().flatten()
    constant = len(named) == 1 and len(y.bincount().nonzero().flatten()) > 1
    evidence = f"clean accuracy {clean.percent:.1f} % of {n} images, guessing {100 * chance:.1f} %"
    if constant:
        evidence += f"; every image is classified as {int(named)}"
    return Check(
        "above_chance",
        grade(fail=fail or (constant and n >= ENOUGH), warn=guessed or constant),
        evidence,
        "look at the weights, the preprocessing and the numbering of the classes: an accuracy of "
        "such a model says nothing about robustness",
    )


def labels_match(context: CheckContext) -> Check:
    """Fail if the accuracy is far better with the classes numbered in another way.

    The numbering is chosen on one half of the images and counted on the other, so that a poor model
    does not gain by it.
    """
    predictions, classes = _predictions(context)
    y = context.y.cpu()
    if classes == 1 or len(y) < 2:
        raise NotApplicableError("one class or one image has no numbering", "give more images")
    half = torch.arange(len(y)) % 2 == 0
    renumbered = sum(
        int((_numbering(y[fit], predictions[fit], classes)[y[~fit]] == predictions[~fit]).sum())
        for fit in (half, ~half)
    )
    correct, n = int((predictions == y).sum()), len(y)
    better = _numbering(y, predictions, classes)
    fail = renumbered - correct > max(RELABELLED * n, 4)
    evidence = f"{correct} of {n} images are classified as their labels say"
    if fail:
        evidence += (
            f", {int((better[y] == predictions).sum())} with other numbers: {_words(better, y)}"
        )
    return Check(
        "labels_match",
        grade(fail=fail),
        evidence,
        "number the classes of the images as those of the model's outputs",
    )


def expected_accuracy(context: CheckContext) -> Check:
    """Fail if the accuracy is not the one that the model is known for."""
    measured = {
        "clean": context.outcomes["clean"] == ROBUST,
        "robust": robust_images(context.outcomes),
    }
    evidence, wrong = [], []
    for kind, flags in measured.items():
        expected = context.known.get(f"expect_{kind}")
        if expected is None:
            continue
        found = wilson(int(flags.sum()), len(flags))
        evidence.append(
            f"{kind} accuracy {found.percent:.1f} % (95 % interval {found.low:.1f} to "
            f"{found.high:.1f}), expected {expected:g} %"
        )
        if not found.low <= expected <= found.high:
            wrong.append(kind)
    if not evidence:
        raise NotApplicableError(
            "no accuracy is expected", "give the published one: --expect-clean 94.8"
        )
    return Check(
        "expected_accuracy",
        grade(fail=wrong),
        "; ".join(evidence),
        "look at the preprocessing (mean and std, RGB or BGR, rows and columns), at the order of "
        "the labels, and at the weights",
    )


def input_channels(context: CheckContext) -> Check:
    """Warn if the model takes images of one channel for images of three."""
    name, x = "input_channels", context.x[: min(8, context.batch_size)]
    if x.ndim != 4 or x.shape[1] != 1:
        raise NotApplicableError("the images have several channels", "this is for grey images")
    own = context.logits(x)
    try:
        copied = context.logits(x.expand(-1, 3, -1, -1).contiguous())
    except Exception:  # of a model that takes one channel, whatever it says
        return Check(name, "PASS", "the model takes images of one channel only", "")
    same = own.shape == copied.shape and torch.allclose(own, copied, rtol=1e-3, atol=1e-5)
    return Check(
        name,
        grade(warn=same),
        "the images have one channel, and the model says the same of three equal ones"
        if same
        else "the model tells images of one channel from three equal ones",
        "a normalisation of three channels turns one into three without a word: give it the "
        "constants of one channel, or copy the channel in the model",
    )


def _predictions(context: CheckContext) -> tuple[Tensor, int]:
    """Return the predicted classes of all images, int64 on the CPU, and the number of outputs."""
    logits = context.all_logits()
    return logits.argmax(1).cpu(), logits.shape[1]


def _numbering(y: Tensor, predictions: Tensor, classes: int) -> Tensor:
    """Return the output for each label by which most images are right; of equals the label's own.

    int64 of shape (max(classes, largest label + 1),).
    """
    size = max(classes, int(y.max()) + 1)
    counts = torch.zeros(size, size)
    counts.index_put_((y, predictions), torch.ones(len(y)), accumulate=True)
    _, outputs = linear_sum_assignment(counts + 0.5 * torch.eye(size), maximize=True)
    return torch.from_numpy(outputs)


def _words(numbering: Tensor, y: Tensor) -> str:
    """Return which label is which output, as far as they differ."""
    labels = y.bincount().nonzero().flatten()
    shift = ((numbering[labels] - labels) % len(numbering)).bincount().nonzero().flatten()
    if len(shift) == 1:
        return f"the output is the label plus {int(shift)}, modulo {len(numbering)}"
    moved = [int(label) for label in labels if numbering[label] != label]
    text = ", ".join(f"label {label} is output {int(numbering[label])}" for label in moved[:SHOWN])
    return text + (f" and {len(moved) - SHOWN} more" if len(moved) > SHOWN else "")
