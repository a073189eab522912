"""PGD with targets and CW, and the closed forms of linear models in every norm."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from attack_cases import fixed, images, is_broken, labels, linear_net, rugged_net, small_net
from torch import Tensor

from arnas.attacks.objectives import (
    margin,
    targeted_margin,
)
from arnas.attacks.oracle import Oracle
from arnas.attacks.pgd import cw, pgd
from arnas.attacks.suites import build_suite
from arnas.attacks.threat import Threat

NORMS = ("linf", "l2", "l1")
EPSILON = {"linf": 0.1, "l2": 0.5, "l1": 2.0}
for_every_norm = pytest.mark.parametrize("norm", NORMS)


@for_every_norm
def test_targets_are_reached_by_large_budgets(norm: str) -> None:
    net, x = linear_net(3), 0.3 + 0.4 * images(30, torch.float64)
    y = net(x).argmax(1)
    threat = Threat(norm, {"linf": 0.6, "l2": 4.0, "l1": 20.0}[norm])
    for step in (1, 2):
        wanted = (y + step) % 3
        for attack in (pgd, partial(pgd, momentum=1.0), partial(cw, confidence=0.1)):
            x_adv = attack(net, x, y, threat, steps=40, targets=wanted)
            assert torch.equal(net(x_adv).argmax(1), wanted)
    assert not torch.equal(net(pgd(net, x, y, threat, steps=40)).argmax(1), wanted)


def test_the_targets_objectives_get_pairs() -> None:
    net, x, y, seen = small_net(), images(), labels(), []

    def watched(logits: Tensor, pairs: Tensor) -> Tensor:
        seen.append(pairs)
        return targeted_margin(logits, pairs)

    targets = (y + 1) % 3
    pgd(net, x, y, Threat("linf", 0.1), steps=1, targets=targets, objective=watched)
    assert len(seen) == 2
    assert all(torch.equal(pairs, torch.stack([y, targets], dim=1)) for pairs in seen)


# Linear models


DUAL = {"linf": 1.0, "l2": 2.0, "l1": torch.inf}
SMALL = {"linf": 0.03, "l2": 0.15, "l1": 0.25}


@for_every_norm
@pytest.mark.parametrize("momentum", [0.0, 1.0])
def test_the_worst_case_of_two_classes_is_reached(norm: str, momentum: float) -> None:
    """In L1 a step moves two of 36 pixels, so that it takes many to reach the largest weight."""
    net, x, threat = linear_net(2), 0.3 + 0.4 * images(40, torch.float64), Threat(norm, SMALL[norm])
    y = net(x).argmax(1)
    weight = net[1].weight.detach()
    reach = threat.epsilon * (weight[0] - weight[1]).norm(p=DUAL[norm])
    lead = -margin(net(x), y).detach()
    how = {"steps": 60, "step_size": threat.epsilon, "momentum": momentum}
    x_adv = pgd(net, x, y, threat, **how)
    found = -margin(net(x_adv), y)
    tolerance = 1e-9 if norm != "l1" else 0.1 * float(reach)
    assert (found >= lead - reach - 1e-9).all()
    assert (found <= lead - reach + tolerance).all()
    assert 0 < (lead > reach).sum() < 40
    if norm != "l1":
        assert torch.equal(is_broken(net, x_adv, y), lead < reach)


@pytest.mark.parametrize("epsilon", [0.5, 2.0, 8.0])
def test_l1_goes_on_to_other_pixels_where_the_box_ends(epsilon: float) -> None:
    """The worst case of a linear model: the largest weight first, each as far as the box."""
    net, x = linear_net(2), images(40, torch.float64)
    y = net(x).argmax(1)
    weight = net[1].weight.detach()
    slope = weight[1 - y] - weight[y]
    order = slope.abs().argsort(dim=1, descending=True)
    room = torch.where(slope > 0, 1 - x.flatten(1), x.flatten(1)).gather(1, order)
    before = (room.cumsum(1) - room).clamp_max(epsilon)
    spent = torch.minimum(room, epsilon - before)
    gain = (spent * slope.abs().gather(1, order)).sum(1)
    x_adv = pgd(net, x, y, Threat("l1", epsilon), steps=60, random_start=False)
    found = (margin(net(x_adv), y) - margin(net(x), y)).detach()
    assert (found <= gain + 1e-9).all()
    assert (found >= 0.8 * gain).all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_target_of_a_linear_model_is_reached_exactly_where_it_can_be(norm: str) -> None:
    """On the margin of target and true class alone, the other classes do not matter."""
    net, x = linear_net(4), 0.3 + 0.4 * images(60, torch.float64)
    y, threat = net(x).argmax(1), Threat(norm, {"linf": 0.1, "l2": 0.6}[norm])
    wanted, weight = net(x).topk(2).indices[:, 1], net[1].weight.detach()
    pairs = torch.stack([y, wanted], dim=1)
    reach = threat.epsilon * (weight[wanted] - weight[y]).norm(p=DUAL[norm], dim=1)
    how = {"steps": 40, "step_size": threat.epsilon, "objective": targeted_margin, "keep": "last"}
    x_adv = pgd(net, x, y, threat, targets=wanted, **how)
    expected = targeted_margin(net(x), pairs) + reach
    assert torch.allclose(targeted_margin(net(x_adv), pairs), expected, rtol=0, atol=1e-9)
    assert 0 < (expected > 0).sum() < 60


# CW


@for_every_norm
def test_cw_is_the_registrys_attack(norm: str) -> None:
    net, x = rugged_net(), images(40, torch.float64)
    y, share = net(x).argmax(1), 0.01 if norm == "l1" else 0.04
    threat = Threat(norm, share * EPSILON[norm])
    unit = torch.rand(x.shape, generator=torch.Generator().manual_seed(4)).to(x)
    attack = build_suite("cw_inf", norm, 10).components["cw_inf"].run
    expected = attack(Oracle(net, 40), x, y, threat, fixed(unit)).x_adv
    found = cw(net, x, y, threat, generator=torch.Generator().manual_seed(4))
    assert 0 < is_broken(net, expected, y).sum() < 40
    assert torch.equal(found, expected)


@for_every_norm
def test_cw_pushes_up_to_its_confidence_and_no_further(norm: str) -> None:
    net, x = linear_net(3), 0.3 + 0.4 * images(30, torch.float64)
    y, threat = net(x).argmax(1), Threat(norm, {"linf": 0.3, "l2": 1.5, "l1": 8.0}[norm])
    reached = [
        margin(net(cw(net, x, y, threat, confidence=confidence, keep="last")), y)
        for confidence in (0.0, 1.0, 1e9)
    ]
    free = margin(net(pgd(net, x, y, threat, steps=30, objective=margin)), y)
    step = threat.epsilon / 4 * (net[1].weight[:, None] - net[1].weight).norm(p=1, dim=2).max()
    for confidence, found in zip((0.0, 1.0), reached, strict=False):
        assert (found <= confidence + step).all()
    assert reached[1].mean() > reached[0].mean() + 0.5
    assert reached[2].mean() > reached[1].mean() + 0.5
    assert free.mean() > reached[0].mean() + 0.5
