"""Numbers and names in words, the same in every table, page and message."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from arnas.attacks.registry import ATTACKS
from arnas.evaluation.statistics import Accuracy

if TYPE_CHECKING:
    import pandas as pd

UNION = "union"
"""Name of the robustness under all attacks that ran on every image, image by image."""


def in_registry_order(names: Iterable[str]) -> list[str]:
    """Return attacks from weak to strong: clean, the registry's, any others, and the union."""
    given = list(dict.fromkeys(names))
    known = ["clean", *ATTACKS]
    others = [name for name in given if name not in known and name != UNION]
    return [name for name in [*known, *others, UNION] if name in given]


def percent(accuracy: Accuracy, digits: int = 2) -> str:
    """Return an accuracy without its interval: 50.00 %."""
    return f"{accuracy.percent:.{digits}f} %"


def interval(accuracy: Accuracy, digits: int = 2) -> str:
    """Return the interval of an accuracy: 23.66 to 76.34."""
    return f"{accuracy.low:.{digits}f} to {accuracy.high:.{digits}f}"


def accuracy_text(accuracy: Accuracy) -> str:
    """Return an accuracy with its interval: 50.00 % [23.66, 76.34]."""
    return f"{percent(accuracy)} [{accuracy.low:.2f}, {accuracy.high:.2f}]"


class Estimate(NamedTuple):
    """An accuracy of one seed with its interval, or the mean of several with mean ± deviation."""

    mean: float
    low: float
    high: float
    seeds: int

    @property
    def value(self) -> str:
        """Return the accuracy, with its deviation over several seeds."""
        spread = f" ± {self.high - self.mean:.1f}" if self.seeds > 1 else ""
        return f"{self.mean:.1f}{spread}"

    @property
    def basis(self) -> str:
        """Return what the uncertainty rests on."""
        return f"({self.seeds} seeds)" if self.seeds > 1 else f"[{self.low:.1f}, {self.high:.1f}]"

    def __str__(self) -> str:
        """Return both in one text."""
        return f"{self.value} % {self.basis}"


def estimate(rows: pd.DataFrame) -> Estimate:
    """Return the accuracy of a network from its table rows, one for each seed."""
    mean = float(rows["accuracy"].mean())
    if len(rows) == 1:
        return Estimate(mean, float(rows["ci_low"].iloc[0]), float(rows["ci_high"].iloc[0]), 1)
    deviation = float(rows["accuracy"].std())
    return Estimate(mean, mean - deviation, mean + deviation, len(rows))


def join(parts: Sequence[str]) -> str:
    """Return parts as an enumeration: a, b and c."""
    return f"{', '.join(parts[:-1])} and {parts[-1]}" if len(parts) > 1 else "".join(parts)
