"""Settings of the evaluation."""

from __future__ import annotations

import itertools
from typing import Annotated, Literal

from pydantic import Field, field_validator

from arnas.attacks.threat import Amount, parse_amount
from arnas.runtime.options import Options

AttackName = Literal["fgsm", "pgd20", "pgd100", "cw_inf", "apgd_ce", "autoattack"]


class WhiteboxOptions(Options):
    """Attacks with full knowledge of the network, on the test images."""

    attacks: list[AttackName] = ["fgsm", "pgd20", "pgd100", "autoattack"]
    """Attacks on the selected checkpoint."""
    last_attacks: list[AttackName] = ["fgsm", "pgd20"]
    """Attacks on the last checkpoint, whose figures are reported beside."""
    autoattack_images: int = Field(default=1000, ge=1)
    """AutoAttack runs on the first so many test images; tables print the number."""
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
    """The curve is taken on the first so many test images, with PGD-20."""

    def chosen(self, names: list[AttackName], dataset: str, defended: bool) -> list[AttackName]:
        """Return which of some attacks run on a network.

        Parameters
        ----------
        names
            `attacks` or `last_attacks`.
        dataset
            What the network was trained on.
        defended
            Whether it was trained with adversarial examples.
        """
        wanted = defended or self.autoattack_on == "all"
        if self.autoattack_datasets is not None:
            wanted &= dataset in self.autoattack_datasets
        return [name for name in names if wanted or name != "autoattack"]

    @field_validator("attacks", "last_attacks")
    @classmethod
    def _each_once(cls, names: list[AttackName]) -> list[AttackName]:
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
