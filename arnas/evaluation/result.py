"""What the evaluation of one model came to: accuracies, outcomes of every image, checks."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from pydantic import Field

from arnas.attacks.threat import Threat
from arnas.evaluation.statistics import Accuracy, Count, wilson
from arnas.runtime.errors import UserError, one_line

if TYPE_CHECKING:  # to read checks takes no torch
    from torch import Tensor

Combine = Literal["union", "each"]
Status = Literal["PASS", "WARN", "FAIL", "SKIP"]
Passes = Annotated[int, Field(ge=0, le=2**53)]
BROKEN, ROBUST, SKIPPED = 0, 1, 2
"""Outcomes of an image under an attack; skipped are those that it had no need to attack."""
FURTHER = "checks and curve"
"""Name of the outcomes of what the checks and the accuracy curve broke besides the suite."""
FORMAT = "arnas evaluation 2"
"""Of the record; raised by one when a reader of the present format could not read the next."""


class Check(NamedTuple):
    """The result of one check."""

    id: str
    status: Status
    evidence: str
    """What was measured, in words."""
    advice: str
    """What to do if it is not PASS."""


def failed_checks(checks: Iterable[Check]) -> list[str]:
    """Return the ids of the checks that failed; with one of them a row is kept out of rankings."""
    return [check.id for check in checks if check.status == "FAIL"]


def robust_images(outcomes: Mapping[str, Tensor]) -> Tensor:
    """Return which images were classified correctly and no attack broke, bool of shape (n,)."""
    return ~reduce(or_, (outcome == BROKEN for outcome in outcomes.values()))


def _no_curve() -> Tensor:
    """Return the outcomes of no image at no epsilon."""
    import torch

    return torch.empty((0, 0), dtype=torch.bool)


@dataclass(frozen=True)
class AttackResult:
    """What one attack of a suite left."""

    name: str
    settings: str
    """What defines it besides its name."""
    citation: str
    attacked: Count
    """Images that it was run on."""
    broken: Count
    """Images of those that it broke."""
    robust_accuracy: Accuracy
    """Share of all images that are robust to it and every attack before it."""
    forwards: Passes
    """Images that went through the model for it."""
    backwards: Passes
    """Images that it took gradients for."""

    @property
    def accuracy(self) -> float:
        """Return the robust accuracy after it and every attack before it, in percent."""
        return self.robust_accuracy.percent


@dataclass(frozen=True)
class EvalResult:
    """What `arnas.evaluate` returns."""

    threat: Threat
    suite: str
    clean_accuracy: Accuracy
    robust_accuracy: Accuracy
    """Images robust to every attack."""
    attacks: Mapping[str, AttackResult]
    """In the order in which they ran."""
    outcomes: Mapping[str, Tensor]
    """``clean`` and each attack's name to uint8 of shape (n,): 1 where the image is classified
    correctly or robust, 0 where it is wrong or was broken, 2 where it was skipped: it was wrong or,
    with ``union``, broken before."""
    labels: Tensor
    """int64 of shape (n,)."""
    x_adv: Tensor
    """float32 of shape (n, C, H, W) on the CPU: the example that broke an image, else the image."""
    checks: tuple[Check, ...]
    provenance: Mapping[str, Any]
    """What was evaluated and how, JSON values: digests of model and data, seed, versions, device,
    what a suite left out; no clock times, so that the same evaluation gives the same bytes."""
    curve: Mapping[str, Accuracy] = field(default_factory=dict)
    """Epsilon, as it was written, to the robust accuracy there; empty if none was asked for. Its n
    may be smaller: so many images, from the first."""
    combine: Combine = "union"
    """Whether attacks skipped the images that earlier ones broke, or each attacked all."""
    curve_robust: Tensor = field(default_factory=_no_curve)
    """bool of shape (epsilons, images of the curve): which images were robust there."""

    @property
    def n(self) -> int:
        """Return the number of images."""
        return len(self.labels)

    @property
    def clean(self) -> float:
        """Return the clean accuracy in percent."""
        return self.clean_accuracy.percent

    @property
    def robust(self) -> float:
        """Return the robust accuracy in percent: the union over all attacks, image by image."""
        return self.robust_accuracy.percent

    @property
    def robust_flags(self) -> Tensor:
        """Return which images are robust, bool of shape (n,)."""
        return robust_images(self.outcomes)

    @property
    def failed(self) -> list[str]:
        """Return the names of the checks that failed."""
        return failed_checks(self.checks)

    @property
    def reliable(self) -> bool:
        """Return whether no check failed."""
        return not self.failed

    def summary(self) -> str:
        """Return in a sentence or two how robust the model is, and whether that can be trusted."""
        robust, threat = self.robust_accuracy, self.threat
        text = (
            f"Of {self.n} images, {robust.percent:.1f} % (95 % interval {robust.low:.1f} to "
            f"{robust.high:.1f}) are classified correctly however the attacks change them within "
            f"{threat}; without attack it is {self.clean:.1f} %."
        )
        if not self.reliable:
            return f"{text} Do not rely on this number: {', '.join(self.failed)} failed."
        if not self.checks:
            return f"{text} No check was run, so nothing shows whether the number can be relied on."
        return f"{text} No check found a reason not to rely on this number."

    def per_class(self) -> dict[int, tuple[Accuracy, Accuracy]]:
        """Return each class's clean and robust accuracy, for the classes that have images."""
        robust, clean = self.robust_flags, self.outcomes["clean"] == ROBUST
        found = {}
        for label in sorted(set(self.labels.tolist())):
            of_class = self.labels == label
            n = int(of_class.sum())
            found[label] = (
                wilson(int(clean[of_class].sum()), n),
                wilson(int(robust[of_class].sum()), n),
            )
        return found

    def to_json(self) -> str:
        """Return everything but the examples as JSON text; the same evaluation, the same text."""
        return json.dumps(to_record(self), indent=2, sort_keys=True)


def to_record(evaluation: EvalResult) -> dict[str, Any]:
    """Return an evaluation without its examples as JSON values.

    Outcomes are one digit for each image, as in `EvalResult.outcomes`; labels are numbers with
    spaces between. Attacks and budgets are lists: a JSON file sorts its keys.

    Raises
    ------
    UserError
        When the provenance holds something that JSON has no word for.
    """
    found: dict[str, Any] = {
        "format": FORMAT,
        "threat": {
            "norm": evaluation.threat.norm,
            "epsilon": evaluation.threat.epsilon,
            "text": str(evaluation.threat),
        },
        "suite": evaluation.suite,
        "combine": evaluation.combine,
        "n": evaluation.n,
        "clean": evaluation.clean_accuracy._asdict(),
        "robust": evaluation.robust_accuracy._asdict(),
        "reliable": evaluation.reliable,
        "attacks": [
            {**vars(result), "robust_accuracy": result.robust_accuracy._asdict()}
            for result in evaluation.attacks.values()
        ],
        "outcomes": {name: _digits(flags) for name, flags in evaluation.outcomes.items()},
        "labels": " ".join(str(label) for label in evaluation.labels.tolist()),
        "per_class": [
            {"label": label, "clean": clean._asdict(), "robust": robust._asdict()}
            for label, (clean, robust) in evaluation.per_class().items()
        ],
        "worst_class": worst_class(evaluation),
        "checks": [check._asdict() for check in evaluation.checks],
        "curve": [
            {"epsilon": epsilon, "accuracy": accuracy._asdict()}
            for epsilon, accuracy in evaluation.curve.items()
        ],
        "provenance": dict(evaluation.provenance),
    }
    return plain_json(found)


def worst_class(evaluation: EvalResult) -> int:
    """Return the class with the lowest robust accuracy, of equals the one with the lowest label."""
    classes = evaluation.per_class()
    return min(classes, key=lambda label: (classes[label][1].percent, label))


def _digits(flags: Tensor) -> str:
    """Return outcomes as a digit for each image."""
    return "".join(map(str, flags.tolist()))


def plain_json(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return values as a JSON file gives them back: tuples as lists, text without half letters.

    Raises
    ------
    UserError
        When one of them is no JSON value, such as NaN.
    """
    try:
        text = json.dumps(found, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"the evaluation cannot be written as JSON ({one_line(error)}): its provenance may "
            "hold text, finite numbers, lists and mappings only."
        ) from None
    plain: dict[str, Any] = json.loads(text.encode("utf-8", "replace"))
    return plain
