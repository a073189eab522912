"""What attacks maximise: one number for each image, larger where it is closer to misclassified."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

Objective = Callable[[Tensor, Tensor], Tensor]
"""What an attack maximises: logits (N, classes) and labels to one number for each image, of shape
(N,). The labels are int64 of shape (N,), or of a targeted objective (N, 2): true class, target."""
TINY = 1e-12
"""Added to the denominators of the ratios, as in the reference package."""


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Return the cross-entropy of each image; labels of shape (N,)."""
    return F.cross_entropy(logits, y, reduction="none")


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """Return the largest other logit minus the true one; positive where misclassified.

    The loss of Carlini and Wagner (arXiv 1608.04644, section V, f6) without its cut-off. It does
    not saturate when logits are large, as the cross-entropy does. Labels of shape (N,).
    """
    true = logits.gather(1, y[:, None]).squeeze(1)
    others = logits.scatter(1, y[:, None], -torch.inf)
    return others.amax(1) - true


def dlr(logits: Tensor, y: Tensor) -> Tensor:
    """Return the difference of logits ratio (arXiv 2003.01690, equation 6); 3 classes and more.

    The margin over the distance of the first and the third logit, so that it does not change when
    logits are scaled. Labels of shape (N,).
    """
    ordered, place = logits.sort(dim=1)
    true = logits.gather(1, y[:, None]).squeeze(1)
    rival = torch.where(place[:, -1] == y, ordered[:, -2], ordered[:, -1])
    return -(true - rival) / (ordered[:, -1] - ordered[:, -3] + TINY)


def targeted_dlr(logits: Tensor, pairs: Tensor) -> Tensor:
    """Return the targeted ratio (arXiv 2003.01690, equation 7); 4 classes and more.

    Labels of shape (N, 2): true class and target.
    """
    ordered = logits.sort(dim=1).values
    spread = ordered[:, -1] - 0.5 * (ordered[:, -3] + ordered[:, -4])
    return targeted_margin(logits, pairs) / (spread + TINY)


def targeted_margin(logits: Tensor, pairs: Tensor) -> Tensor:
    """Return the target's logit minus the true one; labels of shape (N, 2)."""
    return -(logits.gather(1, pairs[:, :1]) - logits.gather(1, pairs[:, 1:])).squeeze(1)


def targeted_cross_entropy(logits: Tensor, pairs: Tensor) -> Tensor:
    """Return the negative cross-entropy of the target; labels of shape (N, 2)."""
    return -F.cross_entropy(logits, pairs[:, 1], reduction="none")
