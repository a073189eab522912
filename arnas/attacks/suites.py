"""Suites of attacks: which attacks a robust accuracy is the union of, with which budgets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from arnas.attacks.apgd import apgd_batch
from arnas.attacks.fab import fab_batch
from arnas.attacks.objectives import (
    Objective,
    cross_entropy,
    dlr,
    margin,
    targeted_dlr,
    targeted_margin,
)
from arnas.attacks.oracle import AttackOutput, Oracle, misclassified
from arnas.attacks.pgd import transferable
from arnas.attacks.registry import ATTACKS, AttackEntry
from arnas.attacks.square import Numbers, square_batch
from arnas.attacks.threat import Threat
from arnas.runtime.errors import UserError

_APGD = "Croce and Hein, ICML 2020, arXiv 2003.01690; for L1 arXiv 2103.01208"
_FAB = "Croce and Hein, ICML 2020, arXiv 1907.02044"
_TRANSFER = "Papernot et al., arXiv 1605.07277"
_SQUARE = "Andriushchenko et al., ECCV 2020, arXiv 1912.00049"
STEPS, QUERIES = 100, 5000
"""Budgets of the published composition."""
TRANSFER_STEPS = 20
TARGETS, L1_TARGETS, L1_RESTARTS = 9, 5, 5
"""Most likely other classes that targeted attacks try, one after the other; APGD's for L1."""
EXPECTATION = 20
"""Passes that the suite ``rand`` averages a gradient over."""
RATIO_CLASSES, TARGETED_RATIO_CLASSES = 3, 4
"""Classes that the difference of logits ratio and its targeted form are defined from."""


class RandomStreams(NamedTuple):
    """Random numbers, each a function of its image, attack, try and the seed only."""

    uniform: Callable[[tuple[int, ...]], Tensor]
    """Shape of one image's numbers in [0, 1) to those of all images, which come first."""
    normal: Callable[[tuple[int, ...]], Tensor]
    blocks: Numbers
    """Numbers in [0, 1) for an attack that takes more than can be drawn at once."""


AttackFn = Callable[[Oracle, Tensor, Tensor, Threat, RandomStreams], AttackOutput]
"""One try of an attack at each of some images: their labels are of shape (N,), or (N, 2) with the
targets."""


@dataclass(frozen=True)
class Component:
    """An attack of a suite."""

    run: AttackFn
    settings: str
    """What defines it besides its name."""
    citation: str
    tries: int = 1
    """Most tries at an image: restarts, or targets."""
    targeted: bool = False
    cost: int = 1
    """Passes of a try at an image that withstands it, backward ones too; for the ETA."""


@dataclass(frozen=True)
class Suite:
    """Attacks in the order in which they run; an image that has fallen is spared the rest."""

    components: dict[str, Component]
    leaves_out: str = ""
    """What it lacks beside the standard composition, in words."""
    expectation: int = 1
    replaced: Mapping[str, str] = field(default_factory=dict)
    """Attack to what had to be changed for a model of so few classes."""


def _apgd(objective: Objective, name: str, tries: int = 1, targeted: bool = False) -> Component:
    def run(
        oracle: Oracle, x: Tensor, labels: Tensor, threat: Threat, draws: RandomStreams
    ) -> AttackOutput:
        numbers = draws.uniform if threat.norm == "linf" else draws.normal
        noise = numbers(tuple(x.shape[1:])).to(x)
        return apgd_batch(oracle, x, labels, threat, noise, steps=STEPS, objective=objective)

    how_often = f"{tries} targets" if targeted else f"{tries} random starts"
    settings = f"APGD on the {name}: {STEPS} steps of its own size, {how_often}"
    return Component(run, settings, _APGD, tries, targeted, cost=2 * STEPS + 2)


def _fab(
    oracle: Oracle, x: Tensor, labels: Tensor, threat: Threat, draws: RandomStreams
) -> AttackOutput:
    return fab_batch(oracle, x, labels, threat, steps=STEPS)


def _square(
    oracle: Oracle, x: Tensor, y: Tensor, threat: Threat, draws: RandomStreams
) -> AttackOutput:
    return square_batch(oracle, x, y, threat, draws.blocks, queries=QUERIES)


def _by_batches(make: Callable[[Oracle, Tensor, Tensor, Threat, Tensor], Tensor]) -> AttackFn:
    """Return a try that makes its examples batch by batch, from one uniform draw each."""

    def run(
        oracle: Oracle, x: Tensor, y: Tensor, threat: Threat, draws: RandomStreams
    ) -> AttackOutput:
        unit = draws.uniform(tuple(x.shape[1:])).to(x)
        batches = (torch.split(values, oracle.batch_size) for values in (x, y, unit))
        made = [
            make(oracle, image, label, threat, part)
            for image, label, part in zip(*batches, strict=True)
        ]
        x_adv = torch.cat(made)
        return AttackOutput(misclassified(oracle.logits(x_adv), y), x_adv)

    return run


def _fixed(entry: AttackEntry) -> Component:
    """Return an attack of the registry as a component: batch by batch, stopping where it does."""

    def make(oracle: Oracle, x: Tensor, y: Tensor, threat: Threat, unit: Tensor) -> Tensor:
        return entry.run(oracle.model, x, y, threat, unit)

    cost = entry.gradients + entry.forwards
    return Component(_by_batches(make), entry.settings, entry.citation, cost=cost)


def transfer_from(source: nn.Module) -> Component:
    """Return an attack that shows a model the examples made on another one, see `transferable`.

    Parameters
    ----------
    source
        Takes the same images and has at least the model's classes; on the model's device.
    """

    def make(oracle: Oracle, x: Tensor, y: Tensor, threat: Threat, unit: Tensor) -> Tensor:
        return transferable(source, x, y, threat, unit, steps=TRANSFER_STEPS)

    settings = f"PGD on another model: {TRANSFER_STEPS} steps of epsilon/4, one start, last iterate"
    return Component(_by_batches(make), settings, _TRANSFER, cost=2 * TRANSFER_STEPS)


def _components(norm: str, classes: int) -> dict[str, Component]:
    """Return every attack for a norm and a number of classes, from 2 up."""
    targets = min(TARGETS, classes - 1)
    apgd_targets = min(L1_TARGETS, targets) if norm == "l1" else targets
    ratio = (
        _apgd(dlr, "difference of logits ratio")
        if classes >= RATIO_CLASSES
        else _apgd(margin, "margin")
    )
    targeted = (
        _apgd(targeted_dlr, "targeted difference of logits ratio", apgd_targets, targeted=True)
        if classes >= TARGETED_RATIO_CLASSES
        else _apgd(targeted_margin, "targeted margin", apgd_targets, targeted=True)
    )
    restarts = L1_RESTARTS if norm == "l1" else 1
    return {
        "apgd_ce": _apgd(cross_entropy, "cross-entropy", restarts),
        "apgd_dlr": ratio,
        "apgd_t": targeted,
        "fab": Component(
            _fab,
            f"FAB on all classes: {STEPS} steps from the image",
            _FAB,
            cost=STEPS * (classes + 1),
        ),
        "fab_t": Component(
            _fab,
            f"FAB on one class after another: {STEPS} steps, {targets} targets",
            _FAB,
            targets,
            targeted=True,
            cost=3 * STEPS,
        ),
        "square": Component(
            _square, f"Square on the margin: {QUERIES} queries", _SQUARE, cost=QUERIES
        ),
    }


SUITES: dict[str, tuple[str, ...]] = {
    "standard": ("apgd_ce", "apgd_t", "fab_t", "square"),
    "fast": ("apgd_ce", "apgd_t"),
    "rand": ("apgd_ce", "apgd_dlr"),
}
"""Name to attacks: ``standard`` is AutoAttack's standard composition, ``rand`` its composition for
models that draw random numbers, ``fast`` the two attacks that find nearly all of what it finds."""
PLAIN = tuple(name for name, entry in ATTACKS.items() if not entry.limited and name != "apgd_ce")
"""Attacks with fixed steps, which a list may name too."""
ALLOWED = (
    f"{', '.join(SUITES)}, or a list such as pgd20,square of "
    f"{', '.join([*PLAIN, 'apgd_ce', 'apgd_dlr', 'apgd_t', 'fab', 'fab_t', 'square'])}"
)


def build_suite(name: str, norm: str, classes: int) -> Suite:
    """Return a suite for a norm and a model of so many classes.

    The ratio of the targeted APGD needs four classes, that of the plain one three; with fewer the
    margin itself takes its place. There are never more targets than other classes.

    Parameters
    ----------
    name
        A name of `SUITES`, or attacks separated by commas.
    norm
        ``linf``, ``l2`` or ``l1``.
    classes
        Of the model, from 1 up; with a single one there is nothing to attack and no component.

    Raises
    ------
    UserError
        For an unknown name, or an attack named twice.
    """
    name = name.strip()
    wanted = SUITES.get(name) or tuple(part.strip() for part in name.split(","))
    if classes < 2:
        return Suite({}, "every attack: the model has one class")
    known = _components(norm, classes) | {plain: _fixed(ATTACKS[plain]) for plain in PLAIN}
    unknown = [part for part in wanted if part not in known]
    if unknown or len(set(wanted)) < len(wanted):
        wrong = f"'{unknown[0]}'" if unknown else f"'{name}', which names an attack twice"
        raise UserError(f"suite is {wrong}: allowed are {ALLOWED}.")
    missing = [part for part in SUITES["standard"] if part not in wanted]
    replaced = {}
    for part, least in (("apgd_dlr", RATIO_CLASSES), ("apgd_t", TARGETED_RATIO_CLASSES)):
        if part in wanted and classes < least:
            replaced[part] = f"the margin instead of the ratio, which needs {least} classes"
    return Suite(
        {part: known[part] for part in wanted},
        ", ".join(missing),
        EXPECTATION if name == "rand" else 1,
        replaced,
    )


def targets_of(logits: Tensor, y: Tensor, tries: int) -> Tensor:
    """Return each image's most likely other classes, int64 of shape (N, tries)."""
    order = logits.scatter(1, y[:, None], torch.inf).sort(dim=1).indices
    return order[:, -1 - tries : -1].flip(1)
