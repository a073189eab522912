"""Accuracy against epsilon: closed forms of linear models, and a curve that never rises."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from rugged import uneven_model
from torch import Tensor, nn

from arnas.attacks.threat import Threat
from arnas.evaluation.evaluate import evaluate
from arnas.evaluation.predict import predict
from arnas.evaluation.result import ROBUST

SIDE = 4


def draws(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(count: int, low: float = 0.2, high: float = 0.8) -> Tensor:
    unit = torch.rand(count, 1, SIDE, SIDE, generator=draws(0), dtype=torch.float64)
    return low + (high - low) * unit


def linear_model() -> nn.Sequential:
    """Return a linear model of two classes in float64 that splits the images about evenly."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(SIDE**2, 2)).double()
    with torch.no_grad():
        weight = torch.randn(2, SIDE**2, generator=draws(1), dtype=torch.float64)
        model[1].weight.copy_(weight)
        model[1].bias.copy_(-weight.sum(1) / 2)
    return model


def threats(norm: str, *budgets: float) -> list[Threat]:
    return [Threat(norm, budget) for budget in budgets]


def curve(model: nn.Module, x: Tensor, y: Tensor, along: list[Threat], **more: Any) -> Tensor:
    epsilons = [threat.epsilon for threat in along]
    given = {"suite": "", "checks": "none", "curve": epsilons, **more}
    return evaluate(model, x, y, Threat(along[0].norm, 1.0), **given).curve_robust


def standing_in_theory(model: nn.Sequential, x: Tensor, y: Tensor, along: list[Threat]) -> Tensor:
    """Return who withstands the worst point of the ball and the box, in closed form.

    For linf the worst pixel is as far as ball and box let it go; for L2 the images must be so far
    from the box that it does not matter.
    """
    with torch.no_grad():
        logits = model(x)
        margin = (logits.gather(1, y[:, None]) - logits.gather(1, 1 - y[:, None])).flatten()
        towards = (model[1].weight[1 - y] - model[1].weight[y]).view_as(x)
        rows = []
        for threat in along:
            if threat.norm == "linf":
                up, down = (1 - x).clamp_max(threat.epsilon), x.clamp_max(threat.epsilon)
                gain = torch.where(towards > 0, up, down) * towards.abs()
                cost = gain.flatten(1).sum(1)
            else:
                cost = threat.epsilon * towards.flatten(1).norm(dim=1)
            assert (margin - cost).abs().min() > 1e-6, "no image may hang on rounding"
            rows.append(margin > cost)
    return torch.stack(rows)


@pytest.mark.parametrize(
    ("norm", "budgets", "low"),
    [
        ("linf", (0, 0.01, 0.02, 0.04, 0.08), 0.2),
        ("linf", (0.005, 0.03, 0.15, 0.6, 1), 0.0),
        ("l2", (0, 0.02, 0.05, 0.1), 0.2),
    ],
    ids=["linf", "linf_at_the_box", "l2"],
)
def test_a_linear_model_stands_where_its_margin_is_wide_enough(
    norm: str, budgets: tuple[float, ...], low: float
) -> None:
    """Budget by budget, image by image."""
    model, x = linear_model(), pictures(150, low, 1 - low)
    y = torch.arange(150) % 2
    along = threats(norm, *budgets)
    expected = standing_in_theory(model, x, y, along)
    found = curve(model, x, y, along)
    assert torch.equal(found, expected)
    counts = expected.sum(1).tolist()
    assert len(set(counts)) >= 4, "the budgets must tell images apart"


def rugged_case() -> tuple[nn.Module, Tensor, Tensor]:
    model, x = uneven_model(SIDE**2), pictures(20)
    y = predict(model, x, 20)
    y[::5] = (y[::5] + 1) % 3
    return model, x, y


def test_a_curve_never_rises_and_falls_to_none() -> None:
    """On a model on which single runs of an attack do; the order of budgets does not matter."""
    model, x, y = rugged_case()
    along = threats("linf", 0, 0.005, 0.01, 0.02, 1)
    found = curve(model, x, y, along)
    assert torch.equal(found[0], predict(model, x, 20) == y)
    assert bool((found[1:] <= found[:-1]).all())
    assert not found[-1].any()
    assert torch.equal(curve(model, x, y, along[::-1]), found.flip(0))


def test_neither_batch_nor_other_images_change_it() -> None:
    model, x, y = rugged_case()
    along = threats("linf", 0.005, 0.01, 0.02)
    whole = curve(model, x, y, along)
    assert torch.equal(curve(model, x, y, along, batch_size=3), whole)
    assert torch.equal(curve(model, x, y, along, curve_images=7), whole[:, :7])


def test_images_that_the_suite_broke_are_broken_from_its_budget_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, x, y = rugged_case()
    monkeypatch.setattr("arnas.evaluation.curve.apgd", lambda model, x, *rest, **more: x)
    found = evaluate(model, x, y, "linf:0.05", "pgd20", checks="none", curve=[0, 0.01, 0.05, "0.1"])
    clean, robust = found.outcomes["clean"] == ROBUST, found.robust_flags
    assert int(robust.sum()) < int(clean.sum())
    assert found.curve_robust.tolist() == [v.tolist() for v in (clean, clean, robust, robust)]
    assert found.curve["0.1"] == found.robust_accuracy
