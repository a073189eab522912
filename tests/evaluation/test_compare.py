"""Paired comparisons against counting by hand, an exact coverage and a score interval."""

from __future__ import annotations

import itertools
import math
from typing import Any

import assessment_cases as cases
import pytest
import torch
from scipy.optimize import brentq
from scipy.stats import norm as normal

from arnas.evaluation.compare import (
    check_comparable,
    compare_outcomes,
    compare_records,
    mcnemar,
    paired_interval,
)
from arnas.runtime.errors import UserError


def sides(only_first: int, only_second: int) -> float:
    """Return the exact McNemar p-value by going through every way the coins can fall."""
    tosses = only_first + only_second
    likely = [math.comb(tosses, heads) for heads in range(tosses + 1)]
    return sum(ways for ways in likely if ways <= likely[only_first]) / 2**tosses


@pytest.mark.parametrize(("only_first", "only_second"), list(itertools.product(range(9), range(9))))
def test_mcnemar_is_what_counting_gives(only_first: int, only_second: int) -> None:
    assert mcnemar(only_first, only_second) == pytest.approx(sides(only_first, only_second))


def test_the_interval_is_the_published_one() -> None:
    """The example of 50 pairs (36, 12, 2, 0): 0.0569 to 0.3404 by method 10."""
    low, high = paired_interval(36, 12, 2, 0)
    assert low == pytest.approx(5.69, abs=0.005)
    assert high == pytest.approx(34.04, abs=0.005)


def score_limit(only_first: int, only_second: int, n: int, upper: bool) -> float:
    """Return an end of Tango's score interval, by bisection (Statistics in Medicine 17, 1998)."""
    z = float(normal.ppf(0.975))

    def excess(delta: float) -> float:
        a = 2 * n
        b = -only_first - only_second + (2 * n - only_first + only_second) * delta
        c = -only_second * delta * (1 - delta)
        q = (math.sqrt(max(b * b - 4 * a * c, 0)) - b) / (2 * a)
        variance = n * (2 * q + delta * (1 - delta))
        return (only_first - only_second - n * delta) / math.sqrt(max(variance, 1e-300))

    estimate = (only_first - only_second) / n
    if upper:
        return float(brentq(lambda delta: excess(delta) + z, estimate + 1e-9, 1 - 1e-9))
    return float(brentq(lambda delta: excess(delta) - z, -1 + 1e-9, estimate - 1e-9))


@pytest.mark.parametrize(
    "counts", [(500, 60, 40, 400), (300, 10, 30, 660), (90, 5, 3, 2), (1000, 20, 0, 980)]
)
def test_the_interval_is_close_to_the_score_interval(counts: tuple[int, int, int, int]) -> None:
    n = sum(counts)
    low, high = paired_interval(*counts)
    width = high - low
    assert low == pytest.approx(100 * score_limit(counts[1], counts[2], n, False), abs=0.12 * width)
    assert high == pytest.approx(100 * score_limit(counts[1], counts[2], n, True), abs=0.12 * width)


@pytest.mark.parametrize("shares", [(0.6, 0.15, 0.05, 0.2), (0.4, 0.1, 0.1, 0.4)])
def test_the_interval_covers_the_difference_as_often_as_it_says(
    shares: tuple[float, ...],
) -> None:
    """Its exact coverage, over every table of 14 images."""
    n, covered = 14, 0.0
    true = 100 * (shares[1] - shares[2])
    for both, first, second in itertools.product(range(n + 1), repeat=3):
        neither = n - both - first - second
        if neither < 0:
            continue
        counts = (both, first, second, neither)
        low, high = paired_interval(*counts)
        ways = math.factorial(n) / math.prod(math.factorial(count) for count in counts)
        chance = ways * math.prod(share**count for share, count in zip(shares, counts, strict=True))
        covered += chance * (low <= true <= high)
    assert 0.93 < covered < 0.99


@pytest.mark.parametrize("counts", [(0, 0, 0, 10), (10, 0, 0, 0), (0, 10, 0, 0), (0, 0, 1, 0)])
def test_the_interval_stays_in_bounds_and_has_a_width(counts: tuple[int, int, int, int]) -> None:
    low, high = paired_interval(*counts)
    estimate = 100 * (counts[1] - counts[2]) / sum(counts)
    assert -100 - 1e-9 <= low <= estimate <= high <= 100 + 1e-9
    assert high - low > 1


def test_outcomes_are_counted_image_by_image() -> None:
    first = torch.tensor([1, 1, 1, 0, 0, 1], dtype=torch.bool)
    second = torch.tensor([1, 0, 0, 1, 0, 0], dtype=torch.bool)
    found = compare_outcomes(first, second)
    assert found[:4] == (1, 3, 1, 1)
    assert found.difference == pytest.approx(100 * (4 - 2) / 6)
    assert found.p_value == pytest.approx(2 * 5 / 16)
    assert not found.significant


MANY = 40
CLEAN = "1" * MANY


def model(fallen: int, **changed: Any) -> Any:
    """Return an evaluation of 40 images, of which the first few fall."""
    square = "0" * fallen + "1" * (MANY - fallen)
    labels = changed.pop("labels", torch.arange(MANY) % 4)
    return cases.assessment(
        {"clean": CLEAN, "square": square}, labels=labels, **{"failed": False, **changed}
    )


def test_the_better_model_is_named() -> None:
    found = compare_records(model(20), model(5), names=("A", "B"))
    assert found.better == "B"
    assert found.summary.startswith("B is better by 37.50 points")
    assert found.robust.only_second == 15
    assert found.robust.p_value == pytest.approx(2 / 2**15)
    assert found.clean.p_value == 1
    assert compare_records(model(5), model(20), names=("A", "B")).better == "A"


def test_a_small_difference_ranks_nothing() -> None:
    found = compare_records(model(5), model(8))
    assert found.better is None
    assert found.summary.startswith("No difference that chance would not explain: 7.50 points")


def test_an_unreliable_evaluation_is_kept_out_of_the_ranking() -> None:
    flagged = model(5, failed=True)
    for pair in ((flagged, model(20)), (model(20), flagged)):
        found = compare_records(*pair, names=("A", "B"))
        assert found.better is None
        assert found.summary.startswith("Not ranked: a check failed in the evaluation of")
        assert any("gradient" in note for note in found.notes)
    allowed = compare_records(flagged, model(20), names=("A", "B"), allow_flagged=True)
    assert allowed.better == "A"
    assert any("gradient" in note for note in allowed.notes)


def provenance(**changed: object) -> dict[str, object]:
    return {"data_sha256": "d" * 64, "indices_sha256": "i" * 64, **changed}


REFUSED = {
    "images": ({"provenance": provenance(data_sha256="e" * 64)}, "data_sha256.*dddd.*eeee"),
    "indices": ({"provenance": provenance(indices_sha256="j" * 64)}, "indices_sha256"),
    "indices unknown": ({"provenance": provenance(indices_sha256=None)}, "iiii.* and none"),
    "labels": ({"labels": torch.arange(MANY) % 5}, "of 40 labels differ"),
    "norm": ({"norm": "l2"}, "different norms, linf and l2"),
    "epsilon": ({"epsilon": 0.031}, "rounded value"),
    "suite": ({"suite": "fast"}, "suites differ, standard and fast"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_compared_is_refused(name: str) -> None:
    changed, expected = REFUSED[name]
    first = model(5, provenance=provenance())
    second = model(20, **{"provenance": provenance(), **changed})
    with pytest.raises(UserError, match=expected) as caught:
        compare_records(first, second)
    assert "\n" not in str(caught.value)


def test_other_numbers_of_images_are_refused() -> None:
    with pytest.raises(UserError, match="numbers of images differ, 40 and 10"):
        compare_records(model(5), cases.assessment())


def test_images_without_a_digest_are_refused() -> None:
    bare = model(5, provenance={})
    with pytest.raises(UserError, match="neither names the digest"):
        check_comparable(bare, bare)


def test_other_suites_may_be_allowed() -> None:
    found = compare_records(model(20), model(5, suite="fast"), allow_suites=True)
    assert found.better == "the second"
    assert any("different suites" in note for note in found.notes)


def test_the_same_weights_are_noted() -> None:
    weights = provenance(model_sha256="m" * 64)
    found = compare_records(model(5, provenance=weights), model(5, provenance=weights))
    assert found.notes == ("Both evaluations are of the same weights.",)
    assert found.robust.difference == 0
    assert found.better is None
