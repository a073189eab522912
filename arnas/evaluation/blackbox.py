"""Black-box evaluation: examples made on one network are shown to the others."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from arnas.attacks.gradient import pgd, random_perturbation
from arnas.attacks.modes import attacked
from arnas.attacks.threat import Threat
from arnas.evaluation.ledger import Ledger
from arnas.runtime.seeds import per_image_uniform


class Opinion(NamedTuple):
    """What a network says of images."""

    predicted: Tensor
    """int64 of shape (N,)."""
    confidence: Tensor
    """float32 of shape (N,): softmax probability of the predicted class."""


def opinion(model: nn.Module, x: Tensor, batch_size: int) -> Opinion:
    """Return the predicted classes and how sure the model is, in evaluation mode."""
    with attacked(model), torch.no_grad():
        parts = [model(part).softmax(1).max(1) for part in torch.split(x, batch_size)]
    confidence, predicted = (torch.cat(values) for values in zip(*parts, strict=True))
    return Opinion(predicted, confidence)


def transfer_examples(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    steps: int,
    batch_size: int,
    seed: int,
    ledger: Ledger | None = None,
) -> Tensor:
    """Return adversarial examples made on `model` for showing to other models.

    PGD on the cross-entropy with steps of epsilon / 4 from one uniform start; the last iterate of
    every image, also of those that the model misclassifies: an attack that stops at the first
    misclassification leaves examples that hardly transfer.

    Parameters
    ----------
    model
        Pixels in [0, 1] to logits.
    x, y
        float32 of shape (N, C, H, W) in [0, 1] and int64 of shape (N,).
    threat
        Norm and budget.
    steps
        Gradient steps.
    batch_size
        Images attacked together.
    seed
        The replicate's seed; an image's start depends on it and the image's index only.
    ledger
        Examples that an earlier run that was cut short had made are not made again.

    Returns
    -------
    Tensor
        x_adv of x's shape.
    """
    ledger = ledger or Ledger()
    found, done = ledger.begin("transfer", x)
    for number, index in enumerate(torch.split(torch.arange(len(x)), batch_size)):
        if number < done:
            continue
        unit = per_image_uniform(("blackbox", seed), index, x.shape[1:]).to(x)
        found[index] = pgd(
            model,
            x[index],
            y[index],
            threat,
            steps=steps,
            step_size=threat.epsilon / 4,
            start=random_perturbation(unit, threat),
            keep="last",
        )
        ledger.note("transfer", found, number + 1)
    return found
