"""What the evaluation of one model came to: accuracies, outcomes of every image, checks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from arnas.attacks.threat import Threat
from arnas.evaluation.checks.base import Check, failed_checks
from arnas.evaluation.statistics import Accuracy, wilson

BROKEN, ROBUST, SKIPPED = 0, 1, 2
"""Outcomes of an image under an attack; spared are those that had fallen before it."""


def withstood(outcomes: Mapping[str, Tensor]) -> Tensor:
    """Return which images were correct and withstood every attack, bool of shape (n,)."""
    return torch.stack([outcome == ROBUST for outcome in outcomes.values()]).all(0)


@dataclass(frozen=True)
class AttackResult:
    """What one attack of a suite left."""

    name: str
    settings: str
    """What defines it besides its name."""
    citation: str
    attacked: int
    """Images that it was run on."""
    broken: int
    """Images of those that it broke."""
    standing: Accuracy
    """Share of all images that withstood it and every attack before it."""
    forwards: int
    """Images that went through the model for it."""
    backwards: int
    """Images that it took gradients for."""

    @property
    def accuracy(self) -> float:
        """Return the robust accuracy after it and every attack before it, in percent."""
        return self.standing.percent


@dataclass(frozen=True)
class EvalResult:
    """What `arnas.evaluate` returns."""

    threat: Threat
    suite: str
    clean_accuracy: Accuracy
    robust_accuracy: Accuracy
    """Images that withstood every attack."""
    attacks: Mapping[str, AttackResult]
    """In the order in which they ran."""
    outcomes: Mapping[str, Tensor]
    """``clean`` and each attack's name to uint8 of shape (n,): 1 where the image is classified
    correctly or withstood, 0 where not, 2 where it was spared because it had fallen before."""
    labels: Tensor
    """int64 of shape (n,)."""
    x_adv: Tensor
    """float32 of shape (n, C, H, W) on the CPU: the example that broke an image, else the image."""
    checks: tuple[Check, ...]
    provenance: Mapping[str, Any]
    """What was evaluated and how, JSON values: digests of model and data, seed, versions, device,
    what a suite left out; no clock times, so that the same evaluation gives the same bytes."""
    curve: Mapping[str, Accuracy] = field(default_factory=dict)
    """Epsilon, as it was written, to the robust accuracy there; empty if none was asked for."""

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
        """Return which images withstood everything, bool of shape (n,)."""
        return withstood(self.outcomes)

    @property
    def failed(self) -> list[str]:
        """Return the names of the checks that failed."""
        return failed_checks(self.checks)

    @property
    def reliable(self) -> bool:
        """Return whether no check failed."""
        return not self.failed

    def per_class(self) -> dict[int, tuple[Accuracy, Accuracy]]:
        """Return each class's clean and robust accuracy, for the classes that have images."""
        stood, clean = self.robust_flags, self.outcomes["clean"] == ROBUST
        found = {}
        for label in sorted(set(self.labels.tolist())):
            of_class = self.labels == label
            n = int(of_class.sum())
            found[label] = (
                wilson(int(clean[of_class].sum()), n),
                wilson(int(stood[of_class].sum()), n),
            )
        return found

    def to_json(self) -> str:
        """Return everything but the examples as JSON text; the same evaluation, the same text."""
        from arnas.evaluation.record import to_record  # which builds on this file

        return json.dumps(to_record(self), indent=2, sort_keys=True)
