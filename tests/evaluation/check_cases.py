"""Trials of the checks before the attack, and their verdicts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from broken_models import (
    THREAT,
    images_of,
    trained,
    trial_of,
)
from torch import Tensor, nn

from arnas.evaluation.checks.context import CheckContext
from arnas.evaluation.checks.model import MODEL_CHECKS
from arnas.evaluation.checks.run import Check

USUAL = {"clean_accuracy_recorded": "SKIP", "test_subset": "WARN"}
"""What every trial of these tests has: nothing is recorded, and there are 360 images only."""


def verdicts(trial: CheckContext) -> dict[str, Check]:
    return {name: check(trial) for name, check in MODEL_CHECKS.items()}


def odd_ones(trial: CheckContext) -> dict[str, str]:
    """Return id to status of the checks that are neither PASS nor as for every trial."""
    found = {name: check.status for name, check in verdicts(trial).items()}
    return {n: s for n, s in found.items() if s != "PASS" and USUAL.get(n) != s}


def of_model(model: nn.Module, **changes: Any) -> CheckContext:
    x, y = images_of("cnn")
    usual = {"threat": THREAT, "suite": "standard", "seed": 0, "batch_size": 128}
    return CheckContext(model, x, y, **(usual | changes))


def on_digits(name: str, **changes: Any) -> Check:
    return MODEL_CHECKS[name](trial_of("cnn", **changes))


class Stated(nn.Module):
    """The small CNN inside a forward pass that a test writes."""

    def __init__(self, act: Callable[[nn.Module, nn.Module, Tensor], Any]) -> None:
        super().__init__()
        self.inner, self.act = trained("cnn"), act
        self.register_buffer("seen", torch.zeros(1))
        self.eval()

    def forward(self, x: Tensor) -> Any:
        return self.act(self, self.inner, x)
