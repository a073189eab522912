"""AutoAttack through its package: the guards around it, and linear models."""

import itertools
import logging
import time

import pytest
import torch
from attack_cases import distance, is_broken, small_net, state_of
from torch import Tensor, nn

from arnas import autoattack
from arnas.attacks.threat import Threat
from arnas.runtime.errors import UserError

SIDE = 8
"""The smallest images that the package takes; the L2 Square attack fails below 5."""


def linear_net(classes: int) -> nn.Sequential:
    """Return logits linear in an image, the classes centred on grey."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(SIDE**2, classes))
    with torch.no_grad():
        net[1].weight.copy_(torch.randn(classes, SIDE**2, generator=generator()))
        net[1].bias.copy_(-0.5 * net[1].weight.sum(1))
    return net


def curved_net() -> nn.Sequential:
    """Return a network of ten classes on 6x6 images, in training mode."""
    net = small_net()
    net[3][2] = nn.Linear(64, 10)
    with torch.no_grad():
        net[3][2].weight.copy_(torch.randn(10, 64, generator=generator()) / 8)
        net[3][2].bias.zero_()
    return net.train()


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(5)


def grey_images(count: int, side: int = SIDE) -> Tensor:
    """Return images in [0.3, 0.7], whose balls lie inside the box."""
    return 0.3 + 0.4 * torch.rand(count, 1, side, side, generator=generator())


def least_margins(net: nn.Sequential, x: Tensor, y: Tensor, threat: Threat) -> Tensor:
    """Return each image's least margin over all rivals and the whole ball, in closed form."""
    weight, bias = net[1].weight.detach().double(), net[1].bias.detach().double()
    logits = x.double().flatten(1) @ weight.T + bias
    order = 1 if threat.norm == "linf" else 2
    worst = torch.empty(len(y), dtype=torch.float64)
    for i, own in enumerate(y.tolist()):
        rivals = [k for k in range(len(weight)) if k != own]
        gaps = weight[own] - weight[rivals]
        worst[i] = (logits[i, own] - logits[i, rivals] - threat.epsilon * gaps.norm(order, 1)).min()
    return worst


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_nothing_to_attack_gives_a_copy(norm: str) -> None:
    net, x = linear_net(10), grey_images(3)
    y = net(x).argmax(1)
    empty = autoattack(net, x[:0], y[:0], Threat(norm, 0.1))
    assert empty.shape == (0, 1, SIDE, SIDE)
    still = autoattack(net, x, y, Threat(norm, 0.0))
    assert torch.equal(still, x)
    assert still.data_ptr() != x.data_ptr()


@pytest.mark.parametrize("classes", [2, 3])
def test_too_few_classes_are_refused(classes: int) -> None:
    net, x = linear_net(classes).train(), grey_images(3)
    before, random = state_of(net), torch.get_rng_state()
    with pytest.raises(
        UserError, match=rf"needs 4 classes, the model has {classes}: use the suite"
    ):
        autoattack(net, x, torch.zeros(3, dtype=torch.long), Threat("linf", 0.1))
    assert state_of(net) == before
    assert torch.equal(torch.get_rng_state(), random)


@pytest.mark.parametrize("classes", [4, 9])
def test_fewer_than_ten_classes_have_fewer_targets(classes: int) -> None:
    """The package always asks for the nine likeliest other classes."""
    net, x = linear_net(classes), grey_images(4)
    y = net(x).argmax(1)
    threat = Threat("linf", 0.005)
    robust = (least_margins(net, x, y, threat) > 0).sum()
    assert robust > 0
    assert (~is_broken(net, autoattack(net, x, y, threat), y)).sum() == robust


def test_model_and_global_random_numbers_are_untouched() -> None:
    """Wrong labels: there is nothing to attack, so only the frame around the package runs."""
    net, x = curved_net(), torch.rand(2, 1, 6, 6, generator=generator())
    y = (net.eval()(x).argmax(1) + 1) % 10
    net.train()[3][0].eval()
    before, random = state_of(net), torch.get_rng_state()
    found = autoattack(net, x, y, Threat("linf", 0.1))
    assert state_of(net) == before
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.equal(found, x)


@pytest.mark.parametrize(
    ("net", "epsilon"),
    [
        pytest.param(curved_net(), 0.3, id="broken-by-the-first-attack"),
        pytest.param(linear_net(10), 0.005, id="some-withstand-all", marks=pytest.mark.long),
    ],
)
def test_two_calls_agree_whatever_the_global_seed_and_the_clock(
    net: nn.Module, epsilon: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Left alone, the package seeds itself with the time."""
    monkeypatch.setattr(time, "time", itertools.count(10**9, 1000).__next__)
    x = grey_images(6, 6 if net[0].__class__ is nn.Conv2d else SIDE)
    y = net.eval()(x).argmax(1)
    results = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        random = torch.get_rng_state()
        results.append(autoattack(net, x, y, Threat("linf", epsilon)))
        assert torch.equal(torch.get_rng_state(), random)
    assert torch.equal(*results)
    assert not results[0].requires_grad
    assert is_broken(net, results[0], y).any()


def test_the_package_says_nothing_below_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    net, x = linear_net(10), grey_images(2)
    with caplog.at_level(logging.WARNING):
        autoattack(net, x, (net(x).argmax(1) + 1) % 10, Threat("linf", 0.1))
    assert not caplog.records


@pytest.mark.parametrize(
    ("norm", "epsilon"), [("linf", 0.005), pytest.param("l2", 0.03, marks=pytest.mark.long)]
)
def test_the_robust_images_of_a_linear_model_are_the_certified_ones(
    norm: str, epsilon: float
) -> None:
    """Targeted attacks find the optimum of a linear model, so no image may be misjudged."""
    net, x = linear_net(10), grey_images(24)
    with torch.no_grad():
        y = net(x).argmax(1)
    threat = Threat(norm, epsilon)
    margins = least_margins(net, x, y, threat)
    assert margins.abs().min() > 1e-4, "an image stands on the fence"
    assert 5 < (margins > 0).sum() < 19
    found = autoattack(net, x, y, threat)
    assert torch.equal(~is_broken(net, found, y), margins > 0)
    assert torch.equal(found[margins > 0], x[margins > 0])
    assert distance(found, x, norm).max() <= epsilon + 1e-6
    assert found.min() >= 0
    assert found.max() <= 1
