"""The linear control: its closed forms against solvers, and attacks that are too weak."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from broken_models import context_of
from scipy.optimize import linprog, minimize
from torch import Tensor, nn

from arnas.attacks.threat import Threat
from arnas.evaluation.checks import linear_control as control_check
from arnas.evaluation.checks import run_check
from arnas.evaluation.checks.linear_control import (
    Control,
    attack_control,
    exact_robustness,
    largest_gain,
    make_control,
    nearest_mean,
    scaled,
)
from arnas.evaluation.result import Check


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("seed", range(6))
def test_the_largest_gain_is_the_optimum(norm: str, seed: int) -> None:
    """Against linear programming, and for L2 a general solver, with pixels on the faces too."""
    draw = np.random.default_rng(seed)
    slope, x = draw.normal(size=7), draw.uniform(size=7)
    slope[seed % 7], x[:2] = 0, (0, 1)
    epsilon = {"linf": 0.3, "l2": 0.6, "l1": 0.9}[norm] * (1 + seed)
    epsilon = min(epsilon, 1.0) if norm == "linf" else epsilon
    gain = largest_gain(
        torch.from_numpy(slope)[None], torch.from_numpy(x)[None], Threat(norm, epsilon)
    )
    box = np.stack([-x, 1 - x], 1)
    if norm == "linf":
        found = linprog(-slope, bounds=np.clip(box, -epsilon, epsilon)).fun
    elif norm == "l1":
        # Up and down parts of the perturbation, whose sum is its length.
        bounds = [*zip(np.zeros(7), 1 - x, strict=True), *zip(np.zeros(7), x, strict=True)]
        both = np.concatenate([-slope, slope])
        found = linprog(both, A_ub=np.ones((1, 14)), b_ub=[epsilon], bounds=bounds).fun
    else:
        inside = {"type": "ineq", "fun": lambda d: epsilon**2 - d @ d}
        options = {"ftol": 1e-14, "maxiter": 500}
        found = minimize(
            lambda d: -slope @ d,
            np.zeros(7),
            jac=lambda d: -slope,
            bounds=box,
            constraints=inside,
            method="SLSQP",
            options=options,
        ).fun
    assert float(gain) == pytest.approx(-found, rel=1e-6, abs=1e-8)


def test_the_gain_of_nothing_is_nothing() -> None:
    x = torch.rand(3, 5, dtype=torch.float64)
    for norm in ("linf", "l2", "l1"):
        assert not largest_gain(torch.zeros_like(x), x, Threat(norm, 0.5)).any()
        assert not largest_gain(torch.randn_like(x), x, Threat(norm, 0)).any()


@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 0.1), ("l2", 0.7), ("l1", 2.0)])
def test_certificates_hold_and_the_edge_is_exact(norm: str, epsilon: float) -> None:
    """Far from the box the dual norm is exact; on the digits it certifies fewer images."""
    data = context_of("cnn")
    model, classes = nearest_mean(data.x, data.y)
    label = torch.searchsorted(classes, data.y)
    exact = exact_robustness(model, data.x.double(), label, Threat(norm, epsilon))
    assert not (exact.certified & ~exact.robust).any()
    assert not (exact.robust & exact.breakable).any()
    assert 0 < exact.certified.sum() < exact.robust.sum() < len(label)
    middle = 0.5 + 0.01 * (data.x.double() - 0.5)
    small = Threat(norm, 0.01 * epsilon)
    inside = exact_robustness(model, middle, label, small)
    assert torch.equal(inside.certified, inside.robust)


def test_the_nearest_mean_is_that() -> None:
    data = context_of("cnn")
    model, classes = nearest_mean(data.x, data.y)
    flat = data.x.flatten(1).double()
    means = torch.stack([flat[data.y == label].mean(0) for label in classes])
    assert torch.equal(model(data.x.double()).argmax(1), torch.cdist(flat, means).argmin(1))


@pytest.mark.parametrize(
    ("norm", "epsilon"),
    [("linf", 0.15), ("l2", 1.0), pytest.param("l1", 3.0, marks=pytest.mark.long)],
)
def test_the_control_passes(norm: str, epsilon: float) -> None:
    check = run_check("linear_control", context_of("cnn", threat=Threat(norm, epsilon)))
    assert check.status == "PASS"
    assert "breaks 0 that cannot be broken" in check.evidence
    assert "masking is noticed" in check.evidence


@pytest.mark.parametrize("epsilon", [0, 0.004])
def test_a_budget_too_small_to_tell_is_raised(epsilon: float) -> None:
    control = make_control(context_of("cnn", threat=Threat("linf", epsilon)))
    assert control.exact.breakable.sum() > len(control.y) / 4
    assert control.threat.epsilon > epsilon
    enough = make_control(context_of("cnn", threat=Threat("linf", 0.3)))
    assert enough.threat.epsilon == 0.3


def test_an_attack_that_is_too_weak_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_check, "apgd", lambda model, x, y, threat, **options: x)
    check = run_check("linear_control", context_of("cnn", threat=Threat("linf", 0.15)))
    assert check.status == "FAIL"


def test_an_attack_that_leaves_the_ball_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def away(model: nn.Module, x: Tensor, *rest: Any, **options: Any) -> Tensor:
        return 1 - x

    monkeypatch.setattr(control_check, "apgd", away)
    check = run_check("linear_control", context_of("cnn", threat=Threat("linf", 0.1)))
    assert check.status == "FAIL"
    assert "breaks 0 that" not in check.evidence


def test_a_margin_that_does_not_see_masking_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    fine = Check("margin_against_entropy", "PASS", "nothing seen", "")
    monkeypatch.setattr(control_check, "margin_against_entropy", lambda context: fine)
    check = run_check("linear_control", context_of("cnn", threat=Threat("linf", 0.15)))
    assert check.status == "FAIL"
    assert "masking is not noticed (nothing seen)" in check.evidence


def test_few_of_the_images_that_hold_are_attacked(monkeypatch: pytest.MonkeyPatch) -> None:
    control = make_control(context_of("cnn", threat=Threat("linf", 0.15)))
    exact = control.exact._replace(breakable=torch.zeros_like(control.exact.breakable))
    seen: list[int] = []

    def count(model: nn.Module, x: Tensor, *rest: Any, **options: Any) -> Tensor:
        seen.append(len(x))
        return x

    monkeypatch.setattr(control_check, "apgd", count)
    attack_control(Control(control.model, control.x, control.y, control.threat, exact))
    assert seen[:2] == [8, 8]
    assert not any(seen[2:])


def test_scaled_copies_keep_their_answers() -> None:
    data = context_of("cnn", count=64)
    model, _ = nearest_mean(data.x, data.y)
    loud = scaled(model, 1000, torch.float32)
    assert torch.equal(loud(data.x).argmax(1), model(data.x.double()).argmax(1))
    torch.testing.assert_close(
        loud(data.x).double(), 1000 * model(data.x.double()), rtol=1e-3, atol=1
    )
