"""When a rerun's tables reproduce the committed ones."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
import pytest
from report_cases import measured

from arnas.reporting.options import Ordering
from arnas.reporting.run.reproduction import drift, tolerance, violated
from arnas.runtime.errors import UserError


def row(**changes: Any) -> dict[str, Any]:
    return measured(**{"attack": "pgd20", "n": 400, **changes})


def table(*rows: dict[str, Any]) -> pd.DataFrame:
    return pd.DataFrame(list(rows))


def test_the_tolerance_of_a_fair_coin_is_the_closed_form() -> None:
    """At p = 1/2 and 200 images sqrt(2 p (1 - p) / n) is 1/20: 12.9 points and 2 more."""
    assert tolerance(50, 50, 200) == pytest.approx(14.9, rel=1e-12)
    assert tolerance(40, 60, 200) == tolerance(60, 40, 200) == pytest.approx(14.9, rel=1e-12)
    assert tolerance(90, 90, 1800) == pytest.approx(4.58, rel=1e-12), "a hundredth is the root"


def test_the_same_table_does_not_drift() -> None:
    rows = table(row(), row(attack="clean", accuracy=90.0), row(seed=1))
    assert drift(rows, rows) == []
    assert drift(rows, rows.iloc[::-1]) == []


def limit_from(old: float, n: int) -> float:
    """Return the largest accuracy that still reproduces `old`, found by bisection."""
    low, high = old, 100.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if middle - old <= tolerance(old, middle, n) else (low, middle)
    return low


@pytest.mark.parametrize("n", [16, 360, 10_000])
def test_only_differences_beyond_the_tolerance_are_drift(n: int) -> None:
    limit = limit_from(50.0, n)
    assert 52 < limit < 98
    reference = table(row(n=n), row(n=n, attack="clean"))
    within = table(row(n=n, accuracy=limit - 1e-6), row(n=n, attack="clean"))
    beyond = table(row(n=n, accuracy=limit + 1e-6), row(n=n, attack="clean"))
    assert drift(reference, within) == []
    assert drift(within, reference) == []
    found = drift(reference, beyond)
    assert len(found) == 1
    assert found[0].startswith(
        f"digits a_net pgd 0 selected pgd20 linf 0.1 (n={n}): 50.0 before, {limit + 1e-6} now"
    )
    assert found[0].endswith(f"allowed difference {tolerance(50, limit, n):.2f}")
    assert len(drift(beyond, reference)) == 1, "a rise is as much a drift as a fall"


def test_an_accuracy_that_is_no_number_drifts() -> None:
    assert len(drift(table(row()), table(row(accuracy=math.nan)))) == 1


def test_what_checks_broke_may_be_a_row_of_one_side() -> None:
    rows, more = table(row()), table(row(), row(attack="checks and curve"))
    assert drift(rows, more) == drift(more, rows) == []


def test_rows_of_one_side_only_are_named() -> None:
    both, first, second = row(), row(attack="fgsm"), row(model="b_net")
    found = drift(table(both, first), table(second, both))
    assert sorted(found) == [
        "digits a_net pgd 0 selected fgsm linf 0.1 (n=400): only in the reference",
        "digits b_net pgd 0 selected pgd20 linf 0.1 (n=400): only in the rerun",
    ]


@pytest.mark.parametrize(
    "change",
    [
        {"dataset": "shapes"},
        {"training": "natural"},
        {"seed": 1},
        {"checkpoint": "last"},
        {"norm": "l2"},
        {"epsilon": "0.2"},
        {"n": 399},
    ],
    ids=lambda change: next(iter(change)),
)
def test_rows_that_measure_something_else_are_not_compared(change: dict[str, Any]) -> None:
    assert len(drift(table(row()), table(row(**change)))) == 2


def rule(by: float = 0.0, **changes: str) -> Ordering:
    names = {"dataset": "digits", "attack": "pgd20", "better": "a_net", "worse": "b_net"}
    return Ordering(**{**names, **changes}, by=by)


PAIR = table(
    row(seed=0, accuracy=60.0),
    row(seed=1, accuracy=70.0),
    row(seed=0, accuracy=50.0, model="b_net"),
    row(seed=1, accuracy=60.0, model="b_net"),
    row(checkpoint="last", accuracy=0.0),
    row(checkpoint="last", accuracy=99.0, model="b_net"),
    row(attack="clean", accuracy=10.0),
    row(attack="clean", accuracy=90.0, model="b_net"),
)
"""Over both seeds the selected checkpoints of a_net lead by 10 points under PGD-20."""


@pytest.mark.parametrize(("by", "count"), [(0.0, 0), (9.9, 0), (10.0, 0), (10.1, 1), (50.0, 1)])
def test_an_ordering_holds_for_the_mean_of_selected_checkpoints(by: float, count: int) -> None:
    assert len(violated(PAIR, [rule(by)])) == count


def test_a_violated_ordering_is_told_with_its_numbers() -> None:
    assert violated(PAIR, [rule(), rule(12.5), rule(attack="clean")]) == [
        "digits pgd20: a_net has 65.00 and b_net 55.00, expected is a lead of at least 12.5",
        "digits clean: a_net has 10.00 and b_net 90.00, expected is a lead of at least 0",
    ]


def test_an_accuracy_that_is_no_number_leads_nobody() -> None:
    broken = table(row(accuracy=math.nan), row(model="b_net", accuracy=1.0))
    assert len(violated(broken, [rule()])) == 1


@pytest.mark.parametrize("field", ["dataset", "attack", "better", "worse"])
def test_a_name_that_no_table_has_is_the_user_s_mistake(field: str) -> None:
    with pytest.raises(UserError, match=r"reproduction\.orderings names .*'nobody'"):
        violated(PAIR, [rule(**{field: "nobody"})])
