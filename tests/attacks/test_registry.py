"""The registry: names, suites, users' own attacks, and the passes that it states."""

from __future__ import annotations

import pytest
import torch
from attack_cases import fixed
from torch import Tensor, nn

from arnas.attacks.eval_mode import frozen_eval
from arnas.attacks.oracle import Oracle
from arnas.attacks.registry import ATTACKS
from arnas.attacks.square import per_image_numbers
from arnas.attacks.suites import build_suite
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


def counted(name: str, norm: str = "linf") -> tuple[float, float]:
    """Return the backward and forward passes of an attack at an image that withstands it."""
    model = Counting()
    x = torch.rand(200, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        best = model(x).topk(2).values
        lead = best[:, 0] - best[:, 1]
        x = x[lead.argsort(descending=True)[:COUNT]]
        y = model(x).argmax(1)
        order = model(x).argsort(1, descending=True)
    part = build_suite(name, norm, CLASSES).components[name]
    total = [0, 0]
    for number in range(part.tries):
        model.forwards = model.gradients = 0
        labels = torch.stack([y, order[:, 1 + number]], 1) if part.targeted else y
        blocks = per_image_numbers(("test", number), torch.arange(COUNT))
        streams = fixed(torch.rand(x.shape), blocks)
        with frozen_eval(model):
            found = part.run(Oracle(model, COUNT), x, labels, Threat(norm, 1e-4), streams)
        assert not found.broken.any(), "a broken image would cost less"
        total = [total[0] + model.gradients, total[1] + model.forwards]
    return total[0] / COUNT, total[1] / COUNT


@pytest.mark.parametrize("name", [name for name, entry in ATTACKS.items() if not entry.parts])
def test_an_image_that_withstands_costs_what_the_registry_says(name: str) -> None:
    # Square takes a pass an image for the outcome. The package looks once at a whole batch.
    assert counted(name) == pytest.approx(ATTACKS[name].passes(), abs=1 + ATTACKS[name].tries)
