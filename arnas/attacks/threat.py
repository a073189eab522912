"""Threat models: a norm and a budget in input units, where pixels are in [0, 1]."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from arnas.runtime.errors import UserError
from arnas.runtime.options import Options

Norm = Literal["linf", "l2"]
"""What settings allow: training and search know these two."""
NORMS = ("linf", "l2", "l1")
GREY_LEVELS = 255


class Epsilon(float):
    """A distance in input units that remembers how it was written, as ``8/255``."""

    text: str

    def __new__(cls, value: float, text: str = "") -> Epsilon:
        """Return the distance; by default it was written as the number itself."""
        made = super().__new__(cls, value)
        made.text = text or f"{value:g}"
        return made


SMALLEST = 1e-30
"""Smallest distance that is taken for one, with room for its products in float32."""


def parse_amount(value: float | str) -> Epsilon:
    """Return a distance in input units from a number, ``8/255``, ``0.0314`` or ``8px``.

    Parameters
    ----------
    value
        A number is taken as it is; text may be a decimal, a fraction, or grey levels of 255 with
        the unit ``px``.

    Raises
    ------
    UserError
        When it cannot be read, is negative or not finite, or so small that float32 has 0 for it.
    """
    amount = _distance(value)
    if 0 < amount < SMALLEST:
        raise UserError(f"'{value}' is 0 in float32: write 0, or at least {SMALLEST:.0e}.")
    return amount


def _distance(value: float | str) -> Epsilon:
    """Return a distance, however small: budgets that are computed may end near 0."""
    if isinstance(value, Epsilon):
        return value
    try:
        if isinstance(value, str):
            text = value.strip()
            levels = text.endswith("px")
            number, *divisors = text.removesuffix("px").replace(" ", "").split("/")
            (divisor,) = divisors or ["1"]
            amount = float(Fraction(number) / Fraction(divisor))
            amount = amount / GREY_LEVELS if levels else amount
        else:
            amount = float(value)
    except (ValueError, ZeroDivisionError, OverflowError):
        amount = math.nan
    if not (math.isfinite(amount) and amount >= 0):
        raise UserError(
            f"'{value}' is not a distance: write a fraction such as 8/255, a number in input "
            "units such as 0.0314, or grey levels such as 8px."
        )
    return Epsilon(amount, str(value).strip())


def check_epsilon(norm: str, epsilon: float | str) -> Epsilon:
    """Return `epsilon` in input units, refusing a Linf budget that only fits another unit."""
    amount = parse_amount(epsilon) if isinstance(epsilon, str) else _distance(epsilon)
    if norm == "linf" and amount > 1:
        raise UserError(
            f"epsilon is {epsilon}: pixels are in [0, 1], so a linf budget lies between 0 and 1"
            + (f"; write {amount:g}/255 if grey levels are meant." if 1 < amount <= 255 else ".")
        )
    return amount


@dataclass(frozen=True)
class Threat:
    """What an attacker may do: move an image by at most `epsilon` in `norm`, within [0, 1].

    Raises
    ------
    UserError
        For an unknown norm or an impossible epsilon.
    """

    norm: str
    """``linf``, ``l2`` or ``l1``."""
    epsilon: float
    """Budget in input units; text such as ``8/255`` is read by `parse_amount`."""

    def __post_init__(self) -> None:
        if self.norm not in NORMS:
            raise UserError(f"norm is '{self.norm}': allowed are {', '.join(NORMS)}.")
        object.__setattr__(self, "epsilon", check_epsilon(self.norm, self.epsilon))

    def __str__(self) -> str:
        """Return the budget in three units, as in ``8/255 = 0.031373 = 8 of 255, linf``."""
        levels = self.epsilon * GREY_LEVELS
        fraction = Fraction(self.epsilon).limit_denominator(GREY_LEVELS)
        if abs(levels - round(levels)) < 1e-6:
            ratio = f"{round(levels)}/{GREY_LEVELS}"
        elif abs(float(fraction) - self.epsilon) < 1e-9:
            ratio = str(fraction)
        else:
            ratio = f"{levels:.4g}/{GREY_LEVELS}"
        return f"{ratio} = {self.epsilon:.6g} = {levels:.4g} of 255, {self.norm}"


def unbounded(norm: str, pixels: int) -> Threat:
    """Return the budget that allows every image of so many values: the diagonal of the box."""
    return Threat(norm, {"linf": 1.0, "l2": pixels**0.5, "l1": float(pixels)}[norm])


def parse_threat(text: str) -> Threat:
    """Return the threat model written as ``linf:8/255``, ``l2:0.5`` or ``l1:12``.

    Raises
    ------
    UserError
        When it is not a norm and a budget, or the budget only fits another unit.
    """
    norm, colon, amount = text.strip().partition(":")
    if not colon:
        raise UserError(
            f"'{text}' is not a threat model: write norm and budget, as in linf:8/255, l2:0.5 or "
            "l1:12."
        )
    norm = norm.strip().lower()
    return Threat(norm, check_epsilon(norm, amount))


def _amount_is_readable(value: float | str) -> float | str:
    """Validate without converting: settings keep what the user wrote."""
    parse_amount(value)
    return value


Amount = Annotated[float | str, AfterValidator(_amount_is_readable)]
"""A distance in settings: 0.1, 8/255 or 8px."""


def _epsilon_fits(value: ThreatOptions) -> ThreatOptions:
    """Refuse a budget that the norm does not allow."""
    value.threat()
    return value


def _step_is_small(value: float | str) -> float | str:
    """Refuse a step that only fits another unit."""
    amount = parse_amount(value)
    if amount > 1:
        raise ValueError(
            f"a step of {amount:g} crosses the whole range of pixels, which are in [0, 1]: write "
            f"{amount:g}/255 if grey levels are meant"
        )
    return value


StepSize = Annotated[Amount, AfterValidator(_step_is_small)]
"""Length of an attack's step in settings."""


class ThreatOptions(Options):
    """The threat model of one dataset, used by search, training and attacks alike."""

    norm: Norm = "linf"
    """Norm of the perturbation."""
    epsilon: Amount = Field()
    """Budget in input units: 8/255, 0.1 or 8px."""

    def threat(self) -> Threat:
        """Return the threat model that the settings name."""
        return Threat(self.norm, check_epsilon(self.norm, self.epsilon))


CheckedThreat = Annotated[ThreatOptions, AfterValidator(_epsilon_fits)]
"""A threat model in settings whose budget fits its norm."""
