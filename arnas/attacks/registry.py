"""The attacks and the suites by name, as data: reading them does not load torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from arnas.runtime.errors import UserError
from arnas.runtime.references import FORM, is_reference

_MADRY = "Madry et al., ICLR 2018, arXiv 1706.06083"
_APGD = "Croce and Hein, ICML 2020, arXiv 2003.01690; for L1 arXiv 2103.01208"
_FAB = "Croce and Hein, ICML 2020, arXiv 1907.02044"
_AUTOATTACK = "Croce and Hein, ICML 2020, arXiv 2003.01690"
PGD_PATTERN, PGD_FORM = r"^pgd([1-9][0-9]{0,5})$", "pgd<steps> with other steps"
"""The names of PGD with any number of steps, and what messages say of them."""
STEPS, QUERIES = 100, 5000
"""Budgets of the published composition AutoAttack."""
OBJECTIVES = {
    "cross_entropy": "cross-entropy",
    "margin": "margin of the logits",
    "dlr": "difference of logits ratio",
    "targeted_dlr": "targeted difference of logits ratio",
    "targeted_margin": "targeted margin of the logits",
}
"""Functions of `arnas.attacks.objectives` that the attacks below maximise, in words."""


@dataclass(frozen=True)
class AttackEntry:
    """An attack of the registry."""

    function: str
    """Dotted reference to ``(oracle, x, y, threat, streams, **arguments) -> AttackOutput``, see
    `arnas.attacks.suites.AttackFn`; or a user's own attack with the public signature."""
    label: str
    """How tables and figures call it."""
    text: str
    """What defines it, with ``{steps}``, ``{objective}`` and ``{tries}`` left open."""
    citation: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments of the function; ``objective`` is a name of `OBJECTIVES`."""
    tries: int = 1
    """Restarts or, of a targeted attack, the most likely other classes that are targeted in turn;
    never more than there are other classes."""
    l1_tries: int | None = None
    """The same in L1, where it differs."""
    targeted: bool = False
    gradients: int = 0
    """Backward passes of one try at a robust image."""
    forwards: int = 0
    """Forward passes likewise, those before a backward pass included."""
    every_class: bool = False
    """Whether `gradients` counts for each of the other classes."""
    parts: tuple[str, ...] = ()
    """The attacks that an attack is the union of; then it has no function."""

    @property
    def steps(self) -> int | None:
        """Return the number of gradient steps of a try; None where there are none."""
        return self.arguments.get("steps")

    @property
    def step_size_over_epsilon(self) -> float | None:
        """Return the length of a step as a share of epsilon; None where it is not fixed."""
        return self.arguments.get("step_size_over_epsilon")

    @property
    def objective(self) -> str | None:
        """Return the name of what the attack maximises; None where it is no choice."""
        return self.arguments.get("objective")

    @property
    def settings(self) -> str:
        """Return what defines the attack besides its name, for ten classes in linf."""
        return self.describe(self.objective, self.tries)

    def describe(self, objective: str | None, tries: int) -> str:
        """Return what defines the attack besides its name, for an objective and a number of tries.

        They differ from those of the entry where a model has too few classes.
        """
        counted = f"{tries} targets" if self.targeted else f"{tries} random starts"
        return self.text.format(
            steps=self.steps,
            objective=OBJECTIVES.get(objective or "", objective),
            tries="one random start" if counted == "1 random starts" else counted,
        )

    def tries_for(self, norm: str, classes: int) -> int:
        """Return the most tries at an image of so many classes."""
        tries = self.l1_tries if norm == "l1" and self.l1_tries else self.tries
        return min(tries, classes - 1) if self.targeted else tries

    def passes(self, norm: str = "linf", classes: int = 10) -> tuple[int, int]:
        """Return the backward and the forward passes that an image costs at most, in all tries."""
        if self.parts:
            costs = [ATTACKS[part].passes(norm, classes) for part in self.parts]
            return sum(cost[0] for cost in costs), sum(cost[1] for cost in costs)
        tries = self.tries_for(norm, classes)
        gradients = self.gradients * (classes - 1 if self.every_class else 1)
        return tries * gradients, tries * self.forwards


def _pgd(
    steps: int, label: str = "", objective: str = "cross_entropy", citation: str = _MADRY
) -> AttackEntry:
    """Return PGD with the step of a quarter epsilon that 2/255 is at 8/255 (arXiv 2405.05502)."""
    return AttackEntry(
        "arnas.attacks.pgd:pgd_batch",
        label or f"PGD-{steps}",
        "{steps} steps of epsilon/4 on the {objective}, one uniform start, best iterate",
        citation,
        {"steps": steps, "step_size_over_epsilon": 0.25, "objective": objective},
        gradients=steps,
        forwards=steps + 1,
    )


def _apgd(label: str, objective: str, tries: int = 1, l1_tries: int | None = None) -> AttackEntry:
    return AttackEntry(
        "arnas.attacks.apgd:apgd_batch",
        label,
        "APGD on the {objective}: {steps} steps of its own size, {tries}",
        _APGD,
        {"steps": STEPS, "objective": objective},
        tries,
        l1_tries,
        targeted=objective.startswith("targeted"),
        gradients=STEPS,
        forwards=STEPS + 1,
    )


SUITES: dict[str, tuple[str, ...]] = {
    "standard": ("apgd_ce", "apgd_t", "fab_t", "square"),
    "fast": ("apgd_ce", "apgd_t"),
    "rand": ("apgd_ce", "apgd_dlr"),
    "reference": ("reference",),
}
"""Name to attacks: ``standard`` is AutoAttack's standard composition, ``fast`` the two attacks that
find nearly all of what it finds, ``rand`` its composition for models that draw random numbers, and
``reference`` the standard composition as the published package runs it."""

ATTACKS: dict[str, AttackEntry] = {
    "fgsm": AttackEntry(
        "arnas.attacks.pgd:pgd_batch",
        "FGSM",
        "one step of epsilon, no random start, kept where it raises the loss",
        "Goodfellow et al., ICLR 2015, arXiv 1412.6572",
        {
            "steps": 1,
            "step_size_over_epsilon": 1.0,
            "objective": "cross_entropy",
            "random_start": False,
        },
        gradients=1,
        forwards=2,
    ),
    "pgd20": _pgd(20),
    "pgd100": _pgd(100),
    "cw_inf": _pgd(
        30,
        "CW-inf",
        "margin",
        "Carlini and Wagner, S&P 2017, arXiv 1608.04644; as PGD in the ball",
    ),
    "apgd_ce": _apgd("APGD-CE", "cross_entropy", l1_tries=5),
    "apgd_dlr": _apgd("APGD-DLR", "dlr"),
    "apgd_t": _apgd("APGD-T", "targeted_dlr", tries=9, l1_tries=5),
    "fab": AttackEntry(
        "arnas.attacks.fab:fab_batch",
        "FAB",
        "FAB on all classes: {steps} steps from the image",
        _FAB,
        {"steps": STEPS},
        gradients=STEPS,
        forwards=2 * STEPS,
        every_class=True,
    ),
    "fab_t": AttackEntry(
        "arnas.attacks.fab:fab_batch",
        "FAB-T",
        "FAB on one class after another: {steps} steps, {tries}",
        _FAB,
        {"steps": STEPS},
        tries=9,
        targeted=True,
        gradients=STEPS,
        forwards=2 * STEPS,
    ),
    "square": AttackEntry(
        "arnas.attacks.square:square_batch",
        "Square",
        f"Square on the margin of the logits: {QUERIES} queries",
        "Andriushchenko et al., ECCV 2020, arXiv 1912.00049",
        {"queries": QUERIES},
        forwards=QUERIES + 1,
    ),
    "autoattack": AttackEntry(
        "",
        "AutoAttack",
        "standard: APGD-CE, targeted APGD, targeted FAB, Square",
        _AUTOATTACK,
        parts=SUITES["standard"],
    ),
    "reference": AttackEntry(
        "arnas.attacks.reference:reference_batch",
        "AutoAttack (package)",
        "standard: APGD-CE, targeted APGD, targeted FAB, Square, by the published package",
        _AUTOATTACK,
        # Counted in the package: 101 and 9 * 101 of APGD, 900 of FAB with its searches, 5000 of
        # Square; each part looks at the images once before and after.
        gradients=1910,
        forwards=7865,
    ),
}
"""Name to attack, in the order of the tables' columns. ``pgd<steps>`` is PGD with other steps."""


def attack_entry(name: str) -> AttackEntry:
    """Return the entry of an attack: a name of `ATTACKS`, ``pgd<steps>``, or a user's own.

    That is ``package.module:function``, whose label is the reference; it is not loaded.

    Raises
    ------
    UserError
        For any other name.
    """
    if name in ATTACKS:
        return ATTACKS[name]
    if steps := re.fullmatch(PGD_PATTERN, name):
        return _pgd(int(steps[1]))
    if is_reference(name):
        return AttackEntry(name, name, f"the user's own attack {name}", "the user's own code")
    raise UserError(
        f"attack is '{name}': allowed are {', '.join(ATTACKS)}, {PGD_FORM}, or "
        f"an attack of your own as {FORM}."
    )


def known_attack(name: str) -> bool:
    """Return whether `attack_entry` knows an attack."""
    try:
        attack_entry(name)
    except UserError:
        return False
    return True


def attack_label(name: str) -> str:
    """Return how tables and figures call an attack; the name itself where it has no entry."""
    return attack_entry(name).label if known_attack(name) else name


def attack_names(suite: str) -> tuple[str, ...]:
    """Return the attacks of a suite: a name of `SUITES`, or attacks separated by commas.

    Of these ``autoattack`` stands for its parts.

    Raises
    ------
    UserError
        For an unknown name, or an attack named twice.
    """
    written = [part.strip() for part in suite.split(",")]
    if len(set(written)) < len(written):
        raise UserError(f"suite is '{suite}': name each attack once.")
    if suite.strip() in SUITES:
        return SUITES[suite.strip()]
    for name in written:
        if not known_attack(name):
            raise UserError(
                f"suite is '{name}': allowed are {', '.join(SUITES)}, or a list such as "
                f"pgd20,square of {', '.join(ATTACKS)}, {PGD_FORM}, and attacks "
                f"of your own as {FORM}."
            )
    return tuple(dict.fromkeys(p for name in written for p in attack_entry(name).parts or (name,)))
