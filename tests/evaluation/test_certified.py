"""Robust flags of `arnas.evaluate` beside what is known of small networks from outside.

What a flag may be is fixed image by image by `certified_nets`: no image may fall of which a bound
says that nothing in its ball breaks it, and every image must fall that can be broken with a little
less than the budget. The few images between are not judged; the tests count them.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from certified_nets import (
    ORDERS,
    Pictures,
    bounded_net,
    clusters,
    exact_lead,
    interval_lead,
    largest_gain,
    linear_lead,
    linear_net,
    pictures,
    relu_net,
    small_digits,
)
from scipy.optimize import linprog, minimize
from torch import Tensor, nn

import arnas
from arnas.attacks.threat import Threat
from arnas.evaluation.result import BROKEN, ROBUST, EvalResult

NORMS = ("linf", "l2", "l1")
LESS = 0.99
"""Share of the budget that suffices to break an image "clearly"."""
SUBOPTIMAL = {"linf": 0, "l2": 0, "l1": 1}
"""Images of one model that the suite ``fast`` may miss though they can be broken clearly. APGD in
L1 stops short on some images whose pixels lie at faces of the box, which FAB then breaks."""


def attacked(
    net: nn.Module, x: Tensor, y: Tensor, norm: str, epsilon: float, suite: str
) -> EvalResult:
    """Evaluate a model, and look at every example that is said to break it from outside."""
    found = arnas.evaluate(net, x, y, Threat(norm, epsilon), suite, checks="none")
    clean = net(x).argmax(1) == y
    assert torch.equal(found.outcomes["clean"] == ROBUST, clean)
    assert not (found.robust_flags & ~clean).any()
    fell = torch.stack([found.outcomes[name] == BROKEN for name in found.attacks]).any(0)
    assert torch.equal(fell, clean & ~found.robust_flags)
    x_adv = found.x_adv.double()
    size = torch.linalg.vector_norm((x_adv - x).flatten(1), ORDERS[norm], dim=1)
    assert (size <= epsilon + 1e-6).all()
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1
    assert (net(x_adv[fell]).argmax(1) != y[fell]).all()
    return found


def judge(found: EvalResult, certified: Tensor, breakable: Tensor, missed: int = 0) -> None:
    """Compare flags with what must stand and what must fall."""
    stood = found.robust_flags
    wrongly = (certified & ~stood).nonzero().flatten().tolist()
    assert not wrongly, f"nothing in their balls breaks images {wrongly}, and yet they fell"
    left = (breakable & stood).nonzero().flatten().tolist()
    assert len(left) <= missed, f"images {left} can be broken and stand"


# The yardsticks themselves


def random_case(seed: int, size: int = 9) -> tuple[Tensor, Tensor]:
    draws = torch.Generator().manual_seed(seed)
    x = (1.4 * torch.rand(size, generator=draws, dtype=torch.float64) - 0.2).clamp(0, 1)
    slope = torch.randn(size, generator=draws, dtype=torch.float64)
    slope[::4] = 0
    return slope, x


@pytest.mark.parametrize("epsilon", [0.0, 0.05, 0.4, 1.5, 20.0])
@pytest.mark.parametrize("norm", NORMS)
def test_largest_gain_is_that_of_a_solver(norm: str, epsilon: float) -> None:
    for seed in range(3):
        slope, x = random_case(seed)
        found, c, box = float(largest_gain(slope, x, norm, epsilon)), slope.numpy(), x.numpy()
        room = list(zip(-box, 1 - box, strict=True))
        if norm == "linf":
            limits = [(max(low, -epsilon), min(high, epsilon)) for low, high in room]
            best = -linprog(-c, bounds=limits).fun
        elif norm == "l1":
            parts = [(0, high) for _, high in room] + [(0, -low) for low, _ in room]
            best = -linprog(
                np.concatenate([-c, c]), A_ub=np.ones((1, 18)), b_ub=[epsilon], bounds=parts
            ).fun
        else:
            ball = {
                "type": "ineq",
                "fun": lambda d: epsilon**2 - d @ d,
                "jac": lambda d: -2 * d,
            }
            start = np.clip(1e-3 * c, *np.array(room).T)
            solved = minimize(
                lambda d, c=c: -c @ d,
                start,
                jac=lambda d, c=c: -c,
                bounds=room,
                constraints=[ball],
                options={"ftol": 1e-12, "maxiter": 500},
            )
            best = -solved.fun if epsilon else 0.0
        assert found == pytest.approx(best, abs=1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_exact_lead_is_the_closed_form_where_no_unit_is_ever_off(norm: str) -> None:
    inner, outer = linear_net(7, (1, 2, 3), 1), linear_net(3, (1, 1, 7), 2)
    net = nn.Sequential(nn.Flatten(), inner[1], nn.ReLU(), outer[1])
    with torch.no_grad():
        inner[1].bias += 50
        outer[1].bias -= 50 * outer[1].weight.sum(1)
        weight = outer[1].weight @ inner[1].weight
        plain = nn.Sequential(nn.Flatten(), nn.Linear(6, 3).double())
        plain[1].weight.copy_(weight)
        plain[1].bias.copy_(outer[1].weight @ inner[1].bias + outer[1].bias)
    x = clusters().test_x[:6]
    y = plain(x).argmax(1)
    closed = linear_lead(plain, x, y, norm, 0.1)
    for image, label, right in zip(x, y.tolist(), closed.tolist(), strict=True):
        found = exact_lead(net, image, label, norm, 0.1)
        assert found.least <= right + 1e-6
        assert right <= found.most + 1e-6
        if norm != "l2":
            assert found.most - found.least < 1e-4
        else:
            assert (found.least > 0) == (right > 0)


@pytest.mark.parametrize("norm", NORMS)
def test_bounds_hold_on_random_points(norm: str) -> None:
    """Corners for linf; for the others points on the sphere, cut at the box, which stay inside."""
    net, data, epsilon = relu_net(clusters, (8, 6)), clusters(), 0.2
    for image, label in zip(data.test_x[:5], data.test_y[:5].tolist(), strict=True):
        draws = torch.randn(4000, *image.shape, generator=torch.Generator().manual_seed(0)).double()
        if norm == "linf":
            delta = epsilon * draws.sign()
        else:
            size = torch.linalg.vector_norm(draws.flatten(1), ORDERS[norm], dim=1)
            delta = epsilon * draws / size.view(-1, 1, 1, 1)
        with torch.no_grad():
            logits = net((image + delta).clamp(0, 1))
            bound = float(interval_lead(net, image[None], torch.tensor([label]), norm, epsilon))
        others = logits.index_fill(1, torch.tensor([label]), -torch.inf)
        seen = float((others.amax(1) - logits[:, label]).max())
        exact = exact_lead(net, image, label, norm, epsilon)
        assert seen <= exact.most
        assert max(seen, exact.least) <= bound + 1e-9
        if norm != "l2":
            assert seen <= exact.least + 1e-4
            assert exact.most <= min(bound, exact.least) + 1e-4


# Linear models


def halving_budget(net: nn.Sequential, x: Tensor, y: Tensor, norm: str) -> float:
    """Return a budget that breaks about half of the images."""
    low, high = 0.0, 10.0
    for _ in range(20):
        middle = (low + high) / 2
        broken = (linear_lead(net, x, y, norm, middle) > 0).double().mean() >= 0.5
        low, high = (low, middle) if broken else (middle, high)
    return round(high, 4)


def linear_case(
    classes: int, shape: tuple[int, int, int], count: int
) -> tuple[nn.Sequential, Tensor]:
    """Return a linear model and images of which many pixels lie on the faces of the box."""
    draws = torch.Generator().manual_seed(classes)
    unit = torch.rand(count, *shape, generator=draws, dtype=torch.float64)
    return linear_net(classes, shape, 0), (1.4 * unit - 0.2).clamp(0, 1)


def judge_linear(
    classes: int, shape: tuple[int, int, int], norm: str, suite: str, count: int
) -> None:
    net, x = linear_case(classes, shape, count)
    y = net(x).argmax(1)
    epsilon = halving_budget(net, x, y, norm)
    certified = linear_lead(net, x, y, norm, epsilon) < 0
    breakable = linear_lead(net, x, y, norm, LESS * epsilon) > 0
    assert certified.sum() >= count // 3
    assert breakable.sum() >= count // 3
    found = attacked(net, x, y, norm, epsilon, suite)
    judge(found, certified, breakable, SUBOPTIMAL[norm] if suite == "fast" else 0)


@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("norm", NORMS)
def test_fast_suite_on_linear_models(norm: str, classes: int) -> None:
    judge_linear(classes, (3, 4, 5), norm, "fast", 40)


def test_standard_suite_on_a_linear_model() -> None:
    judge_linear(4, (1, 2, 3), "linf", "standard", 24)


@pytest.mark.long
@pytest.mark.parametrize("classes", [2, 3, 4, 10])
@pytest.mark.parametrize("shape", [(1, 4, 4), (3, 4, 5), (1, 1, 7), (2, 9, 1), (1, 1, 1)])
@pytest.mark.parametrize("norm", NORMS)
def test_standard_suite_on_linear_models(
    norm: str, shape: tuple[int, int, int], classes: int
) -> None:
    judge_linear(classes, shape, norm, "standard", 60)


# Small ReLU networks, exactly


BUDGETS = {
    "clusters": {"linf": 0.08, "l2": 0.15, "l1": 0.25},
    "small_digits": {"linf": 0.05, "l1": 0.4},
}


def judge_relu(
    data: Pictures, net: nn.Sequential, norm: str, epsilon: float, suite: str, count: int
) -> None:
    x, y = data.test_x[:count], data.test_y[:count]
    leads = [
        exact_lead(net, image, label, norm, epsilon)
        for image, label in zip(x, y.tolist(), strict=True)
    ]
    nearly = [
        exact_lead(net, image, label, norm, LESS * epsilon)
        for image, label in zip(x, y.tolist(), strict=True)
    ]
    certified = torch.tensor([lead.most < 0 for lead in leads])
    breakable = torch.tensor([lead.least > 0 for lead in nearly])
    assert (certified | breakable).sum() >= count - max(1, count // 20)
    found = attacked(net, x, y, norm, epsilon, suite)
    assert certified.sum() >= count // 6
    assert (breakable & (found.outcomes["clean"] == ROBUST)).sum() >= count // 6
    judge(found, certified, breakable)


@pytest.mark.parametrize("suite", ["fast", "standard"])
def test_relu_network_in_linf(suite: str) -> None:
    judge_relu(clusters(), relu_net(clusters, (10,)), "linf", 0.08, suite, 24)


@pytest.mark.long
@pytest.mark.parametrize("hidden", [(10,), (10, 8)])
@pytest.mark.parametrize(
    ("source", "norm"), [(s, n) for s, budgets in BUDGETS.items() for n in budgets]
)
def test_relu_networks_in_every_norm(source: str, norm: str, hidden: tuple[int, ...]) -> None:
    make = {"clusters": clusters, "small_digits": small_digits}[source]
    judge_relu(make(), relu_net(make, hidden), norm, BUDGETS[source][norm], "standard", 40)


# A convolutional network with a certificate


@pytest.mark.long
@pytest.mark.parametrize(
    ("norm", "epsilon", "least"),
    [("linf", 0.05, 100), ("linf", 0.1, 75), ("l2", 0.2, 50), ("l1", 0.3, 15)],
)
def test_no_certified_digit_falls(norm: str, epsilon: float, least: int) -> None:
    net, data = bounded_net(), pictures(tuple(range(10)))
    x, y = data.test_x[::2], data.test_y[::2]
    certified = interval_lead(net, x, y, norm, epsilon) < 0
    assert certified.sum() >= least
    found = attacked(net, x, y, norm, epsilon, "standard")
    judge(found, certified, torch.zeros_like(certified))


def test_no_certified_digit_falls_to_the_fast_suite() -> None:
    net, data = bounded_net(), pictures(tuple(range(10)))
    x, y = data.test_x[:120], data.test_y[:120]
    certified = interval_lead(net, x, y, "linf", 0.1) < 0
    assert certified.sum() >= 40
    found = attacked(net, x, y, "linf", 0.1, "fast")
    judge(found, certified, torch.zeros_like(certified))
    # And the bound is not so loose that anything would lie between.
    assert found.robust_flags.sum() <= 1.6 * certified.sum()
