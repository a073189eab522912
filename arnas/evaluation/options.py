"""Settings of the evaluation."""

from __future__ import annotations

import itertools
from typing import Annotated, Literal

from pydantic import Field, field_validator

from arnas.attacks.registry import ATTACKS, PGD_FORM, PGD_PATTERN, SUITES, attack_names
from arnas.attacks.threat import Amount, parse_amount
from arnas.runtime.options import Options
from arnas.runtime.registered import Registered

Tier = Literal["all", "cheap", "none"]
"""Which checks are run; ``cheap`` leaves out those that attack the model themselves."""
AttackName = Annotated[str, Registered(dict.fromkeys([*SUITES, *ATTACKS]), PGD_FORM, PGD_PATTERN)]
"""Type of a setting: a suite, an attack, or a user's own attack."""
AUTOATTACK = "autoattack"
"""The attack that runs on the first images only."""


class WhiteboxOptions(Options):
    """Attacks with full knowledge of the network, on the test images."""

    attacks: list[AttackName] = ["fgsm", "pgd20", "pgd100", "autoattack"]
    """Attacks on the selected checkpoint: names of attacks or suites, or an attack of your own as
    package.module:function. Each is run on every image that is classified correctly."""
    last_attacks: list[AttackName] = ["fgsm", "pgd20"]
    """Attacks on the last checkpoint, whose accuracies are reported beside."""
    suite: Literal["standard", "reference"] = "standard"
    """What `autoattack` is: `standard` runs AutoAttack's standard composition in this package's own
    attacks, which resume after a kill; `reference` runs the published package."""
    autoattack_images: int = Field(default=1000, ge=1)
    """AutoAttack runs on the first so many test images; tables print the number."""
    checks: Tier = "cheap"
    """Checks of the selected checkpoint: `all`, `cheap` (without those that attack the network
    themselves) or `none`."""
    autoattack_on: Literal["defended", "all"] = "defended"
    """`defended` leaves out networks trained without adversarial examples."""
    autoattack_datasets: list[str] | None = None
    """Datasets that AutoAttack, the costliest attack by far, runs on; null for all."""
    batch_size: int = Field(default=256, ge=1)
    """Images attacked together."""
    epsilon_curve: Annotated[list[Amount], Field(min_length=1)] = [
        0,
        "4/255",
        "8/255",
        "16/255",
        "32/255",
        1,
    ]
    """Budgets of the curve of accuracy against epsilon, rising, in input units; with linf, 1
    allows every image, so the accuracy there must be 0."""
    curve_images: int = Field(default=100, ge=1)
    """The curve is taken on the first so many test images."""

    def chosen(self, names: list[str], dataset: str, defended: bool) -> list[str]:
        """Return which of `attacks` or `last_attacks` run on a network, suites as their attacks.

        It was trained on `dataset`, and with adversarial examples if it is `defended`.
        """
        wanted = defended or self.autoattack_on == "all"
        if self.autoattack_datasets is not None:
            wanted &= dataset in self.autoattack_datasets
        parts = [[name] if name == AUTOATTACK else attack_names(name) for name in names]
        chosen = dict.fromkeys(part for names in parts for part in names)
        return [name for name in chosen if wanted or name != AUTOATTACK]

    @field_validator("attacks", "last_attacks")
    @classmethod
    def _each_once(cls, names: list[str]) -> list[str]:
        """Refuse an attack that is named twice."""
        if len(set(names)) < len(names):
            raise ValueError(f"it is {names}: name each attack once")
        return names

    @field_validator("epsilon_curve")
    @classmethod
    def _rising(cls, amounts: list[Amount]) -> list[Amount]:
        """Refuse budgets that do not rise."""
        values = [parse_amount(amount) for amount in amounts]
        if any(later <= earlier for earlier, later in itertools.pairwise(values)):
            raise ValueError(f"it is {amounts}: budgets must rise, each named once")
        return amounts


class BlackboxOptions(Options):
    """Attacks without knowledge of the network, on the test images."""

    steps: int = Field(default=20, ge=1)
    """PGD steps of epsilon / 4 that make each network's examples for the others."""
    square_queries: int = Field(default=1000, ge=1)
    """Most queries of Square for an image."""
    square_images: int = Field(default=1000, ge=1)
    """Square runs on the first so many test images."""
    batch_size: int = Field(default=256, ge=1)
    """Images attacked together."""
