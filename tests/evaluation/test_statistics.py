"""Wilson's interval against its formula and published values."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
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


@pytest.mark.parametrize("n", [1, 2, 360, 10_000])
def test_the_extremes_end_at_nought_and_at_a_hundred(n: int) -> None:
    """The other end is z^2 / (n + z^2) away: 79.3 points for a single image."""
    room = 100 * Z * Z / (n + Z * Z)
    none, every = wilson(0, n), wilson(n, n)
    assert (none.percent, none.low, every.percent, every.high) == (0, 0, 100, 100)
    assert none.high == pytest.approx(room, rel=1e-9)
    assert every.low == pytest.approx(100 - room, rel=1e-9)


def test_right_and_wrong_are_mirror_images() -> None:
    for correct in range(8):
        found, mirror = wilson(correct, 7), wilson(7 - correct, 7)
        assert found.low == pytest.approx(100 - mirror.high, abs=1e-9)


def test_the_interval_narrows_with_more_images() -> None:
    widths = [wilson(n // 2, n).high - wilson(n // 2, n).low for n in (2, 10, 100, 1000, 10_000)]
    assert widths == sorted(widths, reverse=True)
