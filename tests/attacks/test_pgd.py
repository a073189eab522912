"""The contract of FGSM and PGD: where results lie and what is left alone."""

import copy
from collections.abc import Callable
from functools import partial
from itertools import product

import pytest
import torch
from attack_cases import (
    NORMS,
    TOLERANCE,
    Attack,
    distance,
    for_both_norms,
    images,
    labels,
    small_net,
    state_of,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional as F

from arnas.attacks.eval_mode import frozen_eval
from arnas.attacks.pgd import fgsm, pgd
from arnas.attacks.projection import project, random_perturbation
from arnas.attacks.threat import Threat
from arnas.runtime.errors import UserError

ATTACKS = {"fgsm": fgsm, "pgd": partial(pgd, steps=3)}
EVERY_WAY = [
    pytest.param(
        partial(ATTACKS[name], keep=keep, batch_norm=batch_norm),
        norm,
        id=f"{name}-{norm}-{keep}-{batch_norm}",
    )
    for name, norm, keep, batch_norm in product(ATTACKS, NORMS, ("best", "last"), ("eval", "batch"))
]
in_every_way = pytest.mark.parametrize(("attack", "norm"), EVERY_WAY)


# The ball and the box


@given(
    norm=st.sampled_from(NORMS),
    epsilon=st.floats(0, 1),
    steps=st.integers(0, 4),
    keep=st.sampled_from(["best", "last"]),
    batch_norm=st.sampled_from(["eval", "batch"]),
    random_start=st.booleans(),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60, derandomize=True, deadline=None)
def test_pgd_stays_inside_the_ball_and_the_box(
    norm: str,
    epsilon: float,
    steps: int,
    keep: str,
    batch_norm: str,
    random_start: bool,
    seed: int,
) -> None:
    x, threat = images(seed=seed), Threat(norm, epsilon)
    how = {"keep": keep, "batch_norm": batch_norm, "random_start": random_start}
    generator = torch.Generator().manual_seed(seed)
    x_adv = pgd(small_net(), x, labels(), threat, steps=steps, generator=generator, **how)
    assert x_adv.shape == x.shape
    assert x_adv.dtype == x.dtype
    assert not x_adv.requires_grad
    assert distance(x_adv, x, norm).max() <= epsilon + TOLERANCE
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1


@for_both_norms
def test_without_clipping_the_box_is_left_but_not_the_ball(norm: str) -> None:
    x, epsilon = torch.ones(4, 1, 6, 6), 0.3
    x[2:] = 0
    x_adv = pgd(small_net(), x, labels(4), Threat(norm, epsilon), clip=False)
    assert x_adv.min() < -0.01
    assert x_adv.max() > 1.01
    assert distance(x_adv, x, norm).max() <= epsilon + TOLERANCE


@given(epsilon=st.floats(0, 2), scale=st.floats(0, 5), seed=st.integers(0, 1000))
@settings(max_examples=40, derandomize=True, deadline=None)
def test_linf_projection_is_the_nearest_point(epsilon: float, scale: float, seed: int) -> None:
    """The feasible set is a product of intervals, so the nearest point is a clip by pixel."""
    x = images(dtype=torch.float64, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    delta = scale * torch.randn(x.shape, generator=generator, dtype=x.dtype)
    epsilon = min(epsilon, 1.0)
    nearest = (x + delta).clamp(x - epsilon, x + epsilon).clamp(0, 1) - x
    assert torch.allclose(project(x, delta, Threat("linf", epsilon)), nearest, rtol=0, atol=1e-15)


def test_l2_projection_without_a_box_shrinks_along_the_ray() -> None:
    x = images(dtype=torch.float64)
    delta = torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=x.dtype)
    shorter = project(x, delta, Threat("l2", 0.7), clip=False)
    expected = 0.7 * F.normalize(delta.flatten(1), dim=1).view_as(delta)
    assert torch.allclose(shorter, expected, rtol=0, atol=1e-15)


# The model is as it was


def disturbed_net() -> nn.Sequential:
    """Return a network in the middle of fine-tuning: modes, freezing and gradients are mixed."""
    net = small_net().train()
    net[1].eval()
    net[3][0].eval()
    net[0].weight.requires_grad_(False)
    net[3][2].weight.grad = torch.full_like(net[3][2].weight, 0.5)
    return net


def net_that_shares_a_layer() -> nn.Sequential:
    """Return a training network that uses one frozen normalisation in two places."""
    norm = nn.BatchNorm2d(1)
    net = nn.Sequential(norm, nn.Sequential(norm, nn.Flatten(), nn.Linear(36, 3))).train()
    norm.eval()
    return net


@in_every_way
def test_a_training_step_around_the_attack_is_unchanged(attack: Attack, norm: str) -> None:
    """Freezing parameters between a forward and its backward must not cut the gradients off."""
    plain, around = disturbed_net().eval(), disturbed_net().eval()
    F.cross_entropy(plain(images()), labels()).backward()
    loss = F.cross_entropy(around(images()), labels())
    attack(around, images(), labels(), Threat(norm, 0.1))
    loss.backward()
    assert state_of(around) == state_of(plain)


@pytest.mark.parametrize("build", [disturbed_net, net_that_shares_a_layer])
@pytest.mark.parametrize("batch_norm", ["eval", "batch"])
def test_the_state_returns_after_an_exception(
    batch_norm: str, build: Callable[[], nn.Module]
) -> None:
    net = build()
    before = state_of(net)
    with pytest.raises(RuntimeError, match="stop"), frozen_eval(net, batch_norm) as inside:
        assert inside is net
        assert not any(p.requires_grad for p in net.parameters())
        raise RuntimeError("stop")
    assert state_of(net) == before


def test_only_batch_norm_leaves_evaluation_mode_and_only_when_asked() -> None:
    net = small_net().train()
    with frozen_eval(net, "eval"):
        assert not any(m.training for m in net.modules())
    with frozen_eval(net, "batch"):
        assert [m for m in net.modules() if m.training] == [net[1]]


@pytest.mark.parametrize("batch_norm", ["eval", "batch"])
def test_batch_norm_uses_the_statistics_that_were_asked_for(batch_norm: str) -> None:
    net, x, y = small_net(torch.float64), images(dtype=torch.float64), labels()
    twin = copy.deepcopy(net).eval()
    twin[1].train(batch_norm == "batch")
    adv = x.clone().requires_grad_()
    F.cross_entropy(twin(adv), y, reduction="sum").backward()
    expected = (x + 0.1 * F.normalize(adv.grad.flatten(1), dim=1).view_as(x)).clamp(0, 1)
    found = fgsm(net, x, y, Threat("l2", 0.1), keep="last", batch_norm=batch_norm)
    assert torch.allclose(found, expected, rtol=0, atol=1e-12)


def test_attacks_work_where_gradients_are_switched_off() -> None:
    threat = Threat("linf", 0.1)
    expected = pgd(small_net(), images(), labels(), threat, steps=2)
    with torch.no_grad():
        found = pgd(small_net(), images(), labels(), threat, steps=2)
    assert torch.equal(found, expected)


# Random numbers


@for_both_norms
def test_generators_decide_the_random_start(norm: str) -> None:
    def run(seed: int | None) -> Tensor:
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        return pgd(small_net(), images(), labels(), Threat(norm, 0.1), steps=1, generator=generator)

    assert torch.equal(run(None), run(None))
    assert torch.equal(run(1), run(1))
    assert not torch.equal(run(1), run(2))


def test_the_linf_start_is_uniform_in_the_cube() -> None:
    x = torch.full((100, 1, 6, 6), 0.5)
    x_adv = pgd(small_net(), x, labels(100), Threat("linf", 0.1), steps=0, keep="last")
    uniform = ((x_adv - x) / 0.2 + 0.5).flatten().numpy()
    assert stats.kstest(uniform, "uniform").pvalue > 0.01


def test_the_l2_start_fills_the_ball() -> None:
    """Volume grows as the radius to the power of the dimension, which is therefore uniform."""
    unit = torch.rand(500, 1, 2, 2, generator=torch.Generator().manual_seed(0)).double()
    delta = random_perturbation(unit, Threat("l2", 0.7)).flatten(1)
    volume = ((delta.norm(dim=1) / 0.7) ** 4).numpy()
    assert stats.kstest(volume, "uniform").pvalue > 0.01
    assert (delta.mean(0).abs() < 0.1).all()


# Mistakes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x": images() + 0.5}, r"runs from .* to 1\.5: attacks take pixels in \[0, 1\]"),
        ({"x": images() - 0.5}, r"runs from -0\.5 to"),
        ({"x": images() * torch.nan}, r"runs from nan"),
        ({"y": labels(5)}, r"x has shape \(6, 1, 6, 6\) and y \(5,\)"),
        ({"y": F.one_hot(labels())}, r"one label for each image"),
        ({"steps": -1}, r"steps is -1: allowed are 0 and more"),
        ({"keep": "lats"}, r"keep is 'lats'"),
        ({"batch_norm": "bacth"}, r"batch_norm is 'bacth'"),
        ({"start": torch.zeros(1, 1, 6, 6)}, r"start has shape \(1, 1, 6, 6\)"),
        ({"start": torch.zeros(6, 1, 5, 5)}, r"start has shape \(6, 1, 5, 5\)"),
        ({"stop_when_broken": True, "keep": "last"}, r'stop_when_broken needs keep="best"'),
    ],
)
def test_mistakes_are_named(arguments: dict[str, object], message: str) -> None:
    given = {"x": images(), "y": labels(), "threat": Threat("linf", 0.1), **arguments}
    with pytest.raises(UserError, match=message):
        pgd(small_net(), **given)
