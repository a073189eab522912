"""The registry of checks, and the function that runs them."""

from __future__ import annotations

import copy
import re
import subprocess
import sys
from typing import Any

import pytest
import torch
from broken_models import context_of
from check_cases import ATTACK_CHECKS, MODEL_CHECKS, attacked_context

from arnas.evaluation.checks import CHECKS, OLD_IDS, read_check, run_check, run_checks
from arnas.evaluation.monitor import EvalMonitor
from arnas.evaluation.result import Check


def test_every_entry_is_complete() -> None:
    for name, entry in CHECKS.items():
        assert entry.id == name
        assert callable(entry.function)
        assert re.fullmatch(r"(Fail|Warn) if [^|\n]+\.", entry.fail)
    assert not OLD_IDS.keys() & CHECKS.keys()
    assert set(OLD_IDS.values()) <= CHECKS.keys()


def test_the_registry_needs_no_torch() -> None:
    code = "import sys, arnas.evaluation.checks; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("tier", ["all", "cheap", "none"])
def test_a_tier_runs_its_checks_in_order(tier: str) -> None:
    context = context_of("cnn", 40)
    found = [check.id for check in run_checks(context, "model", tier)]
    assert found == ([] if tier == "none" else list(MODEL_CHECKS))
    if tier != "none":
        names = [name for name in ATTACK_CHECKS if CHECKS[name].tier == "cheap"]
        assert [check.id for check in run_checks(context, "attacks", "cheap")] == names
        assert [check.id for check in context.notes["checks"]] == [*MODEL_CHECKS, *names]


@pytest.mark.usefixtures("quick")
def test_a_run_that_was_cut_short_ends_with_the_same_checks() -> None:
    """Of a random model too: numbers follow from names, not from what was run before."""
    context = attacked_context("dropout", count=12)
    first, second = copy.deepcopy(context), copy.deepcopy(context)
    whole = run_checks(context, "attacks")

    class StopError(Exception):
        pass

    def stop() -> None:
        if len(first.notes["checks"]) == 10:
            raise StopError

    with pytest.raises(StopError):
        run_checks(first, "attacks", between=stop)
    done = {check.id: check for check in first.notes["checks"]}
    calls: list[int] = []
    again = run_checks(second, "attacks", between=lambda: calls.append(1), done=done)
    assert again == whole
    assert len(calls) == len(whole) - 10


@pytest.mark.parametrize("combine", ["union", "each"])
def test_attacks_are_compared_where_both_attacked_every_image(combine: str) -> None:
    context = context_of("cnn", 40, combine=combine)
    stood, fell = (torch.full((40,), value, dtype=torch.uint8) for value in (1, 0))
    context.outcomes = {"clean": stood, "fgsm": fell, "pgd20": stood, "pgd100": stood}
    found = run_check("iterative_not_weaker", context)
    assert found.status == ("FAIL" if combine == "each" else "SKIP")
    assert run_check("more_steps_not_weaker", context).status == (
        "PASS" if combine == "each" else "SKIP"
    )
    missing = run_check("margin_not_stronger", context)
    assert (missing.status, missing.evidence) == ("SKIP", "cw_inf not run")


def test_checks_of_an_earlier_release_are_read_with_a_warning() -> None:
    new = Check("examples_reproduce", "PASS", "nothing differs", "")
    assert read_check(new._asdict()) == new
    old = {"id": "recount", "status": "PASS", "figure": "nothing differs", "advice": ""}
    with pytest.warns(FutureWarning, match="old name figure and recount"):
        assert read_check(old) == new


@pytest.mark.parametrize(
    ("seen", "status"),
    [
        ({}, "PASS"),
        ({"excess": 0.01}, "FAIL"),
        ({"high": 1.01}, "FAIL"),
        ({"finite": False}, "FAIL"),
    ],
)
def test_examples_that_were_not_kept_count_too(seen: dict[str, Any], status: str) -> None:
    context = attacked_context("cnn", count=12)
    context.monitor = EvalMonitor(**{"examples": 9, "excess": 0.0, "low": 0.0, "high": 1.0} | seen)
    assert run_check("ball_and_box", context).status == status
    assert run_check("model_unchanged", context).status == "PASS"
    context.monitor.awake = 1
    assert run_check("model_unchanged", context).status == "FAIL"
