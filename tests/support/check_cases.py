"""Contexts for the checks: before any attack, and after a small suite whose outcomes are made here.

The models are those of `broken_models`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from broken_models import THREAT, context_of, images_of, trained
from torch import Tensor, nn

from arnas.attacks.objectives import cross_entropy, margin
from arnas.attacks.oracle import misclassified
from arnas.attacks.pgd import pgd
from arnas.attacks.threat import Threat
from arnas.evaluation.checks import CHECKS, run_check
from arnas.evaluation.checks.base import CheckContext
from arnas.evaluation.result import BROKEN, ROBUST, SKIPPED, AttackResult, Check
from arnas.evaluation.statistics import wilson

MODEL_CHECKS, ATTACK_CHECKS = (
    tuple(name for name, entry in CHECKS.items() if entry.phase == phase)
    for phase in ("model", "attacks")
)
USUAL = {"clean_accuracy_recorded": "SKIP", "test_subset": "WARN"}
"""What every context of these tests has: nothing is recorded, and there are 360 images only."""


def model_checks(context: CheckContext) -> dict[str, Check]:
    return {name: run_check(name, context) for name in MODEL_CHECKS}


def odd_ones(context: CheckContext) -> dict[str, str]:
    """Return id to status of the checks that are neither PASS nor as for every context."""
    found = {name: check.status for name, check in model_checks(context).items()}
    return {n: s for n, s in found.items() if s != "PASS" and USUAL.get(n) != s}


def of_model(model: nn.Module, **changes: Any) -> CheckContext:
    x, y = images_of("cnn")
    usual = {"threat": THREAT, "suite": "standard", "seed": 0, "batch_size": 128}
    return CheckContext(model, x, y, **(usual | changes))


def on_digits(name: str, **changes: Any) -> Check:
    return run_check(name, context_of("cnn", **changes))


class Stated(nn.Module):
    """The small CNN inside a forward pass that a test writes."""

    def __init__(self, act: Callable[[nn.Module, nn.Module, Tensor], Any]) -> None:
        super().__init__()
        self.inner, self.act = trained("cnn"), act
        self.register_buffer("seen", torch.zeros(1))
        self.eval()

    def forward(self, x: Tensor) -> Any:
        return self.act(self, self.inner, x)


STRENGTH = (
    "attack_converged",
    "unbounded_attack",
    "margin_against_entropy",
    "smoothed_gradient",
    "blackbox",
    "random_corners",
    "silent_success",
    "loss_still_rising",
)
"""Checks that attack again."""
Attack = Callable[[CheckContext, Tensor, Tensor], Tensor]
"""CheckContext, images and labels to adversarial examples."""


def by_pgd(steps: int = 20, margins: bool = False, random_start: bool = True) -> Attack:
    """Return PGD from one random start."""
    objective = margin if margins else cross_entropy

    def attack(context: CheckContext, x: Tensor, y: Tensor) -> Tensor:
        return pgd(
            context.model,
            x,
            y,
            context.threat,
            steps=steps,
            objective=objective,
            random_start=random_start,
        )

    return attack


def nothing(context: CheckContext, x: Tensor, y: Tensor) -> Tensor:
    """Attack in name only."""
    return x


SMALL_SUITE: dict[str, Attack] = {"pgd": by_pgd(), "pgd_margin": by_pgd(margins=True)}


def finish(context: CheckContext, attacks: Mapping[str, Attack] = SMALL_SUITE) -> CheckContext:
    """Run attacks on the images that stand and enter what they came to, as a suite does."""
    x, y = context.x, context.y
    robust = ~misclassified(context.logits(x), y)
    x_adv, results = x.clone(), {}
    outcomes = {"clean": robust.to(torch.uint8)}
    for name, attack in attacks.items():
        left = robust.nonzero().flatten()
        found = attack(context, x[left], y[left]) if len(left) else x[left]
        fell = misclassified(context.logits(found), y[left]) if len(left) else left.bool()
        x_adv[left[fell]] = found[fell]
        outcome = torch.full_like(y, SKIPPED).to(torch.uint8)
        outcome[left] = torch.where(fell, BROKEN, ROBUST).to(torch.uint8)
        outcomes[name] = outcome
        robust = robust & (outcome == ROBUST)
        results[name] = AttackResult(
            name,
            "made by hand",
            "a test",
            len(left),
            int(fell.sum()),
            wilson(int(robust.sum()), len(y)),
            0,
            0,
        )
    context.outcomes, context.attacks, context.x_adv = outcomes, results, x_adv.float()
    return context


def attacked_context(
    name: str,
    *,
    epsilon: float = 0.1,
    norm: str = "linf",
    attacks: Mapping[str, Attack] = SMALL_SUITE,
    **changes: Any,
) -> CheckContext:
    """Return a context of an honest or broken model after the small suite."""
    return finish(context_of(name, threat=Threat(norm, epsilon), **changes), attacks)
