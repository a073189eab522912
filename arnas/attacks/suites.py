"""Suites of attacks: which attacks a robust accuracy is the union of, with which budgets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from arnas.attacks import objectives
from arnas.attacks.oracle import AttackOutput, Oracle, RandomStreams, in_batches
from arnas.attacks.pgd import transfer_batch
from arnas.attacks.reference import check_classes
from arnas.attacks.registry import SUITES, AttackEntry, attack_entry, attack_names
from arnas.attacks.threat import Threat
from arnas.runtime.errors import UserError
from arnas.runtime.references import is_reference, load_reference
from arnas.runtime.seeds import derive_seed

_TRANSFER = "Papernot et al., arXiv 1605.07277"
TRANSFER_STEPS = 20
EXPECTATION = 20
"""Passes that the suite ``rand`` averages a gradient over."""
REPLACED = {"dlr": (3, "margin"), "targeted_dlr": (4, "targeted_margin")}
"""Objectives that need more than two classes: how many, and what takes their place with fewer."""
SIGNATURE = "(model, x, y, threat, *, generator=None) -> x_adv"
"""Of a user's own attack."""

AttackFn = Callable[[Oracle, Tensor, Tensor, Threat, RandomStreams], AttackOutput]
"""One try of an attack at each of some images: their labels are of shape (N,), or (N, 2) with the
targets. The model of the oracle is inside `arnas.attacks.eval_mode.frozen_eval`."""


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
    """Passes of a try at a robust image, backward ones too; for the ETA."""


@dataclass(frozen=True)
class Suite:
    """Attacks in the order in which they run."""

    components: dict[str, Component]
    leaves_out: str = ""
    """What it lacks beside the standard composition, in words."""
    expectation: int = 1
    replaced: Mapping[str, str] = field(default_factory=dict)
    """Attack to what had to be changed for a model of so few classes."""


def build_suite(name: str, norm: str, classes: int, **arguments: Any) -> Suite:
    """Return a suite for a norm and a model of so many classes.

    The difference of logits ratio needs three classes, its targeted form four; with fewer the
    margin of the logits takes its place. There are never more targets than other classes.

    Parameters
    ----------
    name
        A name of `SUITES`, or attacks separated by commas: names of the registry, or a user's own
        ``package.module:function``, which is imported here.
    norm
        ``linf``, ``l2`` or ``l1``.
    classes
        Of the model, from 1 up; with a single one there is nothing to attack and no component.
    arguments
        Of each attack's function, in place of the registry's.

    Raises
    ------
    UserError
        For an unknown name, an attack named twice, a reference that cannot be loaded, or the suite
        ``reference`` with fewer than four classes.
    """
    names = attack_names(name)
    if classes < 2:
        return Suite({}, "every attack: the model has one class")
    if "reference" in names:
        check_classes(classes)
    entries = {part: attack_entry(part) for part in names}
    covered = {*names, *(SUITES["standard"] if "reference" in names else ())}
    replaced = {}
    for part, entry in entries.items():
        least, _ = REPLACED.get(entry.objective or "", (0, ""))
        if classes < least:
            replaced[part] = f"the margin instead of the ratio, which needs {least} classes"
    return Suite(
        {part: _component(part, one, norm, classes, arguments) for part, one in entries.items()},
        ", ".join(part for part in SUITES["standard"] if part not in covered),
        EXPECTATION if name.strip() == "rand" else 1,
        replaced,
    )


def _component(
    name: str, entry: AttackEntry, norm: str, classes: int, more: Mapping[str, Any]
) -> Component:
    """Return an attack of the registry, or of the user, as a component."""
    tries, objective = entry.tries_for(norm, classes), entry.objective
    least, instead = REPLACED.get(objective or "", (0, ""))
    objective = instead if classes < least else objective
    arguments = {**entry.arguments, **more}
    if objective:
        arguments["objective"] = getattr(objectives, objective)
    own = is_reference(name)
    return Component(
        _user_attack(name) if own else partial(load_reference(entry.function), **arguments),
        entry.describe(objective, tries),
        entry.citation,
        tries,
        entry.targeted,
        cost=max(sum(entry.passes(norm, classes)) // tries, 1),
    )


def _user_attack(reference: str) -> AttackFn:
    """Return a user's own attack in the inner calling convention, run batch by batch.

    Its generator is seeded from the random numbers of the first image of the batch.
    """
    function = load_reference(reference)
    if not callable(function):
        raise UserError(
            f"{reference} is a {type(function).__name__}: an attack is a function {SIGNATURE}."
        )

    def run(
        oracle: Oracle, x: Tensor, y: Tensor, threat: Threat, streams: RandomStreams
    ) -> AttackOutput:
        def attack(image: Tensor, label: Tensor, numbers: Tensor) -> Tensor:
            seed = derive_seed(reference, *numbers[0].tolist())
            generator = torch.Generator().manual_seed(seed)
            x_adv: Any = function(oracle.model, image, label, threat, generator=generator)
            if not isinstance(x_adv, Tensor) or x_adv.shape != image.shape:
                found = tuple(x_adv.shape) if isinstance(x_adv, Tensor) else type(x_adv).__name__
                raise UserError(
                    f"{reference} returned {found} for images of shape {tuple(image.shape)}: "
                    f"an attack is a function {SIGNATURE}, with x_adv of x's shape."
                )
            return x_adv.detach().to(image)

        return in_batches(oracle, attack, x, y, streams.uniform((2,)))

    return run


def transfer_from(source: nn.Module) -> Component:
    """Return an attack that shows a model the examples made on another one.

    The source takes the same images, has at least the model's classes and is on its device.
    """
    settings = f"PGD on another model: {TRANSFER_STEPS} steps of epsilon/4, one start, last iterate"
    run = partial(transfer_batch, source=source, steps=TRANSFER_STEPS)
    return Component(run, settings, _TRANSFER, cost=2 * TRANSFER_STEPS)


def targets_of(logits: Tensor, y: Tensor, tries: int) -> Tensor:
    """Return each image's most likely other classes, int64 of shape (N, tries)."""
    order = logits.scatter(1, y[:, None], torch.inf).sort(dim=1).indices
    return order[:, -1 - tries : -1].flip(1)
