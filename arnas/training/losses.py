"""Training losses: each is a function of model, batch and threat, with its citation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from arnas.attacks.gradient import pgd
from arnas.attacks.threat import Threat, parse_amount
from arnas.data.batches import Batch
from arnas.training.options import TrainingAttackOptions


class LossValue(NamedTuple):
    """What a training step needs from a loss."""

    loss: Tensor
    """Scalar with a graph to the weights."""
    logits: Tensor
    """Logits of the images trained on, (N, classes); for the training accuracy."""


Loss = Callable[[nn.Module, Batch, Threat, TrainingAttackOptions, torch.Generator], LossValue]


def training_examples(
    model: nn.Module,
    batch: Batch,
    threat: Threat,
    attack: TrainingAttackOptions,
    generator: torch.Generator,
) -> Tensor:
    """Return the adversarial examples of a batch for the present weights, of its shape."""
    start = None
    if attack.start == "normal":
        noise = torch.randn(batch.x.shape, generator=generator)
        start = (attack.start_scale * noise).to(batch.x.device)
    return pgd(
        model,
        batch.x,
        batch.y,
        threat,
        steps=attack.steps,
        step_size=parse_amount(attack.step_size),
        start=start,
        generator=generator,
        keep="last",
        batch_norm=attack.batch_norm,
    )


def natural_loss(
    model: nn.Module,
    batch: Batch,
    threat: Threat,
    attack: TrainingAttackOptions,
    generator: torch.Generator,
) -> LossValue:
    """Return the cross-entropy of the clean batch; the undefended control."""
    logits = model(batch.x)
    return LossValue(F.cross_entropy(logits, batch.y), logits.detach())


def pgd_loss(
    model: nn.Module,
    batch: Batch,
    threat: Threat,
    attack: TrainingAttackOptions,
    generator: torch.Generator,
) -> LossValue:
    """Return the cross-entropy of the batch's PGD examples (arXiv 1706.06083, equation 2.1)."""
    x = training_examples(model, batch, threat, attack, generator)
    return natural_loss(model, Batch(x, batch.y), threat, attack, generator)


class LossEntry(NamedTuple):
    """A registry entry."""

    loss: Loss
    selects: Literal["robust", "clean"]
    """Accuracy on the selection images that picks the checkpoint."""
    defended: bool
    """Whether it trains for robustness."""
    citation: str


LOSSES: dict[str, LossEntry] = {
    "pgd": LossEntry(pgd_loss, "robust", True, "Madry et al., ICLR 2018, arXiv 1706.06083"),
    "natural": LossEntry(natural_loss, "clean", False, "empirical risk minimisation"),
}
"""Name to loss."""
