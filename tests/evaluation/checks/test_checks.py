"""The registry of checks, and the function that runs them."""

from __future__ import annotations

import copy
import subprocess
import sys

import pytest
import torch
from broken_models import context_of
from check_cases import ATTACK_CHECKS, MODEL_CHECKS, attacked_context

from arnas.evaluation.checks import CHECKS, OLD_IDS, read_check, run_check, run_checks
from arnas.evaluation.checks.base import Check
from arnas.runtime.references import load_reference


def test_every_entry_is_complete() -> None:
    for name, entry in CHECKS.items():
        assert entry.id == name
        assert callable(load_reference(f"arnas.evaluation.checks.{entry.function}"))
        assert entry.fail.endswith(".")
        assert "|" not in entry.fail
        assert bool(entry.attacks) == (entry.applies == "both attacks")
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
