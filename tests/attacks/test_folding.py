"""The folded copy is the same function, with fewer normalisations, and leaves the model alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from arnas.attacks.folding import folded
from arnas.models.registry import build_model


def trained(name: str, **sizes: int) -> nn.Module:
    """Return a model in float64 whose normalisations have moved away from the identity."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build_model(name, num_classes=10, image_size=8, in_channels=1, **sizes).double()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 2)
                nn.init.uniform_(module.bias, -1, 1)
        model.train()
        for _ in range(3):
            model(torch.rand(32, 1, 8, 8, dtype=torch.float64))
    return model


def norms(model: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())


@pytest.mark.parametrize(
    ("name", "sizes"),
    [("arnas", {"channels": 4, "cells": 4}), ("resnet18", {"channels": 4})],
)
def test_logits_and_input_gradients_are_the_same(name: str, sizes: dict[str, int]) -> None:
    model = trained(name, **sizes)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    copy = folded(model)
    assert norms(copy) < norms(model)
    assert model.training, "the model itself keeps its mode"
    x = torch.rand(7, 1, 8, 8, dtype=torch.float64, requires_grad=True)
    model.eval()
    found = []
    for network in (model, copy):
        logits = network(x)
        (gradient,) = torch.autograd.grad(logits.square().sum(), x)
        found.append((logits.detach(), gradient))
    assert torch.allclose(*(pair[0] for pair in found), atol=1e-12, rtol=1e-12)
    assert torch.allclose(*(pair[1] for pair in found), atol=1e-10, rtol=1e-10)
    assert found[0][1].abs().max() > 1e-6
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_a_model_without_pairs_is_returned_as_it_is() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.BatchNorm2d(2))
    assert folded(model) is model


class Reversed(nn.Sequential):
    """A container that does not run its modules in their order."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for module in reversed(list(self)):
            x = module(x)
        return x


def shared() -> nn.Module:
    conv = nn.Conv2d(2, 2, 3, padding=1)
    return nn.Sequential(conv, nn.BatchNorm2d(2), nn.ReLU(), conv)


def hooked() -> nn.Module:
    model = nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2))
    model[1].register_forward_hook(lambda module, inputs, output: output * 2)
    return model


@pytest.mark.parametrize(
    "model",
    [
        Reversed(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)),
        shared(),
        hooked(),
        nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2, track_running_stats=False)),
    ],
    ids=["another_order", "shared", "hooked", "batch_statistics"],
)
def test_what_cannot_be_folded_safely_is_left(model: nn.Module) -> None:
    assert folded(model) is model
