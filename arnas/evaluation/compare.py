"""Which of two models is better, judged on the images that only one of them gets right.

Both are evaluated on the same images, so their outcomes are paired: images that both get right, or
neither, say nothing of the difference. Two intervals that overlap may belong to models that differ
clearly, image by image.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from scipy.stats import binomtest
from torch import Tensor

from arnas.evaluation.record import mixed_units
from arnas.evaluation.result import ROBUST, EvalResult
from arnas.evaluation.statistics import wilson
from arnas.runtime.errors import UserError

LEVEL = 0.05
"""A difference that chance brings about more rarely than so is called one."""


class Paired(NamedTuple):
    """Two models on the same images."""

    both: int
    """Images that both get right."""
    only_first: int
    only_second: int
    neither: int
    difference: float
    """First minus second accuracy, in points."""
    low: float
    """Ends of its 95 % interval, in points."""
    high: float
    p_value: float
    """Of the exact two-sided test that the two are equally accurate."""

    @property
    def significant(self) -> bool:
        """Return whether the test rejects at 5 %."""
        return self.p_value < LEVEL


@dataclass(frozen=True)
class Comparison:
    """Two evaluations beside each other."""

    names: tuple[str, str]
    clean: Paired
    robust: Paired
    better: str | None
    """The name of the model with the higher robust accuracy, where the difference is significant
    and the figures may be ranked."""
    summary: str
    """The same in one sentence."""
    notes: tuple[str, ...] = ()
    """What to keep in mind, in sentences."""


def mcnemar(only_first: int, only_second: int) -> float:
    """Return the p-value of the exact McNemar test, two-sided.

    Under equal accuracies each image that only one of the two gets right is either one's with
    probability a half (McNemar, Psychometrika 1947).
    """
    discordant = only_first + only_second
    return float(binomtest(only_first, discordant, 0.5).pvalue) if discordant else 1.0


def paired_interval(
    both: int, only_first: int, only_second: int, neither: int
) -> tuple[float, float]:
    """Return the 95 % interval of the difference of two paired accuracies, in points.

    Wilson's intervals of the two, joined by their correlation: method 10 of Newcombe (Statistics
    in Medicine 17, 1998, pages 2635 to 2650). It stays within -100 and 100 and has a width where
    no image is discordant, both unlike the interval of Wald. At least one image is needed.
    """
    n = both + only_first + only_second + neither
    first, second = wilson(both + only_first, n), wilson(both + only_second, n)
    covariance = float(both * neither - only_first * only_second)
    if covariance > 0:  # the correction for continuity that makes it method 10 and not 8
        covariance = max(covariance - n / 2, 0)
    spread = math.prod((first.correct, n - first.correct, second.correct, n - second.correct))
    correlation = covariance / math.sqrt(spread) if spread else 0.0

    def distance(one: float, other: float) -> float:
        return math.sqrt(max(one**2 - 2 * correlation * one * other + other**2, 0))

    difference = first.percent - second.percent
    return (
        difference - distance(first.percent - first.low, second.high - second.percent),
        difference + distance(first.high - first.percent, second.percent - second.low),
    )


def compare_outcomes(first: Tensor, second: Tensor) -> Paired:
    """Compare two models by the images they get right: bool of shape (n,), n from 1 up."""
    counts = (
        int((first & second).sum()),
        int((first & ~second).sum()),
        int((~first & second).sum()),
        int((~first & ~second).sum()),
    )
    difference = 100 * (counts[1] - counts[2]) / len(first)
    interval = paired_interval(*counts)
    return Paired(*counts, difference, *interval, mcnemar(counts[1], counts[2]))


def compare_records(
    first: EvalResult,
    second: EvalResult,
    *,
    names: tuple[str, str] = ("the first", "the second"),
    allow_flagged: bool = False,
    allow_suites: bool = False,
) -> Comparison:
    """Compare two models that were evaluated on the same images under the same threat.

    Parameters
    ----------
    first, second
        Their evaluations, as `arnas.evaluation.record.read_record` returns them.
    names
        What to call them.
    allow_flagged
        Whether an evaluation with a failed check may be ranked.
    allow_suites
        Whether they may have been attacked with different suites.

    Raises
    ------
    UserError
        When images, labels, threats or suites differ.
    """
    check_comparable(first, second, allow_suites)
    clean = compare_outcomes(first.outcomes["clean"] == ROBUST, second.outcomes["clean"] == ROBUST)
    robust = compare_outcomes(first.robust_flags, second.robust_flags)
    flagged = [
        name
        for name, found in zip(names, (first, second), strict=True)
        if not (found.reliable or allow_flagged)
    ]
    better = None
    if robust.significant and not flagged:
        better = names[0] if robust.difference > 0 else names[1]
    return Comparison(
        names, clean, robust, better, _summary(names, robust, flagged), _notes(names, first, second)
    )


def check_comparable(first: EvalResult, second: EvalResult, allow_suites: bool = False) -> None:
    """Raise unless two evaluations are of the same images, threat and suite.

    Raises
    ------
    UserError
        With the first difference.
    """
    if first.n != second.n:
        raise _different("numbers of images", first.n, second.n, "evaluate both on the same images")
    mixed = mixed_units((first, second))
    if mixed:
        raise UserError(f"The evaluations cannot be compared. {mixed}")
    for key, what in (("data_sha256", "images"), ("indices_sha256", "places in the dataset")):
        own, other = first.provenance.get(key), second.provenance.get(key)
        if own != other:
            way_out = "evaluate both on the same images"
            raise _different(f"{what} ({key})", _short(own), _short(other), way_out)
    if first.provenance.get("data_sha256") is None:
        raise UserError(
            "The evaluations cannot be compared, for neither names the digest of its images "
            "(data_sha256), so nothing shows that they are the same: run both again."
        )
    if not torch.equal(first.labels, second.labels):
        count = int((first.labels != second.labels).sum())
        raise UserError(
            f"The evaluations cannot be compared, for {count} of {first.n} labels differ: evaluate "
            "both on the same images."
        )
    if first.suite != second.suite and not allow_suites:
        way_out = "use one suite, or allow different suites, of which the weaker flatters its model"
        raise _different("suites", first.suite, second.suite, way_out)


def _short(digest: object) -> str:
    """Return the beginning of a digest, or what stands in its place."""
    return "none" if digest is None else str(digest)[:12]


def _different(what: str, own: object, other: object, way_out: str) -> UserError:
    """Return what to say of two evaluations that do not belong together."""
    return UserError(
        f"The evaluations cannot be compared, for their {what} differ, {own} and {other}: "
        f"{way_out}."
    )


def _summary(names: tuple[str, str], robust: Paired, flagged: list[str]) -> str:
    """Return what came out in one sentence."""
    if flagged:
        return (
            f"Not ranked: a check failed in the evaluation of {' and of '.join(flagged)}, so that "
            "its robust accuracy cannot be relied on."
        )
    figures = (
        f"{abs(robust.difference):.2f} points of robust accuracy ({names[0]} minus {names[1]}: "
        f"95 % interval {robust.low:.2f} to {robust.high:.2f}, {robust.only_first} images against "
        f"{robust.only_second}, exact McNemar p = {robust.p_value:.2g})"
    )
    if not robust.significant:
        return f"No difference that chance would not explain: {figures}."
    winner = names[0] if robust.difference > 0 else names[1]
    return f"{winner} is better by {figures}."


def _notes(names: tuple[str, str], first: EvalResult, second: EvalResult) -> tuple[str, ...]:
    """Return what a reader of the comparison should know."""
    found = []
    own = first.provenance.get("model_sha256")
    if own is not None and own == second.provenance.get("model_sha256"):
        found.append("Both evaluations are of the same weights.")
    if first.suite != second.suite:
        found.append(
            f"They were attacked with different suites, {first.suite} and {second.suite}: the "
            "weaker one flatters its model."
        )
    for name, evaluation in zip(names, (first, second), strict=True):
        if evaluation.failed:
            found.append(f"Checks that failed for {name}: {', '.join(evaluation.failed)}.")
    return tuple(found)
