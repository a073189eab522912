"""Entries of the leaderboards: their form, and where they deviate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import assessment_cases as cases
import pytest
import torch

from arnas.attacks.threat import Threat
from arnas.evaluation.result import Check, EvalResult
from arnas.reporting.model.robustbench import (
    board_entry,
    epsilon_text,
    missing_for_board,
    write_robustbench,
)

CIFAR = 10_000
KNOWN = {"data": "cifar10", "model": "arnas"}
ATTACKS = ("apgd_ce", "apgd_t", "fab_t", "square")


def whole(
    n: int = CIFAR, attacks: tuple[str, ...] = ATTACKS, failed: bool = False, **changed: Any
) -> EvalResult:
    """Return an evaluation in which a tenth is wrong and each attack breaks a tenth."""
    tenth, digits = n // 10, {"clean": "1" * (n - n // 10) + "0" * (n // 10)}
    for number, name in enumerate(attacks):
        before = number * tenth
        standing = n - before - 2 * tenth
        digits[name] = "2" * before + "0" * tenth + "1" * standing + "2" * tenth
    labels = torch.arange(n) % 10
    changed.setdefault("provenance", KNOWN)
    empty = torch.empty((0, 0, 0, 0))
    return cases.assessment(digits, labels=labels, x_adv=empty, failed=failed, **changed)


@pytest.fixture(scope="module")
def standard() -> EvalResult:
    return whole()


def test_an_entry_has_the_form_of_the_boards(tmp_path: Path, standard: EvalResult) -> None:
    notes = write_robustbench(tmp_path / "e.json", standard)
    assert notes == ["fill in by hand: name, authors, link, venue"]
    assert json.loads((tmp_path / "e.json").read_text()) == {
        "link": "",
        "name": "",
        "authors": "",
        "additional_data": False,
        "number_forward_passes": 1,
        "dataset": "cifar10",
        "venue": "",
        "architecture": "arnas",
        "eps": "8/255",
        "clean_acc": "90.00",
        "reported": "50.00",
        "autoattack_acc": "50.00",
        "unreliable": False,
    }


def test_a_failed_check_makes_it_unreliable() -> None:
    entry = board_entry(whole(failed=True))
    assert entry["unreliable"] is True
    assert entry["footnote"] == "Checks that failed: gradient."


def test_attacks_beyond_the_standard_make_the_external_accuracy(standard: EvalResult) -> None:
    entry = board_entry(whole(attacks=(*ATTACKS, "transfer")))
    assert (entry["autoattack_acc"], entry["external"]) == ("50.00", "40.00")
    assert "external" not in board_entry(standard)


DEVIATING: dict[str, tuple[dict[str, Any], str]] = {
    "few images": ({"n": 1000}, "1,000 images were evaluated, the board's are 10,000"),
    "rounded epsilon": ({"epsilon": 0.031}, "epsilon is 0.031, the board's is 8/255"),
    "suite": ({"suite": "fast"}, "the suite is fast, the board's is standard"),
    "dataset": ({"provenance": {"data": "digits"}}, "the dataset is digits under linf"),
    "no dataset": ({"provenance": {}}, "the dataset is not named under linf"),
    "no board": ({"norm": "l1", "epsilon": 12}, "the dataset is cifar10 under l1"),
    "l2 budget": ({"norm": "l2", "epsilon": 1.0}, "epsilon is 1, the board's is 0.5"),
    "imagenet": (
        {"epsilon": "4/255", "provenance": {"data": "ImageNet"}},
        "the board's are 5,000",
    ),
    "replaced": ({"provenance": KNOWN | {"replaced": {"apgd_t": "x"}}}, "were replaced"),
    "random": ({"checks": (Check("determinism", "WARN", "", ""),)}, "random numbers"),
}


@pytest.mark.parametrize("name", DEVIATING)
def test_what_deviates_from_the_board_is_named_in_the_footnote(tmp_path: Path, name: str) -> None:
    changed, expected = DEVIATING[name]
    notes = write_robustbench(tmp_path / "e.json", whole(**changed))
    assert any(expected in note for note in notes)
    assert expected in json.loads((tmp_path / "e.json").read_text())["footnote"]


@pytest.mark.parametrize(
    ("dataset", "n", "threat"),
    [
        ("CIFAR-10", CIFAR, ("l2", 0.5)),
        ("cifar_100", CIFAR, ("linf", "8/255")),
        ("imagenet", 5000, ("linf", "4/255")),
    ],
)
def test_every_board_has_its_protocol(dataset: str, n: int, threat: tuple[str, Any]) -> None:
    made = whole(n, norm=threat[0], epsilon=threat[1], provenance={"data": dataset})
    assert missing_for_board(made) == []


@pytest.mark.parametrize(
    ("norm", "epsilon", "text"),
    [
        ("linf", 8 / 255, "8/255"),
        ("linf", 0.3, "0.3"),
        ("l2", 0.5, "0.5"),
        ("l2", 128 / 255, "0.501961"),
    ],
)
def test_budgets_are_written_as_on_the_boards(norm: str, epsilon: float, text: str) -> None:
    assert epsilon_text(Threat(norm, epsilon)) == text
