"""Settings of the evaluation."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

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
    batch_size: int = Field(default=256, ge=1)
    """Images attacked together."""

    @field_validator("attacks", "last_attacks")
    @classmethod
    def _each_once(cls, names: list[AttackName]) -> list[AttackName]:
        """Refuse an attack that is named twice."""
        if len(set(names)) < len(names):
            raise ValueError(f"it is {names}: name each attack once")
        return names
