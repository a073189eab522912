"""APGD: schedules, the contract, closed forms of linear models, and what it costs."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from apgd_cases import DUALS, NORMS, draw, images, in_every_norm, linear, trained_net
from attack_cases import fixed, state_of
from attack_cases import small_net as delicate_net
from torch import Tensor, nn

from arnas import Threat, apgd, fab
from arnas.attacks.apgd import apgd_batch, checkpoints, project_point, random_point
from arnas.attacks.eval_mode import frozen_eval
from arnas.attacks.objectives import dlr, margin
from arnas.attacks.oracle import Oracle, misclassified
from arnas.runtime.errors import UserError

# Schedules


def test_the_schedule_is_the_papers() -> None:
    """Periods of 22, 19, 16, 13, 10, 7, 6 and then 6 per cent of the budget."""
    assert checkpoints(100) == [22, 41, 57, 70, 80, 87, 93, 99]


def test_periods_are_whole_numbers_of_moves() -> None:
    assert checkpoints(0) == []
    assert checkpoints(1) == [1]
    assert checkpoints(4) == [1, 2, 3, 4]
    assert checkpoints(10) == [2, 3, 4, 5, 6, 7, 8, 9, 10]
    assert checkpoints(50) == [11, 21, 30, 38, 45]


def test_sparse_steps_are_reconsidered_evenly() -> None:
    assert checkpoints(100, "l1") == list(range(4, 101, 4))
    assert checkpoints(40, "l1") == list(range(1, 41))


# Starts


def test_starts_lie_where_the_package_puts_them() -> None:
    """Largest coordinate epsilon for linf, on the sphere for L2, in the ball for L1."""
    x = images(50)
    for norm, order in NORMS.items():
        threat = Threat(norm, 0.1)
        delta = (random_point(x, draw(x, norm), threat) - x).flatten(1)
        torch.testing.assert_close(
            delta.norm(p=order, dim=1),
            torch.full((50,), 0.1, dtype=torch.float64),
            rtol=0,
            atol=1e-9,
        )
        again = project_point(x, x + delta.view_as(x), threat)
        torch.testing.assert_close(again, x + delta.view_as(x), rtol=0, atol=1e-9)


# Closed forms


def reach(x: Tensor, dual: Tensor, margins: Tensor) -> float:
    """Return an epsilon that half of the images withstand and that stays inside the box."""
    room = float(torch.minimum(x, 1 - x).min())
    return min(float((margins / dual).median()), room)


@in_every_norm
@pytest.mark.parametrize("seed", range(3))
def test_two_classes_reach_the_closed_form(norm: str, seed: int) -> None:
    """The margin of a linear model shrinks by epsilon times the dual norm of the difference."""
    model, x = linear(2, seed), images(60)
    y = model(x).argmax(1)
    difference = (model[1].weight[0] - model[1].weight[1]).detach()
    dual = difference.norm(p=DUALS[norm])
    clean = -margin(model(x), y).detach()
    epsilon = reach(x, dual, clean)
    found = apgd(model, x, y, Threat(norm, epsilon), steps=50)
    robust = model(found).argmax(1) == y
    decided = (clean - epsilon * dual).abs() > 1e-6
    assert torch.equal(robust[decided], (clean > epsilon * dual)[decided])
    assert 0 < int(robust.sum()) < 60


@in_every_norm
@pytest.mark.parametrize("objective", [margin, dlr])
def test_every_target_reaches_the_closed_form(norm: str, objective: Any) -> None:
    """A linear model of five classes is robust where no rival's margin can be closed."""
    model, x = linear(5, 1), images(60)
    logits = model(x).detach()
    y = logits.argmax(1)
    weight = model[1].weight.detach()
    # From the weights of an image's class to those of each of its four rivals.
    rivals = (y[:, None] + torch.arange(1, 5)) % 5
    duals = (weight[y][:, None] - weight[rivals]).norm(p=DUALS[norm], dim=2)
    lead = logits.gather(1, y[:, None]) - logits.gather(1, rivals)
    epsilon = reach(x, duals[:, 0], lead[:, 0])
    spare = (lead - epsilon * duals).amin(1)
    robust = torch.ones(60, dtype=torch.bool)
    for column in range(4):
        found = apgd(
            model,
            x,
            y,
            Threat(norm, epsilon),
            steps=50,
            targets=rivals[:, column],
            objective=objective,
        )
        robust &= ~misclassified(model(found), y)
    decided = spare.abs() > 1e-6
    assert torch.equal(robust[decided], (spare > 0)[decided])
    assert 0 < int(robust.sum()) < 60


# The contract


@in_every_norm
@pytest.mark.parametrize("epsilon", [0.0, 0.05, 0.5, 1.0])
def test_stays_in_ball_and_box(norm: str, epsilon: float) -> None:
    model, x, y = trained_net()
    found = apgd(model, x, y, Threat(norm, epsilon), steps=10)
    assert found.dtype == x.dtype
    size = (found.double() - x.double()).flatten(1).norm(p=NORMS[norm], dim=1)
    assert size.max() <= epsilon + 1e-6
    assert found.min() >= 0
    assert found.max() <= 1
    if epsilon == 0:
        assert torch.equal(found, x)


def test_large_images_stay_in_the_ball_of_l1() -> None:
    """Three thousand pixels in float32, each of which may be rounded."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(8, 3, 32, 32, generator=generator)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3072, 4))
    y = model(x).argmax(1)
    for steps, epsilon in itertools.product((0, 1, 10), (1.0, 12.0)):
        found = apgd(model, x, y, Threat("l1", epsilon), steps=steps)
        size = (found.double() - x.double()).abs().flatten(1).sum(1)
        assert size.max() <= epsilon + 1e-6 * max(1, epsilon)


@in_every_norm
@pytest.mark.parametrize("batch_norm", ["eval", "batch"])
def test_the_model_is_untouched(norm: str, batch_norm: Any) -> None:
    model = delicate_net().train()
    model[0].weight.requires_grad_(False)
    x = torch.rand(6, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    given, y = x.clone(), torch.arange(6) % 3
    before = state_of(model)
    apgd(model, x, y, Threat(norm, 0.1), steps=5, restarts=2, batch_norm=batch_norm)
    assert state_of(model) == before
    assert torch.equal(x, given)


@in_every_norm
def test_no_images_and_no_steps(norm: str) -> None:
    model, x, y = trained_net()
    threat = Threat(norm, 0.1)
    assert apgd(model, x[:0], y[:0], threat).shape == (0, 1, 8, 8)
    found = apgd_batch(Oracle(model, 8), x[:0], y[:0], threat, fixed(x[:0]))
    assert found.broken.shape == (0,)
    for steps in range(4):
        x_adv = apgd(model, x[:9], y[:9], threat, steps=steps)
        assert ((x_adv - x[:9]).flatten(1).norm(p=NORMS[norm], dim=1) <= 0.1 + 1e-6).all()


def test_one_pixel_and_one_class() -> None:
    """Nothing to choose from, and nothing to find."""
    for norm in NORMS:
        x = torch.rand(5, 1, 1, 1)
        model = nn.Sequential(nn.Flatten(), nn.Linear(1, 1))
        found = apgd(model, x, torch.zeros(5, dtype=torch.int64), Threat(norm, 0.2), steps=5)
        assert found.isfinite().all()


def test_the_start_is_looked_at_and_projected() -> None:
    model, x, y = trained_net()
    model, x = model.double(), x.double()
    broken = apgd(model, x, y, Threat("linf", 0.2), steps=20)
    found = misclassified(model(broken), y)
    assert found.any()
    again = apgd(model, x, y, Threat("linf", 0.2), steps=1, start=broken - x)
    torch.testing.assert_close(again[found], broken[found], rtol=0, atol=1e-12)
    outside = apgd(model, x, y, Threat("linf", 0.01), steps=0, start=broken - x)
    assert (outside - x).abs().max() <= 0.01 + 1e-9


@pytest.mark.parametrize("attack", [apgd, fab])
def test_mistakes_are_named(attack: Any) -> None:
    model, x = linear(2, 0), images(2)
    y, threat = torch.tensor([0, 1]), Threat("linf", 0.1)
    for message, wrong in {
        "steps is -1": {"steps": -1},
        "restarts is 0": {"restarts": 0},
        "batch_size is 0": {"batch_size": 0},
        "targets has shape": {"targets": torch.tensor([0])},
        "own class": {"targets": y},
    }.items():
        with pytest.raises(UserError, match=message):
            attack(model, x, y, threat, **wrong)
    with pytest.raises(UserError, match="pixels in"):
        attack(model, 255 * x, y, threat)


# What it costs


@in_every_norm
def test_images_that_withstand_cost_what_is_said(norm: str) -> None:
    """One gradient a move, and a look at the last point of each ball."""
    model, x = linear(3, 0), images(7)
    y = model(x).argmax(1)
    oracle = Oracle(model, 3)
    found = apgd_batch(oracle, x, y, Threat(norm, 1e-4), fixed(draw(x, norm)), steps=20)
    assert not found.broken.any()
    assert oracle.backwards == 7 * 20
    assert oracle.forwards == 7 * (23 if norm == "l1" else 21)


@in_every_norm
def test_broken_images_cost_nothing_any_more(norm: str) -> None:
    """With wrong labels every image is broken at its start."""
    model, x, y = trained_net()
    noise, threat = draw(x, norm), Threat(norm, 0.01)
    with frozen_eval(model):
        oracle = Oracle(model, 50)
        found = apgd_batch(oracle, x, (y + 1) % 10, threat, fixed(noise), larger_first=False)
    assert found.broken.all()
    assert oracle.forwards == oracle.backwards == len(x)


# Each image by itself


@in_every_norm
def test_each_image_walks_by_itself(norm: str) -> None:
    """Outcomes do not depend on who else is there, in which order, or in which batches."""
    model, x, y = trained_net()
    model, x, y = model.double(), x[:60].double(), y[:60]
    threat = Threat(norm, {"linf": 0.13, "l2": 0.7, "l1": 2.5}[norm])
    noise = draw(x, norm)

    def outcome(index: Tensor, batch_size: int) -> tuple[Tensor, Tensor]:
        oracle = Oracle(model, batch_size)
        return apgd_batch(oracle, x[index], y[index], threat, fixed(noise[index]), steps=30)

    everybody = torch.arange(60)
    with frozen_eval(model):
        whole = outcome(everybody, 1000)
        assert 0 < int(whole.broken.sum()) < 60
        shuffled = torch.randperm(60, generator=torch.Generator().manual_seed(5))
        for index, batch_size in (
            (shuffled, 1000),
            (everybody, 7),
            (everybody[:13], 1000),
            (everybody[13:], 1),
        ):
            part = outcome(index, batch_size)
            assert torch.equal(part.broken, whole.broken[index])
            torch.testing.assert_close(part.x_adv, whole.x_adv[index], rtol=0, atol=1e-9)
