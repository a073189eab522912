"""Budgets in their three notations, and the refusals that catch a wrong unit."""

import copy
import json
import math
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from arnas.attacks.threat import (
    CheckedThreat,
    Threat,
    ThreatOptions,
    check_epsilon,
    parse_amount,
    unbounded,
)
from arnas.runtime.errors import UserError

CHECKED = TypeAdapter(CheckedThreat)


@pytest.mark.parametrize(
    ("written", "amount"),
    [
        ("8/255", 8 / 255),
        ("8./255", 8 / 255),
        ("0.5/255", 0.5 / 255),
        (" 8 / 255 ", 8 / 255),
        ("0.0314", 0.0314),
        ("3.1e-2", 0.031),
        ("8px", 8 / 255),
        ("8 px", 8 / 255),
        ("0.5px", 0.5 / 255),
        ("1/2px", 0.5 / 255),
        ("0", 0.0),
        (0, 0.0),
        (1, 1.0),
        (0.1, 0.1),
    ],
)
def test_amounts_are_read_in_input_units(written: float | str, amount: float) -> None:
    assert parse_amount(written) == amount


@given(st.integers(0, 10**6), st.integers(1, 10**6))
@settings(max_examples=50, derandomize=True, deadline=None)
def test_a_fraction_is_the_correctly_rounded_quotient(numerator: int, denominator: int) -> None:
    """Nothing is lost on the way through text: the float is the nearest to the exact ratio."""
    assert parse_amount(f"{numerator}/{denominator}") == numerator / denominator


@pytest.mark.parametrize(
    "nonsense",
    [
        "",
        "px",
        "eight",
        "8/0",
        "8/255/2",
        "8//255",
        "8 pixels",
        "-1",
        "-8/255",
        "-1px",
        "nan",
        "inf",
        "1e400",
        -0.1,
        math.nan,
        math.inf,
    ],
)
def test_what_is_no_distance_is_refused_with_the_notations(nonsense: str | float) -> None:
    with pytest.raises(UserError) as caught:
        parse_amount(nonsense)
    message = str(caught.value)
    assert message.startswith(f"'{nonsense}' is not a distance")
    assert all(notation in message for notation in ("8/255", "0.0314", "8px"))


@pytest.mark.parametrize("tiny", [1e-310, "1e-310", "1e-38px"])
def test_a_distance_that_is_none_in_float32_is_refused(tiny: float | str) -> None:
    with pytest.raises(UserError, match="is 0 in float32: write 0, or at least 1e-30"):
        parse_amount(tiny)


@pytest.mark.parametrize("written", [8, 8.0, "8"])
def test_a_linf_budget_in_grey_levels_is_refused_with_the_likely_meaning(
    written: float | str,
) -> None:
    with pytest.raises(UserError, match=r"epsilon is 8(\.0)?: .* between 0 and 1.* 8/255"):
        check_epsilon("linf", written)


@pytest.mark.parametrize(
    ("threat", "text"),
    [
        (Threat("linf", 8 / 255), "8/255 = 0.0313725 = 8 of 255, linf"),
        (Threat("l2", 0.5), "1/2 = 0.5 = 127.5 of 255, l2"),
        (Threat("linf", 1.0), "255/255 = 1 = 255 of 255, linf"),
        (Threat("linf", 0.0), "0/255 = 0 = 0 of 255, linf"),
    ],
)
def test_a_threat_prints_its_budget_in_three_units(threat: Threat, text: str) -> None:
    assert str(threat) == text


@pytest.mark.parametrize(("norm", "order"), [("linf", math.inf), ("l2", 2), ("l1", 1)])
def test_an_unbounded_threat_reaches_every_corner_of_the_box(norm: str, order: float) -> None:
    diagonal = torch.ones(12, dtype=torch.float64)
    assert unbounded(norm, 12).epsilon == pytest.approx(float(diagonal.norm(p=order)))


@pytest.mark.parametrize("epsilon", [0.0314, 1e-4])
def test_a_printed_fraction_is_never_another_budget(epsilon: float) -> None:
    above, _, below = str(Threat("linf", epsilon)).split(" = ")[0].partition("/")
    assert float(above) / float(below or 1) == pytest.approx(epsilon, rel=1e-4)


@pytest.mark.parametrize("norm", ["l0", "Linf", "", "inf"])
def test_an_unknown_norm_is_refused(norm: str) -> None:
    with pytest.raises(UserError, match="allowed are linf, l2, l1"):
        Threat(norm, 0.1)


@pytest.mark.parametrize("epsilon", [-0.1, 1.5, math.nan, math.inf])
def test_an_impossible_threat_cannot_be_built(epsilon: float) -> None:
    with pytest.raises(UserError):
        Threat("linf", epsilon)


def test_settings_keep_what_was_written_and_give_the_threat() -> None:
    options = CHECKED.validate_python({"epsilon": "8/255"})
    assert isinstance(options, ThreatOptions)
    assert options.epsilon == "8/255"
    assert options.threat() == Threat("linf", 8 / 255) == Threat("linf", "8/255")
    assert CHECKED.dump_python(options) == {"norm": "linf", "epsilon": "8/255"}


@pytest.mark.parametrize(
    ("block", "named"),
    [
        ({"norm": "linf", "epsilon": 8}, "8/255"),
        ({"norm": "linf", "epsilon": "eight"}, "eight"),
        ({"norm": "linf", "epsilon": -0.1}, "-0.1"),
        ({"norm": "linf", "epsilon": True}, "epsilon"),
        ({"norm": "linf", "epsilon": None}, "epsilon"),
        ({"norm": "linf"}, "epsilon"),
        ({"norm": "l1", "epsilon": 0.1}, "norm"),
        ({"norm": "linf", "epsilon": 0.1, "steps": 3}, "steps"),
    ],
)
def test_wrong_settings_are_refused_and_named(block: dict[str, object], named: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(named)):
        CHECKED.validate_python(block)


def test_settings_are_frozen() -> None:
    options = CHECKED.validate_python({"epsilon": "8px"})
    with pytest.raises(ValidationError, match="frozen"):
        options.epsilon = 0.5


def test_an_epsilon_remembers_how_it_was_written() -> None:
    for written in ("8/255", "8px", " 0.5 "):
        epsilon = Threat("linf", parse_amount(written)).epsilon
        assert copy.deepcopy(epsilon).text == written.strip()
        assert parse_amount(epsilon) is epsilon
        assert json.dumps(epsilon) == json.dumps(float(epsilon))
