"""A model whose loss has many hills within a ball, so that steps and starts matter."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Sine(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(x)


def uneven_model(inputs: int) -> nn.Sequential:
    """Return a model of 3 classes; PGD jumps from hill to hill on it, few of them high enough."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(inputs, 16), Sine(), nn.Linear(16, 3))
    model = model.double()
    with torch.no_grad():
        model[1].weight.mul_(150)
        model[3].bias[0] += 1
    return model
