"""PGD and adversarial training as their papers' code writes them: all gradients in the attack."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def pgd(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    start: Tensor,
    *,
    epsilon: float,
    steps: int,
    step_size: float,
) -> Tensor:
    """Return the last iterate of PGD in linf from `x + start` (arXiv 1706.06083).

    The model is in whatever mode it is; its parameters have gradients afterwards.
    """
    point = (x + start.clamp(-epsilon, epsilon)).clamp(0, 1)
    for _ in range(steps):
        point = point.detach().requires_grad_()
        F.cross_entropy(model(point), y).backward()
        assert point.grad is not None
        delta = (point.detach() + step_size * point.grad.sign() - x).clamp(-epsilon, epsilon)
        point = (x + delta).clamp(0, 1)
    return point.detach()


def training_step(
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    x: Tensor,
    y: Tensor,
    start: Tensor,
    *,
    epsilon: float,
    steps: int,
    step_size: float,
    clip: float,
) -> None:
    """Attack in evaluation mode, then step on the cross-entropy of the examples."""
    model.eval()
    x_adv = pgd(model, x, y, start, epsilon=epsilon, steps=steps, step_size=step_size)
    model.train()
    optimiser.zero_grad()
    F.cross_entropy(model(x_adv), y).backward()
    nn.utils.clip_grad_norm_(model.parameters(), clip)
    optimiser.step()
