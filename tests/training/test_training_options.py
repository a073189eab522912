"""The recipe's settings: what they refuse, and that their names are those of the registries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from arnas.config.load import load_params
from arnas.search.options import SearchedNetworkOptions
from arnas.training.options import (
    NetworkOptions,
    RecipeOptions,
    RetrainOptions,
    TrainingAttackOptions,
)
from arnas.training.registry import LOSSES, loss_options

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"schedule": "cosine"}, r"schedule cosine has no milestones: write milestones: \[\]"),
        ({"schedule": "cosine", "milestones": [3]}, "schedule cosine has no milestones"),
        ({"milestones": [104, 99]}, "milestones must rise"),
        ({"milestones": [5, 5]}, "milestones must rise"),
        ({"milestones": [0, 5]}, "start at 1 or later"),
        ({"milestones": [-1]}, "start at 1 or later"),
        ({"schedule": "linear"}, "multistep"),
        ({"epochs": 0}, "epochs"),
        ({"batch_size": 1}, "batch_size"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"momentum": 1.0}, "momentum"),
        ({"gradient_clip": 0.0}, "gradient_clip"),
        ({"weight_decay": -1e-4}, "weight_decay"),
        ({"warmup": 1.0}, "warmup"),
    ],
)
def test_a_recipe_that_makes_no_sense_is_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        RetrainOptions(**settings)


@pytest.mark.parametrize(
    "settings", [{"step_size": "8/0"}, {"step_size": "wide"}, {"step_size": -0.1}, {"steps": -1}]
)
def test_an_attack_that_makes_no_sense_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(settings))):
        TrainingAttackOptions(**settings)


@pytest.mark.parametrize("name", [*LOSSES, "mine.losses:smooth"])
def test_every_loss_can_be_set_for_every_network(name: str) -> None:
    for options in (SearchedNetworkOptions(loss=name), NetworkOptions(model="my:net", loss=name)):
        assert options.loss.name == name
        assert options.model_dump(exclude_defaults=True).get("loss", "pgd") == name


def test_settings_of_a_loss_are_written_only_where_they_differ() -> None:
    """So that the digests of settings stay when a loss gets a new setting."""

    def dumped(loss: object) -> dict[str, object]:
        return SearchedNetworkOptions(loss=loss).model_dump(mode="json", exclude_defaults=True)

    assert dumped("pgd") == {}
    assert dumped({"name": "trades", "beta": 6.0}) == dumped("trades") == {"loss": "trades"}
    assert dumped({"name": "trades", "beta": 1}) == {"loss": {"name": "trades", "beta": 1.0}}
    own = {"name": "mine:f", "width": [1, 2]}
    assert dumped(own) == {"loss": own}
    assert loss_options(own).width == [1, 2]


def test_a_network_has_its_own_recipe_over_the_datasets() -> None:
    below = RetrainOptions(epochs=10, milestones=[5], attack={"steps": 2, "step_size": 0.1})
    own = RecipeOptions(epochs=110, attack={"steps": 7}, optimiser="adam")
    found = own.over(below)
    assert (found.epochs, found.milestones, found.optimiser) == (110, [5], "adam")
    assert (found.attack.steps, found.attack.step_size) == (7, 0.1)
    assert found.model_fields_set == {"epochs", "milestones", "attack", "optimiser"}
    assert RecipeOptions().over(below) == below


def test_controls_are_named_or_those_without_a_defence() -> None:
    params = load_params(ROOT / "workflow/presets/smoke.yaml")
    assert params.controls() == {"arnas_undefended"}
    named = params.run.model_copy(update={"controls": ["arnas"]})
    assert params.model_copy(update={"run": named}).controls() == {"arnas"}


def test_all_of_a_networks_recipe_counts_for_its_digest() -> None:
    """Also what equals a default, because the dataset's recipe may be another."""
    default = RetrainOptions().epochs
    network = NetworkOptions(model="arnas", recipe={"epochs": default, "attack": {"steps": 7}})
    dumped = network.model_dump(mode="json", exclude_defaults=True)
    assert dumped["recipe"] == {"epochs": default, "attack": {"steps": 7}}
    assert "recipe" not in NetworkOptions(model="arnas").model_dump(exclude_defaults=True)


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (
            "hinge",
            "allowed are pgd, trades, mart, iat, infoat, cost_sensitive, jsigr, natural, "
            "or a function of your own",
        ),
        ("mine.py:", "allowed are pgd"),
        ({"name": "hinge"}, "allowed are pgd"),
        ({"beta": 1}, "write a name, or a block with a name"),
        (None, "write a name"),
        ({"name": "pgd", "beta": 1}, "beta: .* settings of this loss are label_smoothing"),
        ({"name": "trades", "beta": -1}, "beta: .* settings of this loss are beta"),
        ({"name": "cost_sensitive", "protected": [1], "costs": [[0.0]]}, "give either protected"),
    ],
)
def test_a_wrong_loss_is_refused(loss: object, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        NetworkOptions(model="arnas", loss=loss)
