"""Wilson's interval against its formula and published values."""

from __future__ import annotations

import math

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from arnas.evaluation.statistics import wilson

Z = 1.959963984540054
"""The 97.5 percent quantile of the normal distribution."""


def formula(correct: int, n: int) -> tuple[float, float]:
    """Solve |share - p| = z sqrt(p (1 - p) / n) for p, in percent."""
    share, spread = correct / n, Z * Z / n
    centre = (share + spread / 2) / (1 + spread)
    half = math.sqrt(share * (1 - share) * spread + spread * spread / 4) / (1 + spread)
    return 100 * (centre - half), 100 * (centre + half)


@settings(max_examples=200, derandomize=True, deadline=None)
@example((0, 1))
@example((10_000, 10_000))
@given(st.integers(1, 20_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_interval_is_that_of_the_formula(pair: tuple[int, int]) -> None:
    correct, n = pair
    found = wilson(correct, n)
    assert (found.correct, found.n) == pair
    assert found.percent == pytest.approx(100 * correct / n, rel=1e-14)
    assert (found.low, found.high) == pytest.approx(formula(correct, n), abs=1e-9)
    assert 0 <= found.low <= found.percent <= found.high <= 100


@pytest.mark.parametrize(
    ("correct", "n", "low", "high"),
    [
        (81, 263, 25.53, 36.62),
        (15, 148, 6.24, 16.05),
        (0, 20, 0.00, 16.11),
        (1, 29, 0.61, 17.18),
    ],
)
def test_the_interval_is_the_published_one(correct: int, n: int, low: float, high: float) -> None:
    """Newcombe, Statistics in Medicine 17 (1998) 857, table I, method 3."""
    found = wilson(correct, n)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.0051)
