"""The benchmark judges as it says, its committed table is whole, and no two results disagree."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import pytest

from benchmarks.bench import GROUPS, RESULTS
from benchmarks.table import markdown
from benchmarks.timing import Case, Measurement, UnavailableError, interleaved, row

LATEST: dict[str, Any] = json.loads((RESULTS / "latest.json").read_text())
CASES = [case for cases in GROUPS.values() for case in cases]
KEYS = {"work", "peer", "ratio", "spread", "target", "floor_ratio", "agreement", "verdict"}


def test_the_committed_table_has_every_row() -> None:
    rows = {(r["work"], r["peer"], r["target"]) for r in LATEST["rows"]}
    assert rows == {case[:3] for case in CASES}
    assert len(LATEST["rows"]) == len(CASES)
    assert all(r.keys() == KEYS for r in LATEST["rows"])
    assert {"torch", "cpu", "load", "date"} <= LATEST["environment"].keys()
    assert all(r["work"] in markdown(LATEST) for r in LATEST["rows"])


def test_it_is_kept_by_date_and_machine() -> None:
    dated = [path for path in RESULTS.glob("*.json") if path.name != "latest.json"]
    assert LATEST in [json.loads(path.read_text()) for path in dated]


@pytest.mark.parametrize("found", LATEST["rows"], ids=lambda r: r["work"])
def test_both_sides_of_the_committed_table_computed_the_same(found: dict[str, Any]) -> None:
    agreement = found["agreement"]
    if "robust" in agreement:
        ours, theirs = agreement["robust"]
        most = max(2, agreement["images"] // 25)
        assert all(abs(a - b) <= most for a, b in zip(ours, theirs, strict=True))
    else:
        assert all(value < 1e-9 for value in agreement.values())


@pytest.mark.parametrize(
    ("ratios", "verdict"),
    [
        ([0.4, 0.5, 0.45], "met"),
        ([0.51, 0.6, 0.5], "missed"),
        ([0.3, 0.4, 0.45], "rounds disagree"),
    ],
)
def test_verdicts(ratios: list[float], verdict: str) -> None:
    found = row(Case("work", "peer", 0.5, lambda: Measurement(ratios, [1.0, 3.0], {})))
    assert found["verdict"] == verdict
    assert found["ratio"] == sorted(ratios)[1]
    assert found["spread"] == [min(ratios), max(ratios)]
    assert found["floor_ratio"] == 2.0


@pytest.mark.parametrize("error", [ModuleNotFoundError("no peer"), UnavailableError("no compiler")])
def test_a_row_without_its_peer_says_so(error: Exception) -> None:
    def fail() -> Measurement:
        raise error

    found = row(Case("work", "peer", 0.5, fail))
    assert found.keys() == KEYS
    assert (found["ratio"], found["verdict"]) == (None, f"not available: {error}")


def test_both_sides_take_turns() -> None:
    calls: list[str] = []
    ratios, floors = interleaved(
        *(partial(calls.append, name) for name in ("ours", "peer", "bare")), rounds=2
    )
    assert "".join(name[0] for name in calls) == "opb" + "opb" + "bpo"
    assert len(ratios) == len(floors) == 2
