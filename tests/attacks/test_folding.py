"""The copy that is attacked is the same function, with fewer normalisations, and stays up to date.

What may not be copied is attacked itself.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from arnas.attacks.folding import _COPIES, attack_copy, attacked
from arnas.models.registry import MODELS, build_model

X = torch.rand(7, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def trained(model: nn.Module, x: Tensor = X) -> nn.Module:
    """Return a model in float64 whose normalisations have moved away from the identity."""
    for module in model.double().modules():
        if isinstance(module, nn.BatchNorm2d) and module.weight is not None:
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.uniform_(module.bias, -1, 1)
    model.train()
    for _ in range(3):
        model(x + 0.1 * torch.rand_like(x))
    return model.eval()


def norms(model: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())


def assert_same(model: nn.Module, copy: nn.Module, x: Tensor = X) -> None:
    """Both return the same logits and input gradients."""
    x, found = x.clone().requires_grad_(), []
    for network in (model, copy):
        logits = network(x)
        (gradient,) = torch.autograd.grad(logits.square().sum(), x)
        found.append((logits.detach(), gradient))
    (logits, gradient), (other, other_gradient) = found
    assert torch.allclose(logits, other, atol=1e-12, rtol=1e-12)
    assert torch.allclose(gradient, other_gradient, atol=1e-10, rtol=1e-10)
    assert gradient.abs().max() > 1e-6


FAMILIES = ("arnas", "robnet_large_v1", "resnet18", "preact_resnet18", "densenet121", "vgg16_bn",
            "mobilenet_v2", "wrn28_10", "small_cnn")  # fmt: skip


@pytest.mark.parametrize("name", FAMILIES)
def test_the_copy_of_every_family_is_the_same_function(name: str) -> None:
    torch.manual_seed(0)
    entry = MODELS[name]
    sizes: dict[str, Any] = {"cells": 3} if entry.cells else {}
    side = max(8, entry.min_image_size)
    x = X if side == 8 else torch.rand(3, 1, side, side, dtype=torch.float64)
    model = build_model(name, num_classes=5, image_size=side, in_channels=1, channels=4, **sizes)
    before = {key: value.clone() for key, value in trained(model, x).state_dict().items()}
    model.train()
    with attacked(model, x) as copy:
        assert norms(model) == 0 or norms(copy) < norms(model)
        assert (copy is model) == (norms(model) == 0)
        assert_same(model, copy, x)
    assert model.training, "the model itself keeps its mode"
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key


class Block(nn.Module):
    """Layers as attributes, called in the forward pass, as most people write them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.fc = nn.Linear(256, 5)
        self.scale, self.shift = 1.0, torch.zeros(1, dtype=torch.float64)  # and no buffer

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.conv(x)) + self.shift
        return self.fc(self.scale * F.relu(h).flatten(1))


@torch.no_grad()
def step(model: nn.Module) -> None:
    for value in (*model.parameters(), *model.buffers()):
        if value.is_floating_point():
            value.mul_(1.1)


def load(model: nn.Module) -> None:
    model.load_state_dict({k: 0.9 * v for k, v in model.state_dict().items()})


def data(model: nn.Module) -> None:
    for value in model.parameters():
        value.data = value.data * 1.1


def replaced(model: nn.Module) -> None:
    model.norm.running_mean = torch.ones(4, dtype=torch.float64)
    model.conv.weight = nn.Parameter(torch.rand(4, 1, 3, 3, dtype=torch.float64))


def other_layer(model: nn.Module) -> None:
    model.fc = nn.Linear(256, 5).double()


def attribute(model: nn.Module) -> None:
    model.scale = -2.0
    model.norm.eps = 0.5


def constant(model: nn.Module) -> None:
    model.shift = model.shift + 1


def constant_in_place(model: nn.Module) -> None:
    model.shift += 1


CHANGES = (step, load, data, replaced, other_layer, attribute, constant, constant_in_place)


@pytest.mark.parametrize("change", CHANGES)
def test_the_copy_follows_every_change_of_the_model(change: Callable[[nn.Module], None]) -> None:
    model = trained(Block())
    first = attack_copy(model, X)
    assert first is not model
    assert attack_copy(model, X) is first, "it is made once"
    change(model)
    assert_same(model, attack_copy(model, X))


def test_a_copy_does_not_keep_its_model_alive() -> None:
    model = trained(Block())
    attack_copy(model, X)
    count = len(_COPIES)
    del model
    gc.collect()
    assert len(_COPIES) < count


class Own(Block):
    """Computes something that a trace or a fold would change."""

    def __init__(self, how: Callable[[Own, Tensor], Tensor]) -> None:
        super().__init__()
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.how(self, x).flatten(1))

    def layers(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(x)))


class Masked(torch.autograd.Function):
    """The identity with a gradient of its own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 1

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return -gradients[0]


def without_gradient(model: Own, x: Tensor) -> Tensor:
    h = model.layers(x)
    with torch.no_grad():
        return h + model.layers(x)


def control_flow(model: Own, x: Tensor) -> Tensor:
    return model.layers(x) if x.mean() > 0.1 else x


def random(model: Own, x: Tensor) -> Tensor:
    return model.layers(x + 1e-9 * torch.randn_like(x))


def other_random(model: Own, x: Tensor) -> Tensor:
    model.scale += 1e-9
    return model.scale * model.layers(x)


def when_attacked(model: Own, x: Tensor) -> Tensor:
    return model.layers(x.round() if torch.is_grad_enabled() else x)


def shared() -> nn.Module:
    conv = nn.Conv2d(1, 1, 3, padding=1)
    return nn.Sequential(conv, nn.BatchNorm2d(1), nn.ReLU(), conv, nn.Flatten(), nn.Linear(64, 5))


def hooked() -> nn.Module:
    model = Block()
    model.norm.register_forward_hook(lambda module, inputs, output: output * 2)
    return model


@pytest.mark.parametrize(
    "model",
    [
        shared(),
        hooked(),
        nn.Sequential(
            nn.utils.parametrizations.weight_norm(nn.Conv2d(1, 4, 3)),
            nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 5),
        ),
        nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, track_running_stats=False),
            nn.Flatten(), nn.Linear(144, 5),
        ),
        Own(lambda model, x: F.relu(model.norm(2 * model.conv(x)))),
        Own(lambda model, x: model.layers(Masked.apply(x))),
        *map(Own, (without_gradient, control_flow, random, other_random, when_attacked)),
        nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(144, 5)),
    ],
    ids=[
        "shared", "hooked", "weight_norm", "batch_statistics", "scaled_between", "own_backward",
        "without_gradient", "control_flow", "random", "other_random", "when_attacked", "no_norm",
    ],
)  # fmt: skip
def test_what_cannot_be_copied_safely_is_attacked_itself(model: nn.Module) -> None:
    trained(model)
    before = {name: dict(vars(module)) for name, module in model.named_modules()}
    assert attack_copy(model, X) is model
    after = {name: dict(vars(module)) for name, module in model.named_modules()}
    if model.__dict__.get("how") is not other_random:
        assert before == after


@pytest.mark.long
def test_a_compiled_copy_is_the_same_function(monkeypatch: pytest.MonkeyPatch) -> None:
    """For batches of several sizes, with and without gradients, after a change of weights."""
    monkeypatch.setenv("ARNAS_COMPILE", "1")
    for model in (trained(Block()), nn.Sequential(nn.Flatten(), nn.Linear(64, 5)).double()):
        copy = attack_copy(model, X)
        assert hasattr(copy, "dynamo_ctx")
        step(model)
        for count in (7, 3, 1):
            assert_same(model, attack_copy(model, X), X[:count])
        with torch.no_grad():
            assert torch.allclose(copy(X), model(X), atol=1e-12)
    model = trained(Own(control_flow))
    with pytest.warns(UserWarning, match="without compiling"):
        assert attack_copy(model, X) is model
