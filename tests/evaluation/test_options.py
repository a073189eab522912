"""The evaluation's settings name the attacks of the registry."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from arnas.attacks.registry import ATTACKS
from arnas.attacks.threat import parse_amount
from arnas.evaluation.options import BlackboxOptions, WhiteboxOptions


def test_suites_and_own_attacks_may_be_named_and_each_attack_runs_once() -> None:
    options = WhiteboxOptions(attacks=["apgd_t", "fast", "my.attacks:mine", "autoattack"])
    assert options.chosen(options.attacks, "digits", defended=True) == [
        "apgd_t",
        "apgd_ce",
        "my.attacks:mine",
        "autoattack",
    ]
    assert "autoattack" not in options.chosen(options.attacks, "digits", defended=False)


def test_the_default_attacks_exist() -> None:
    options = WhiteboxOptions()
    assert set(options.attacks) | set(options.last_attacks) <= set(ATTACKS)


@pytest.mark.parametrize(
    "settings",
    [
        {"steps": 0},
        {"square_queries": 0},
        {"square_images": 0},
        {"attacks": ["pgd0"]},
        {"attacks": ["fgsm", "fgsm"]},
        {"checks": "some"},
        {"suite": "fast"},
        {"last_attacks": ["clean"]},
        {"autoattack_images": 0},
        {"autoattack_on": "undefended"},
        {"batch_size": 0},
        {"images": 3},
        {"curve_images": 0},
        {"epsilon_curve": [0, 0]},
        {"epsilon_curve": ["8/255", "8px"]},
        {"epsilon_curve": [0.1, "8/255"]},
        {"epsilon_curve": [0, -0.1]},
        {"epsilon_curve": ["far"]},
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any]) -> None:
    (name,) = settings
    options = WhiteboxOptions if name in WhiteboxOptions.model_fields else BlackboxOptions
    with pytest.raises(ValidationError, match=name):
        options(**settings)


def test_budgets_are_compared_by_what_they_mean_and_kept_as_written() -> None:
    """As text `8/255` comes after `10px`, and tables print it so."""
    written = [0, 0.01, "3px", "8/255", "10px", "0.1", 1]
    assert WhiteboxOptions(epsilon_curve=written).epsilon_curve == written


def test_the_default_curve_goes_from_no_budget_to_every_image() -> None:
    """Both ends are checked."""
    curve = WhiteboxOptions().epsilon_curve
    assert (parse_amount(curve[0]), parse_amount(curve[-1])) == (0, 1)
