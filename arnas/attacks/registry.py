"""Attacks by name, as tables quote them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from arnas.attacks.apgd import apgd_batch
from arnas.attacks.eval_mode import frozen_eval
from arnas.attacks.objectives import Objective, cross_entropy, margin
from arnas.attacks.oracle import Oracle
from arnas.attacks.pgd import fgsm, pgd
from arnas.attacks.projection import random_perturbation
from arnas.attacks.reference import autoattack
from arnas.attacks.threat import Threat

_MADRY = "Madry et al., ICLR 2018, arXiv 1706.06083"
_CARLINI = "Carlini and Wagner, S&P 2017, arXiv 1608.04644; as PGD in the ball"
_CROCE = "Croce and Hein, ICML 2020, arXiv 2003.01690"

Run = Callable[[nn.Module, Tensor, Tensor, Threat, Tensor], Tensor]
"""``(model, x, y, threat, unit) -> x_adv``; `unit` holds numbers uniform in [0, 1] of x's shape,
drawn for each image by itself."""


@dataclass(frozen=True)
class AttackEntry:
    """A registry entry."""

    run: Run
    settings: str
    """What defines the attack besides its name."""
    citation: str
    label: str
    """How tables and figures write its name."""
    steps: int | None = None
    """Gradient steps of an iterative attack whose steps have a fixed length."""
    step_size_over_epsilon: float | None = None
    """Length of such a step over epsilon."""
    limited: bool = False
    """Whether it runs on the first `whitebox.autoattack_images` images only."""
    gradients: int = 0
    """Backward passes that an image costs at most, which is when it withstands the attack; for
    `python -m arnas cost`, as is the next."""
    forwards: int = 0
    """Forward passes likewise, those before a backward pass included."""


def _fgsm(model: nn.Module, x: Tensor, y: Tensor, threat: Threat, unit: Tensor) -> Tensor:
    return fgsm(model, x, y, threat)


def _apgd_ce(model: nn.Module, x: Tensor, y: Tensor, threat: Threat, unit: Tensor) -> Tensor:
    numbers = unit if threat.norm == "linf" else torch.special.ndtri(unit.clamp(1e-6, 1 - 1e-6))
    with frozen_eval(model):
        return apgd_batch(Oracle(model, max(len(x), 1)), x, y, threat, numbers).x_adv


def _autoattack(model: nn.Module, x: Tensor, y: Tensor, threat: Threat, unit: Tensor) -> Tensor:
    return autoattack(model, x, y, threat)


def _pgd(
    steps: int,
    label: str,
    objective: Objective,
    name: str = "cross-entropy",
    citation: str = _MADRY,
) -> AttackEntry:
    """Return PGD with the step of a quarter epsilon that 2/255 is at 8/255 (arXiv 2405.05502)."""

    def run(model: nn.Module, x: Tensor, y: Tensor, threat: Threat, unit: Tensor) -> Tensor:
        return pgd(
            model,
            x,
            y,
            threat,
            steps=steps,
            step_size=threat.epsilon / 4,
            start=random_perturbation(unit, threat),
            keep="best",
            stop_when_broken=True,
            objective=objective,
        )

    settings = f"{steps} steps of epsilon/4 on the {name}, one uniform start, best iterate"
    return AttackEntry(
        run, settings, citation, label, steps, 0.25, gradients=steps, forwards=steps + 1
    )


ATTACKS: dict[str, AttackEntry] = {
    "fgsm": AttackEntry(
        _fgsm,
        "one step of epsilon, no random start, kept where it raises the loss",
        "Goodfellow et al., ICLR 2015, arXiv 1412.6572",
        "FGSM",
        gradients=1,
        forwards=2,
    ),
    "pgd20": _pgd(20, "PGD-20", cross_entropy),
    "pgd100": _pgd(100, "PGD-100", cross_entropy),
    "cw_inf": _pgd(30, "CW-inf", margin, "margin of the logits", _CARLINI),
    "apgd_ce": AttackEntry(
        _apgd_ce,
        "APGD on the cross-entropy: 100 steps of its own size, one random start",
        _CROCE,
        "APGD-CE",
        gradients=100,
        forwards=101,
    ),
    "autoattack": AttackEntry(
        _autoattack,
        "standard: APGD-CE, targeted APGD, targeted FAB, Square",
        _CROCE,
        "AutoAttack",
        # Counted in the package: 101 and 9 * 101 of APGD, 900 of FAB with its searches, 5000 of
        # Square; each part looks at the images once before and after.
        gradients=1910,
        forwards=7865,
        limited=True,
    ),
}
"""Name to attack; the names are also the values that `whitebox.attacks` allows."""
