"""The answer in words: right names, right order, and no number that the tables do not hold."""

from __future__ import annotations

import re

import pandas as pd
import report_cases as cases

from arnas.reporting.format import join
from arnas.reporting.run.words import summarise


def answer(
    whitebox: pd.DataFrame | None = None,
    checks: pd.DataFrame | None = None,
    blackbox: pd.DataFrame | None = None,
) -> list[str]:
    changed = {"whitebox": whitebox, "checks": checks, "blackbox": blackbox}
    given = {name: table for name, table in changed.items() if table is not None}
    return summarise(cases.tables() | given, ["dsara"], "digits", {"control"})


def test_networks_are_named_from_the_most_robust_to_the_least() -> None:
    first = answer()[0]
    places = [first.index(name) for name in ("arnas 88.0 %", "dsara (found by this run)", "small")]
    assert places == sorted(places)
    assert "control" not in first


def test_overlapping_intervals_are_not_ranked() -> None:
    assert answer()[1] == (
        "The intervals of arnas and dsara overlap, which does not rank them; small lies below."
    )


def test_a_clear_winner_is_called_one() -> None:
    table = cases.whitebox()
    close = table[~((table["model"] == "dsara") & (table["dataset"] == "digits"))]
    assert "The interval of arnas lies above those of all others." in answer(close)


def test_the_control_and_the_transfer_are_told() -> None:
    text = " ".join(answer())
    assert "control drops from 96.0 %" in text
    assert "dsara (found elsewhere, trained anew here) 40.0 %" in text


def test_the_strongest_black_box_attack_is_the_lowest_of_the_matrix() -> None:
    table = cases.blackbox()
    across = table[(table["model"] != table["source"]) & (table["training"] != "natural")]
    lowest = across[across["dataset"] == "digits"]["accuracy"].min()
    assert f"keeps {lowest:.1f} %" in " ".join(answer())


def test_the_strongest_black_box_attack_over_seeds_has_deviation_and_count() -> None:
    one = cases.blackbox()
    two = pd.concat([one, one.assign(seed=1, accuracy=one["accuracy"] - 2)])
    said = " ".join(answer(cases.whitebox(2), blackbox=two))
    across = one[(one["model"] != one["source"]) & (one["training"] != "natural")]
    lowest = across[across["dataset"] == "digits"]["accuracy"].min()
    assert f"keeps {lowest - 1:.1f} ± 1.4 % (2 seeds)." in said


def test_checks_are_counted_and_a_failure_is_named() -> None:
    assert answer()[-1].endswith(": 10 PASS, 1 WARN, 0 FAIL, 0 SKIP.")
    last = answer(checks=cases.checks(failing=True))[-1]
    assert last.endswith("1 FAIL, 0 SKIP; do not rely on the accuracies of arnas on digits.")


def test_every_decimal_number_is_in_a_table() -> None:
    tables = [cases.whitebox(), cases.blackbox()]
    known = {
        f"{value:.1f}"
        for table in tables
        for column in ("accuracy", "ci_low", "ci_high")
        for value in table[column]
    } | set(cases.EPSILON.values())
    said = {number for text in answer() for number in re.findall(r"\d+\.\d+", text)}
    assert said
    assert said <= known


def test_enumerations_read_like_english() -> None:
    assert [join([]), join(["a"]), join(["a", "b"]), join(["a", "b", "c"])] == [
        "",
        "a",
        "a and b",
        "a, b and c",
    ]
