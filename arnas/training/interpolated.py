"""Interpolated adversarial training: half of the loss on mixed images, half on mixed examples."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from arnas.training.losses import LossValue, Step, training_examples


def iat_loss(step: Step) -> LossValue:
    """Return half the mixup loss of the batch and half that of its PGD examples.

    Lamb et al. (AISec 2019, arXiv 1906.06784, algorithm 1): the examples are made of the images as
    they are, and mixed afterwards with a share and partners of their own. With `alpha: 0` nothing
    is mixed: the mean of clean and adversarial loss, its control.
    """
    x_adv = training_examples(step)
    clean, _ = _mixup_loss(step, step.batch.x)
    adversarial, logits = _mixup_loss(step, x_adv)
    return LossValue((clean + adversarial) / 2, logits.detach())


def draw_mixture(step: Step) -> tuple[float, Tensor]:
    """Return the share of each image, from Beta(alpha, alpha), and its partner in the batch."""
    alpha, count = step.settings.alpha, len(step.batch.y)
    if not alpha:
        return 1.0, torch.arange(count)
    seed = int(torch.randint(2**62, (), generator=step.generator))
    share = float(np.random.default_rng(seed).beta(alpha, alpha))
    return share, torch.randperm(count, generator=step.generator)


def _mixup_loss(step: Step, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the cross-entropy of mixed images with both labels (arXiv 1710.09412), and logits."""
    share, partner = draw_mixture(step)
    partner, y = partner.to(x.device), step.batch.y
    logits = step.model(share * x + (1 - share) * x[partner])
    own, other = F.cross_entropy(logits, y), F.cross_entropy(logits, y[partner])
    return share * own + (1 - share) * other, logits
