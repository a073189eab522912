"""Trials with the outcomes of a small suite, made by hand, for the checks after the attacks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from broken_models import trial_of
from torch import Tensor

from arnas.attacks.objectives import cross_entropy, margin
from arnas.attacks.oracle import misclassified
from arnas.attacks.pgd import pgd
from arnas.attacks.threat import Threat
from arnas.evaluation.checks.context import CheckContext
from arnas.evaluation.checks.examples import ATTACK_CHECKS
from arnas.evaluation.checks.run import Check
from arnas.evaluation.result import BROKEN, ROBUST, SKIPPED, AttackResult
from arnas.evaluation.statistics import wilson

STRENGTH = (
    "attack_converged",
    "unbounded_attack",
    "margin_against_entropy",
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

    def attack(trial: CheckContext, x: Tensor, y: Tensor) -> Tensor:
        return pgd(
            trial.model,
            x,
            y,
            trial.threat,
            steps=steps,
            objective=objective,
            random_start=random_start,
        )

    return attack


def nothing(trial: CheckContext, x: Tensor, y: Tensor) -> Tensor:
    """Attack in name only."""
    return x


SMALL_SUITE: dict[str, Attack] = {"pgd": by_pgd(), "pgd_margin": by_pgd(margins=True)}


def finish(trial: CheckContext, attacks: Mapping[str, Attack] = SMALL_SUITE) -> CheckContext:
    """Run attacks on the images that stand and enter what they came to, as a suite does."""
    x, y = trial.x, trial.y
    standing = ~misclassified(trial.logits(x), y)
    x_adv, results = x.clone(), {}
    outcomes = {"clean": standing.to(torch.uint8)}
    for name, attack in attacks.items():
        left = standing.nonzero().flatten()
        found = attack(trial, x[left], y[left]) if len(left) else x[left]
        fell = misclassified(trial.logits(found), y[left]) if len(left) else left.bool()
        x_adv[left[fell]] = found[fell]
        outcome = torch.full_like(y, SKIPPED).to(torch.uint8)
        outcome[left] = torch.where(fell, BROKEN, ROBUST).to(torch.uint8)
        outcomes[name] = outcome
        standing = standing & (outcome == ROBUST)
        results[name] = AttackResult(
            name,
            "made by hand",
            "a test",
            len(left),
            int(fell.sum()),
            wilson(int(standing.sum()), len(y)),
            0,
            0,
        )
    trial.outcomes, trial.attacks, trial.x_adv = outcomes, results, x_adv.float()
    return trial


def attacked_trial(
    name: str,
    *,
    epsilon: float = 0.1,
    norm: str = "linf",
    attacks: Mapping[str, Attack] = SMALL_SUITE,
    **changes: Any,
) -> CheckContext:
    """Return a trial of an honest or broken model after the small suite."""
    return finish(trial_of(name, threat=Threat(norm, epsilon), **changes), attacks)


def verdict(name: str, trial: CheckContext) -> Check:
    """Return the verdict of one check after the attacks."""
    check = ATTACK_CHECKS[name](trial)
    assert check.id == name
    return check
