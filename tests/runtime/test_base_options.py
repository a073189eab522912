"""Settings are taken as they were meant or refused, never bent."""

import pytest
from pydantic import ValidationError

from arnas.runtime.options import Options


class Example(Options):
    """An example."""

    epochs: int = 1
    """Passes over the training images."""
    rate: float = 0.1
    name: str = "a"
    flag: bool = False


@pytest.mark.parametrize(
    "change",
    [
        {"epochs": "3"},
        {"epochs": 3.0},
        {"epochs": True},
        {"rate": "0.1"},
        {"rate": True},
        {"name": 3},
        {"flag": 1},
        {"flag": "yes"},
        {"epochs": None},
        {"epoch": 3},
    ],
)
def test_wrong_types_and_unknown_keys_are_refused_and_named(change: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=next(iter(change))):
        Example(**change)


def test_an_integer_may_stand_for_a_float() -> None:
    assert Example(rate=1).rate == 1.0


def test_options_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Example().epochs = 2


def test_the_docstring_of_a_field_is_its_description() -> None:
    description = Example.model_json_schema()["properties"]["epochs"]["description"]
    assert description == "Passes over the training images."
