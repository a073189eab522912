"""The checks of logits and gradients before the attack."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from broken_models import (
    THREAT,
    Wrapped,
    context_of,
    images_of,
    model_of,
)
from check_cases import Stated, of_model
from torch import Tensor, nn
from torch.nn import functional as F

from arnas.attacks.threat import Threat
from arnas.evaluation.checks import run_check
from arnas.evaluation.checks.base import CheckContext
from arnas.evaluation.checks.gradients import saturation


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_saturation_is_where_the_gradient_of_the_cross_entropy_ends(dtype: torch.dtype) -> None:
    def is_zero(gap: float) -> bool:
        logits = torch.tensor([[gap, 0.0, 0.0]], dtype=dtype, requires_grad=True)
        (slope,) = torch.autograd.grad(F.cross_entropy(logits, torch.tensor([0])), logits)
        return not bool(slope.any())

    limit = saturation(dtype)
    assert is_zero(1.02 * limit)
    assert not is_zero(0.98 * limit)


@pytest.mark.parametrize(
    ("median", "status"), [(8, "PASS"), (40, "PASS"), (53, "WARN"), (150, "FAIL")]
)
def test_the_size_of_logits(median: float, status: str) -> None:
    context = context_of("cnn")
    with torch.no_grad():
        top = context.model(context.x).topk(2, dim=1).values
    factor = median / float((top[:, 0] - top[:, 1]).median())
    context.model = Wrapped(context.model, after=lambda logits: factor * logits).eval()
    found = run_check("logits", context)
    gaps = factor * (top[:, 0] - top[:, 1])
    assert found.status == status
    assert f"{100 * float((gaps > 103.97).float().mean()):.1f} % of 360 images" in found.evidence
    assert f"by {median:.3g} (median)" in found.evidence


@pytest.mark.parametrize(("dead", "status"), [(0, "PASS"), (1, "WARN"), (2, "FAIL"), (64, "FAIL")])
def test_the_share_of_images_without_a_gradient(dead: int, status: str) -> None:
    context = context_of("cnn")

    def cut(s: nn.Module, m: nn.Module, x: Tensor) -> Tensor:
        marked = (x.detach()[:, 0, 0, 0] > 0.9)[:, None, None, None]
        return m(torch.where(marked, x.detach(), x))

    found = run_check("gradient", of_model(Stated(cut), threat=Threat("linf", 0.05)))
    assert found.status == "PASS"  # none is marked in these images
    context.x[context.probe()[:dead], 0, 0, 0] = 1.0
    context.model, context.threat = Stated(cut), Threat("linf", 0.05)
    found = run_check("gradient", context)
    assert f"{dead} without a gradient of the cross-entropy, {dead} without" in found.evidence
    assert found.status == status


def test_weights_that_are_no_numbers_are_named() -> None:
    context = context_of("cnn")
    context.model[2].bias.data[0] = torch.nan
    found = run_check("logits", context)
    assert found.status == "FAIL"
    assert "NaN or infinity in 1 weights, such as 2.bias" in found.evidence


def test_gradients_are_looked_for_within_the_ball_too() -> None:
    """Here only images that were moved have none."""

    def cut(s: nn.Module, m: nn.Module, x: Tensor) -> Tensor:
        moved = (x.detach()[:, 0, 0, 0] > 0)[:, None, None, None]
        return m(torch.where(moved, x.detach(), x))

    context = of_model(Stated(cut))
    assert not context.x[:64, 0, 0, 0].any()
    assert run_check("gradient", context).status == "FAIL"
    assert run_check("gradient", of_model(Stated(cut), threat=Threat("linf", 0))).status == "PASS"


class Halves(nn.Module):
    """Two logits, linear in the image; the gradient of the second summand is missing."""

    def __init__(self, share: float) -> None:
        super().__init__()
        draws = torch.Generator().manual_seed(0)
        self.seen = nn.Parameter(torch.randn(64, 2, generator=draws))
        self.unseen = nn.Parameter(share * torch.randn(64, 2, generator=draws))

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        return flat @ self.seen + flat.detach() @ self.unseen


@pytest.mark.parametrize("share", [0.0, 0.02, 0.1, 0.5, 1.0, 3.0])
def test_a_missing_part_of_a_linear_gradient_is_measured_exactly(share: float) -> None:
    model = Halves(share)
    x, y = images_of("two_classes")
    found = run_check("finite_differences", CheckContext(model, x, y, THREAT, "fast", 0, 64))
    seen, whole = ((w[:, 1] - w[:, 0]).detach() for w in (model.seen, model.seen + model.unseen))
    own = float(seen @ whole / (seen @ seen))
    cosine = float(F.cosine_similarity(seen, whole, dim=0))
    measured = float(re.search(r"([-\d.]+) times along it", found.evidence)[1])
    assert measured == pytest.approx(own, abs=6e-4)
    if cosine < 0.95:
        assert found.status == "FAIL"
    elif cosine > 0.995:
        assert found.status == "PASS"


class Rounded(torch.autograd.Function):
    """Rounds to a number of levels; the gradient is the identity's, times a factor."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, levels: float, factor: float) -> Tensor:
        ctx.factor = factor
        return (levels * x).round() / levels if levels else x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return ctx.factor * gradients[0], None, None


@pytest.mark.parametrize(
    ("levels", "factor", "status"),
    [
        (0, 1.0, "PASS"),
        (0, 3.0, "FAIL"),
        (0, -1.0, "FAIL"),
        (0, 0.0, "FAIL"),
        (7, 1.0, "FAIL"),
        (3, 1.0, "FAIL"),
        (3, 0.0, "FAIL"),
        (255, 1.0, "WARN"),
        (255, 0.0, "FAIL"),
    ],
)
def test_substituted_gradients_are_told_from_true_ones(
    levels: float, factor: float, status: str
) -> None:
    model = Stated(lambda s, m, x: m(Rounded.apply(x, levels, factor)))
    assert run_check("finite_differences", of_model(model)).status == status


def test_thresholds_that_short_steps_do_not_reach_are_found_by_longer_ones() -> None:
    context = of_model(Stated(lambda s, m, x: m(Rounded.apply(x, 1, 0.0))))
    context.x = torch.where(context.x > 0.5, 0.97, 0.47)
    found = run_check("finite_differences", context)
    assert (found.status, "0.0000 (least 0.0000)" in found.evidence) == ("FAIL", True)


def test_rounding_is_no_change() -> None:
    def constant(s: nn.Module, m: nn.Module, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        nothing = flat.sum(1) - flat.flip(1).cumsum(1)[:, -1]
        return torch.arange(10.0).to(x) + nothing[:, None] * torch.linspace(0, 1, 10).to(x)

    found = run_check("finite_differences", of_model(Stated(constant)))
    assert (found.status, "change" in found.evidence) == ("SKIP", True)


def test_kinks_at_equal_pixels_do_not_fail_an_honest_network() -> None:
    """On a background of 0 every maximum is a tie and every rectifier without bias at its kink."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 8, 3, bias=False),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(8, 8, 2, bias=False),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(32, 10),
        ).eval()
    found = run_check("finite_differences", of_model(model))
    assert found.status == "PASS"
    assert "1.0000 (least 1.0000)" in found.evidence


@pytest.mark.parametrize(
    ("name", "status"), [("cnn", "PASS"), ("detached_branch", "FAIL"), ("straight_through", "FAIL")]
)
def test_models_of_one_type_are_checked_in_float32(name: str, status: str) -> None:
    inner = model_of(name)
    single = Stated(lambda s, m, x: s.other[0](x.float()))
    single.other = [inner]  # hidden from double()
    found = run_check("finite_differences", of_model(single))
    assert "in float32" in found.evidence
    assert found.status == status
