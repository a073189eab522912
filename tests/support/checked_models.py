"""Models that look more robust than they are, and images to see through them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

SIDE = 6


def draws(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(count: int, low: float = 0.2, high: float = 0.8, seed: int = 0) -> Tensor:
    return low + (high - low) * torch.rand(count, 1, SIDE, SIDE, generator=draws(seed))


def linear_model(classes: int = 3) -> nn.Sequential:
    """Return logits linear in an image, the classes centred on grey."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(SIDE**2, classes))
    with torch.no_grad():
        model[1].weight.copy_(torch.randn(classes, SIDE**2, generator=draws(1)))
        model[1].bias.copy_(-model[1].weight.sum(1) / 2)
    return model


class Loud(nn.Module):
    """Logits so large that the cross-entropy's gradient is zero in float32."""

    def __init__(self, model: nn.Module, factor: float = 1000) -> None:
        super().__init__()
        self.model, self.factor = model, factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * self.model(x)


class Bright(nn.Module):
    """Tells bright images from dark ones; what its gradient says is up to `slope`.

    1 is the truth, 0 no gradient at all, -1 the opposite.
    """

    def __init__(self, slope: float) -> None:
        super().__init__()
        self.slope = slope

    def forward(self, x: Tensor) -> Tensor:
        mean = x.flatten(1).mean(1)
        score = 20 * (mean.detach() - 0.5) + 20 * self.slope * (mean - mean.detach())
        return torch.stack([-score, score], dim=1)


def normalised_model() -> nn.Sequential:
    """Return a model with running statistics and dropout, in training mode."""
    with torch.random.fork_rng():
        torch.manual_seed(2)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.Flatten(), nn.Linear(64, 3)
        ).train()
