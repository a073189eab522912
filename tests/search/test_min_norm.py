"""The two-task min-norm problem against its definition."""

from __future__ import annotations

from fractions import Fraction

import hypothesis.extra.numpy as numpy_strategies
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from arnas.search.min_norm import min_norm

GRID = 2000
quick = settings(max_examples=150, deadline=None)


@st.composite
def gradients(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Two gradients of equal shape, each of a scale of its own.

    Integers times powers of two: their differences are exact, so nothing is ill-conditioned.
    """
    size = draw(st.integers(1, 6))
    entries = st.integers(-1000, 1000).map(lambda value: value / 256)
    pair = draw(numpy_strategies.arrays("float64", (2, size), elements=entries))
    scales = [2.0 ** draw(st.integers(-13, 13)) for _ in range(2)]
    first, second = (torch.from_numpy(g) * scale for g, scale in zip(pair, scales, strict=True))
    return first, second


def scale_of(*vectors: Tensor) -> float:
    """Return the largest squared norm, the unit of rounding errors in inner products."""
    return max(float(vector.square().sum()) for vector in vectors)


@quick
@given(gradients())
def test_direction_is_the_closed_form(pair: tuple[Tensor, Tensor]) -> None:
    """gamma = clip((g2 - g1) . g2 / |g2 - g1|^2), evaluated in exact rational arithmetic."""
    first, second = pair
    a, b = ([x.as_integer_ratio() for x in g.tolist()] for g in pair)
    direction, gamma = min_norm(first, second)
    expected = rational_gamma(a, b)
    assert 0 <= gamma <= 1
    assert gamma == pytest.approx(expected, abs=1e-9)
    assert torch.allclose(direction, gamma * first + (1 - gamma) * second, rtol=1e-12, atol=0)


def rational_gamma(a: list[tuple[int, int]], b: list[tuple[int, int]]) -> float:
    first, second = ([Fraction(*x) for x in vector] for vector in (a, b))
    difference = [y - x for x, y in zip(first, second, strict=True)]
    denominator = sum(x * x for x in difference)
    if not denominator:
        return 0.0
    inner = sum(x * y for x, y in zip(difference, second, strict=True))
    return float(min(max(Fraction(inner, 1) / denominator, Fraction(0)), Fraction(1)))


@quick
@given(gradients())
def test_a_step_against_the_direction_lowers_both_losses(pair: tuple[Tensor, Tensor]) -> None:
    direction, _ = min_norm(*pair)
    squared = float(direction.square().sum())
    for gradient in pair:
        assert float((direction * gradient).sum()) >= squared - 1e-12 * scale_of(*pair)


@quick
@given(gradients())
def test_no_point_of_the_segment_is_shorter(pair: tuple[Tensor, Tensor]) -> None:
    first, second = pair
    steps = torch.linspace(0, 1, GRID + 1, dtype=torch.float64)[:, None]
    norms = (steps * first + (1 - steps) * second).square().sum(1)
    found = float(min_norm(first, second).direction.square().sum())
    rounding = 1e-12 * scale_of(first, second)
    # The squared norm is a parabola with curvature |g2 - g1|^2, half a step from the grid at most.
    gap = float((second - first).square().sum()) * (0.5 / GRID) ** 2
    assert norms.min() - gap - rounding <= found <= norms.min() + rounding


def test_tiny_gradients_keep_their_shares() -> None:
    """A guard of the denominator must not bend the direction of a nearly converged search."""
    first, second = 1e-20 * torch.eye(2)
    direction, gamma = min_norm(first, second)
    assert gamma == pytest.approx(0.5)
    assert torch.allclose(direction, (first + second) / 2, rtol=1e-6, atol=0)


def test_two_zero_gradients() -> None:
    direction, gamma = min_norm(torch.zeros(4), torch.zeros(4))
    assert 0 <= gamma <= 1
    assert torch.equal(direction, torch.zeros(4))


@pytest.mark.parametrize(("weight", "gamma"), [(1.0, 0.5), (0.1, 0.01 / 1.01)])
def test_orthogonal_gradients(weight: float, gamma: float) -> None:
    """A factor of 0.1 on one of two orthogonal losses takes it from half to 99 % of the step."""
    first, second = torch.eye(2, dtype=torch.float64)
    assert min_norm(first, weight * second).gamma == pytest.approx(gamma)


def test_float32_gradients_are_solved_in_double_precision() -> None:
    """Nearly equal float32 gradients leave no digits of their difference in float32 sums."""
    first = torch.full((1000,), 1.0)
    second = first.clone()
    second[0] += 2**-20
    direction, gamma = min_norm(first, second)
    assert direction.dtype == torch.float32
    assert gamma == 1.0
    assert torch.equal(direction, first)
