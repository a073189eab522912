"""The evaluation's settings name the attacks of the registry."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from pydantic import ValidationError

from arnas.attacks.registry import ATTACKS
from arnas.evaluation.options import AttackName, WhiteboxOptions


def test_the_names_of_attacks_are_those_of_the_registry() -> None:
    assert set(get_args(AttackName)) == set(ATTACKS)
    assert len(get_args(AttackName)) == len(ATTACKS)


def test_every_attack_may_be_set() -> None:
    options = WhiteboxOptions(attacks=list(ATTACKS), last_attacks=[])
    assert options.attacks == list(ATTACKS)


def test_the_default_attacks_exist() -> None:
    options = WhiteboxOptions()
    assert set(options.attacks) | set(options.last_attacks) <= set(ATTACKS)


@pytest.mark.parametrize(
    "settings",
    [
        {"attacks": ["pgd21"]},
        {"last_attacks": ["clean"]},
        {"autoattack_images": 0},
        {"autoattack_on": "undefended"},
        {"batch_size": 0},
        {"images": 3},
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(settings))):
        WhiteboxOptions(**settings)
