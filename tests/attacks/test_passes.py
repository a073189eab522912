"""The passes that the registry states are those that an image costs which withstands everything."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from arnas.attacks.registry import ATTACKS
from arnas.attacks.threat import Threat

COUNT, CLASSES = 4, 10


class Counting(nn.Module):
    """Linear logits; counts the images that pass forward and backward."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(CLASSES, 64, generator=generator))
        self.forwards = self.gradients = 0

    def forward(self, x: Tensor) -> Tensor:
        self.forwards += len(x)
        if x.requires_grad:
            x.register_hook(self._count)
        return x.flatten(1) @ self.weight.T

    def _count(self, gradient: Tensor) -> None:
        self.gradients += len(gradient)


@pytest.mark.parametrize("name", ATTACKS)
def test_an_image_that_withstands_costs_what_the_registry_says(name: str) -> None:
    entry, model = ATTACKS[name], Counting()
    x = torch.rand(200, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        best = model(x).topk(2).values
        lead = best[:, 0] - best[:, 1]
        x = x[lead.argsort(descending=True)[:COUNT]]
        y = model(x).argmax(1)
    model.forwards = model.gradients = 0
    x_adv = entry.run(model, x, y, Threat("linf", 1e-4), torch.rand(x.shape))
    counted = model.gradients / COUNT, model.forwards / COUNT
    with torch.no_grad():
        assert torch.equal(model(x_adv).argmax(1), y), "a broken image would cost less"
    # The package looks once at a whole batch, which is a fraction of a pass an image.
    assert counted == pytest.approx((entry.gradients, entry.forwards), abs=1)
