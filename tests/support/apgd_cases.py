"""Models, images and draws that the tests of APGD share."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

NORMS = {"linf": torch.inf, "l2": 2.0, "l1": 1.0}
DUALS = {"linf": 1.0, "l2": 2.0, "l1": torch.inf}
in_every_norm = pytest.mark.parametrize("norm", NORMS)


def linear(classes: int, seed: int) -> nn.Sequential:
    """Return logits linear in an image of sixteen pixels, all zero where it is grey.

    Each weight occurs twice: a step in L1 that is to reach the closed form of a linear model need
    not move a single pixel, for which Auto-PGD never goes.
    """
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, classes)).double()
    half = torch.randn(classes, 8, generator=generator).double()
    with torch.no_grad():
        model[1].weight.copy_(torch.cat([half, half], 1))
        model[1].bias.copy_(-half.sum(1))
    return model


def images(count: int, seed: int = 3) -> Tensor:
    """Return images so far inside the box that no small ball leaves it."""
    generator = torch.Generator().manual_seed(seed)
    return 0.4 + 0.2 * torch.rand(count, 1, 4, 4, generator=generator, dtype=torch.float64)


def small_net(seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(128, 10),
        )


def trained_net() -> tuple[nn.Sequential, Tensor, Tensor]:
    """Return a small network fitted to blobs of eight by eight pixels, and images of them."""
    model = small_net()
    generator = torch.Generator().manual_seed(1)
    centres = torch.rand(10, 1, 8, 8, generator=generator)
    y = torch.arange(200) % 10
    x = (centres[y] + 0.25 * torch.randn(200, 1, 8, 8, generator=generator)).clamp(0, 1)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(30):
        optimiser.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimiser.step()
    return model.eval(), x, y


def draw(x: Tensor, norm: str, seed: int = 0) -> Tensor:
    """Return the noise of random starts."""
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.rand if norm == "linf" else torch.randn
    return numbers(x.shape, generator=generator, dtype=x.dtype)
