"""The strength of FGSM and PGD, against closed forms and other writers' code."""

from functools import partial

import pytest
import torch
from attack_cases import (
    TOLERANCE,
    Attack,
    distance,
    for_both_norms,
    images,
    is_broken,
    labels,
    linear_net,
    plain_pgd,
    rugged_net,
    small_net,
    strength,
)
from torch import Tensor, nn

from arnas.attacks.pgd import fgsm, pgd
from arnas.attacks.threat import Threat

# What is kept


@for_both_norms
def test_best_is_the_strongest_of_all_iterates(norm: str) -> None:
    """`last` after 0, 1, ... steps lists the iterates, so `best` can be found by hand."""
    net, x = rugged_net(), images(40, torch.float64)
    y = net(x).argmax(1)
    epsilon = 0.05 if norm == "linf" else 0.3
    attack = partial(pgd, net, x, y, Threat(norm, epsilon), step_size=epsilon)
    iterates = [attack(steps=steps, keep="last") for steps in range(7)]
    judged = [strength(net, iterate, y) for iterate in iterates]
    places = [max(range(7), key=lambda k, i=i: judged[k][i]) for i in range(40)]
    assert len(set(places)) == 7, "the case is too easy to tell the iterates apart"
    losses_alone = [max(range(7), key=lambda k, i=i: judged[k][i][1]) for i in range(40)]
    assert places != losses_alone, "no image has its highest loss where it is classified right"
    expected = torch.stack([iterates[k][i] for i, k in enumerate(places)])
    found = attack(steps=6, keep="best")
    assert torch.allclose(found, expected, rtol=0, atol=1e-12)


@for_both_norms
def test_stopping_early_breaks_the_same_images(norm: str) -> None:
    net, x, y = small_net().eval(), images(60), labels(60)
    attack = partial(pgd, net, x, y, Threat(norm, 0.15 if norm == "linf" else 0.6), steps=6)
    stopped, full = attack(stop_when_broken=True), attack()
    assert torch.equal(is_broken(net, stopped, y), is_broken(net, full, y))
    assert distance(stopped, x, norm).max() <= attack.args[3].epsilon + TOLERANCE
    assert not torch.equal(stopped, full)


def test_stopping_early_saves_forward_passes() -> None:
    net, seen = small_net(), []
    net.register_forward_hook(lambda module, args, output: seen.append(len(args[0])))
    attack = partial(pgd, net, images(60), labels(60), Threat("linf", 0.15), steps=6)
    attack()
    full = sum(seen)
    assert full == 60 * 7
    seen.clear()
    attack(stop_when_broken=True)
    assert sum(seen) < 0.8 * full
    assert seen == sorted(seen, reverse=True)


# Against independent code


@for_both_norms
@pytest.mark.parametrize("steps", [1, 7])
def test_last_is_the_textbook_algorithm(norm: str, steps: int) -> None:
    net, x, y = small_net(torch.float64).eval(), images(dtype=torch.float64), labels()
    epsilon = 0.1 if norm == "linf" else 0.5
    start = 0.05 * (images(dtype=torch.float64, seed=9) - x)
    found = pgd(net, x, y, Threat(norm, epsilon), steps=steps, start=start, keep="last")
    size = 2.5 * epsilon / steps
    expected = plain_pgd(net, x, y, Threat(norm, epsilon), start, steps, size)
    assert torch.allclose(found, expected, rtol=0, atol=1e-12)


@for_both_norms
def test_a_given_start_is_used_and_projected(norm: str) -> None:
    x = torch.full((2, 1, 6, 6), 0.5, dtype=torch.float64)
    start = torch.tensor([0.01, -9.0], dtype=x.dtype).view(2, 1, 1, 1).expand_as(x)
    epsilon = 0.2
    found = pgd(small_net(x.dtype), x, labels(2), Threat(norm, epsilon), steps=0, start=start)
    edge = epsilon if norm == "linf" else epsilon / 6
    expected = torch.stack([x[0] + 0.01, x[1] - edge])
    assert torch.allclose(found, expected, rtol=0, atol=1e-12)


# Linear models, whose worst case is known


def interior(count: int = 40) -> Tensor:
    """Return images whose balls of radius 0.25 lie inside the box, so that clipping is idle."""
    return 0.3 + 0.4 * images(count, torch.float64)


def margins(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Return each image's logit of its class less that of every other, shape (N, classes - 1)."""
    with torch.no_grad():
        logits = net(x)
    others = torch.ones_like(logits, dtype=torch.bool).scatter(1, y[:, None], False)
    return logits.gather(1, y[:, None]) - logits[others].view(len(y), -1)


def worst_margins(net: nn.Sequential, x: Tensor, y: Tensor, threat: Threat) -> Tensor:
    """Return the least margins in the ball: margin - epsilon * dual norm of the weights."""
    weight = net[1].weight.detach()
    others = torch.ones(len(y), len(weight), dtype=torch.bool).scatter(1, y[:, None], False)
    rivals = torch.stack([weight[row] for row in others])
    difference = weight[y][:, None] - rivals
    return margins(net, x, y) - threat.epsilon * difference.norm(
        p=1 if threat.norm == "linf" else 2, dim=2
    )


LINEAR_ATTACKS = [
    pytest.param(fgsm, id="fgsm"),
    pytest.param(partial(pgd, steps=10, random_start=False), id="pgd"),
    pytest.param(partial(pgd, steps=10), id="pgd-random-start"),
]


@for_both_norms
@pytest.mark.parametrize("keep", ["best", "last"])
@pytest.mark.parametrize("attack", LINEAR_ATTACKS)
def test_the_worst_case_of_two_classes_is_reached(attack: Attack, keep: str, norm: str) -> None:
    net, x = linear_net(2, bias=0.1), interior()
    y = net(x).argmax(1)
    threat = Threat(norm, 0.03 if norm == "linf" else 0.2)
    if norm == "l2" and attack is LINEAR_ATTACKS[2].values[0]:
        attack = partial(attack, steps=60, step_size=threat.epsilon)
    x_adv = attack(net, x, y, threat, keep=keep)
    expected = worst_margins(net, x, y, threat)
    assert torch.allclose(margins(net, x_adv, y), expected, rtol=0, atol=1e-9)
    assert 0 < (expected > 0).sum() < len(x), "the case decides nothing"
    assert torch.equal(is_broken(net, x_adv, y), (expected < 0)[:, 0])


@pytest.mark.parametrize("attack", LINEAR_ATTACKS)
def test_the_worst_case_of_two_classes_in_the_corner_of_the_box(attack: Attack) -> None:
    """Ball and box together are a product of intervals, whose ends decide pixel by pixel."""
    net, x = linear_net(2, bias=0.1), images(40, torch.float64)
    y = net(x).argmax(1)
    weight = net[1].weight.detach()
    slope = (weight[y] - weight[1 - y]).view_as(x)
    low, high = (x - 0.1).clamp_min(0), (x + 0.1).clamp_max(1)
    worst = torch.where(slope > 0, low, high)
    assert ((x - worst).abs() < 0.05).any(), "the box does not bind"
    x_adv = attack(net, x, y, Threat("linf", 0.1))
    assert torch.allclose(x_adv, worst, rtol=0, atol=1e-12)


@for_both_norms
def test_pgd_never_beats_the_certificate_of_a_linear_model(norm: str) -> None:
    net, x = linear_net(5, seed=2, bias=0.1), interior(200)
    y = net(x).argmax(1)
    threat = Threat(norm, 0.03 if norm == "linf" else 0.2)
    safe = (worst_margins(net, x, y, threat) > 0).all(1)
    broken = is_broken(net, pgd(net, x, y, threat, steps=30), y)
    assert not (broken & safe).any()
    assert 20 < safe.sum() < 180
    assert broken.sum() >= 0.85 * (~safe).sum(), "the wrong rival may win, but not often"
