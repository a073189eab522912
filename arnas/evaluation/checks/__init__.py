"""The checks of an evaluation: one registry, and the function that runs them.

A robust accuracy is too high whenever the model, an attack or the counting is at fault. The checks
look for the known faults. Each has a status, the evidence it rests on and advice; with one FAIL the
accuracy is marked unreliable and kept out of rankings. The registry is data: it can be read without
PyTorch, and functions are imported when they are called.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from arnas.runtime.references import load_reference

if TYPE_CHECKING:
    from arnas.evaluation.checks.base import CheckContext
    from arnas.evaluation.result import Check

Phase = Literal["model", "attacks", "run"]
Condition = Literal["always", "attacked", "deterministic", "monitored"]

ATHALYE = "Athalye et al., ICML 2018, arXiv 1802.00420"
CARLINI = "Carlini et al., arXiv 1902.06705"
PINTOR = "Pintor et al., NeurIPS 2022, arXiv 2106.09947"
ROBUSTBENCH = "Croce et al., NeurIPS 2021, arXiv 2010.09670"
AUTOATTACK = "Croce and Hein, ICML 2020, arXiv 2003.01690"
RICE = "Rice et al., ICML 2020, arXiv 2002.11569"
WONG = "Wong et al., ICLR 2020, arXiv 2001.03994"
HENDRYCKS = "Hendrycks and Dietterich, ICLR 2019, arXiv 1903.12261"


@dataclass(frozen=True)
class CheckEntry:
    """One check; its function has the name of its id."""

    id: str
    phase: Phase
    """``model``: before the attacks; ``attacks``: after them; ``run``: of several networks or of
    the splits, called by name with plain data."""
    module: str
    """In this package."""
    citation: str = ""
    tier: Literal["cheap", "expensive"] = "cheap"
    """Expensive ones attack the model themselves."""
    applies: Condition = "always"
    """``deterministic``: to models that draw no random numbers; ``monitored``: where every pass of
    the attacks was watched. Where it does not apply the status is SKIP."""
    attacks: tuple[str, str] | tuple[()] = ()
    """The weaker and the stronger attack that it compares, if both attacked every image; the
    function takes which images are robust to each."""

    @property
    def function(self) -> Callable[..., Check]:
        """Return the function, which takes the `CheckContext` if nothing else is said."""
        function: Callable[..., Check] = load_reference(f"{__name__}.{self.module}:{self.id}")
        return function

    @property
    def fail(self) -> str:
        """Return in a sentence what FAIL means, or WARN where it never fails: the docstring."""
        return " ".join((self.function.__doc__ or "").split("\n\n")[0].split())


_ENTRIES = (
    CheckEntry("eval_mode", "model", "model"),
    CheckEntry("batch_size_invariance", "model", "model"),
    CheckEntry("determinism", "model", "model", ATHALYE),
    CheckEntry("input_range", "model", "images", ROBUSTBENCH),
    CheckEntry("input_channels", "model", "labels"),
    CheckEntry("above_chance", "model", "labels"),
    CheckEntry("labels_match", "model", "labels"),
    CheckEntry("clean_accuracy_recorded", "model", "images", ROBUSTBENCH),
    CheckEntry("logits", "model", "gradients", CARLINI),
    CheckEntry("gradient", "model", "gradients", ATHALYE),
    CheckEntry("finite_differences", "model", "finite_differences", ATHALYE),
    CheckEntry("epsilon_unit", "model", "images", ROBUSTBENCH),
    CheckEntry("test_subset", "model", "images"),
    CheckEntry("precision", "model", "model"),
    CheckEntry("frozen_while_crafting", "model", "model"),
    CheckEntry("model_unchanged", "attacks", "run", applies="monitored"),
    CheckEntry("ball_and_box", "attacks", "examples", CARLINI, applies="attacked"),
    CheckEntry("examples_valid", "attacks", "examples", applies="attacked"),
    CheckEntry("examples_reproduce", "attacks", "examples", ROBUSTBENCH, applies="attacked"),
    CheckEntry("epsilon_zero", "attacks", "examples", CARLINI),
    CheckEntry("union", "attacks", "examples", CARLINI, applies="attacked"),
    CheckEntry("iterative_not_weaker", "attacks", "run", ATHALYE, attacks=("fgsm", "pgd20")),
    CheckEntry("more_steps_not_weaker", "attacks", "run", CARLINI, attacks=("pgd20", "pgd100")),
    CheckEntry("margin_not_stronger", "attacks", "run", AUTOATTACK, attacks=("pgd100", "cw_inf")),
    CheckEntry("attack_converged", "attacks", "strength", ATHALYE, tier="expensive"),
    CheckEntry("unbounded_attack", "attacks", "strength", ATHALYE, tier="expensive"),
    CheckEntry("margin_against_entropy", "attacks", "strength", AUTOATTACK, tier="expensive"),
    CheckEntry("smoothed_gradient", "attacks", "strength", ATHALYE, "expensive", "deterministic"),
    CheckEntry("blackbox", "attacks", "strength", ATHALYE, "expensive", "deterministic"),
    CheckEntry("random_corners", "attacks", "strength", ATHALYE, "expensive", "deterministic"),
    CheckEntry("silent_success", "attacks", "strength", PINTOR, "expensive", "deterministic"),
    CheckEntry("loss_still_rising", "attacks", "strength", PINTOR, "expensive", "deterministic"),
    CheckEntry("linear_control", "attacks", "linear_control", tier="expensive"),
    CheckEntry("expected_accuracy", "attacks", "labels", ROBUSTBENCH, applies="attacked"),
    CheckEntry("selection", "attacks", "training", RICE),
    CheckEntry("catastrophic_overfitting", "attacks", "training", WONG),
    CheckEntry("corruptions", "attacks", "training", HENDRYCKS),
    CheckEntry("provenance", "attacks", "training"),
    CheckEntry("ranking", "attacks", "training"),
    CheckEntry("selection_not_test", "run", "run", RICE),
    CheckEntry("blackbox_ball_and_box", "run", "run"),
    CheckEntry("blackbox_not_stronger", "run", "run", ATHALYE),
    CheckEntry("control_falls", "run", "run", CARLINI),
)
CHECKS: dict[str, CheckEntry] = {entry.id: entry for entry in _ENTRIES}
"""Id to entry, in the order in which checks are run and printed."""
OLD_IDS = {
    "more_effort": "attack_converged",
    "larger_epsilon": "unbounded_attack",
    "epsilon_one": "unbounded_attack",
    "untouched_and_finite": "examples_valid",
    "recount": "examples_reproduce",
    "controls": "linear_control",
    "box_and_ball": "ball_and_box",
    "blackbox_box_and_ball": "blackbox_ball_and_box",
}
"""Ids that files of an earlier release hold, to those of now."""


def run_checks(
    context: CheckContext,
    phase: Literal["model", "attacks"],
    tier: Literal["all", "cheap", "none"] = "all",
    *,
    between: Callable[[], None] | None = None,
    done: Mapping[str, Check] | None = None,
) -> list[Check]:
    """Run the checks of a phase in their order; each can see the results of the earlier ones.

    The model, the images and the global random numbers are afterwards what they were.

    Parameters
    ----------
    context
        The model, the images and, for the phase ``attacks``, what the attacks left. Every result is
        appended to ``context.notes["checks"]`` at once.
    phase
        ``model`` before the attacks, ``attacks`` after them.
    tier
        ``cheap`` leaves out the checks that attack the model themselves, ``none`` all.
    between
        Called after each check, to save the results or to stop for a signal.
    done
        Results of an earlier run that was cut short, by id; these checks are not run again.
    """
    made = context.notes.setdefault("checks", [])
    results = []
    for name, entry in CHECKS.items():
        if entry.phase != phase or tier == "none" or (tier == "cheap" and entry.tier != "cheap"):
            continue
        known = (done or {}).get(name)
        results.append(known or run_check(name, context))
        made.append(results[-1])
        if between is not None and known is None:
            between()
    return results


def run_check(name: str, context: CheckContext) -> Check:
    """Run one check of the phases ``model`` or ``attacks``; nothing but a signal is raised."""
    from arnas.evaluation.checks.base import guarded

    entry = CHECKS[name]
    function = entry.function

    def check(context: CheckContext) -> Check:
        _require(entry, context)
        if entry.applies == "monitored":
            return function(context.monitor)
        if entry.attacks:
            return function(*(context.outcomes[attack] == 1 for attack in entry.attacks))
        return function(context)

    return guarded(name, check)(context)


def _require(entry: CheckEntry, context: CheckContext) -> None:
    """Raise the reason if a check does not apply."""
    from arnas.evaluation.checks.base import NotApplicableError

    if entry.applies == "attacked" and "clean" not in context.outcomes:
        raise NotApplicableError("no attack has been run yet")
    if entry.applies == "monitored" and context.monitor is None:
        raise NotApplicableError("the passes of the attacks were not watched")
    if entry.applies == "deterministic" and context.expectation > 1:
        raise NotApplicableError(
            "the model draws random numbers, so that one misclassified draw says little"
        )
    missing = [name for name in entry.attacks if name not in context.outcomes]
    if missing:
        raise NotApplicableError(
            f"{' and '.join(missing)} not run", f"add {' and '.join(missing)} to the attacks"
        )
    if entry.attacks and context.combine != "each":
        raise NotApplicableError("attacks skipped the images that earlier ones broke")


def read_check(values: Mapping[str, Any]) -> Check:
    """Return the check that a file holds, `Check._asdict()`, also from an earlier release.

    Old ids and the old key ``figure`` are read for one release, with a warning.
    """
    from arnas.evaluation.result import Check

    values = dict(values)
    old = [name for name in ("figure",) if name in values]
    if old:
        values["evidence"] = values.pop("figure")
    if values["id"] in OLD_IDS:
        old.append(values["id"])
        values["id"] = OLD_IDS[values["id"]]
    if old:
        warnings.warn(
            f"a check has the old name {' and '.join(old)}, which the next release will not read: "
            "run the evaluation again.",
            FutureWarning,
            stacklevel=2,
        )
    return Check(**values)
