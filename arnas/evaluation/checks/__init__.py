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
    from arnas.evaluation.checks.base import Check, CheckContext

Phase = Literal["model", "attacks", "run"]
Condition = Literal["always", "attacked", "deterministic", "monitored", "both attacks"]

ATHALYE = "Athalye et al., ICML 2018, arXiv 1802.00420"
CARLINI = "Carlini et al., arXiv 1902.06705"
PINTOR = "Pintor et al., NeurIPS 2022, arXiv 2106.09947"
ROBUSTBENCH = "Croce et al., NeurIPS 2021, arXiv 2010.09670"
AUTOATTACK = "Croce and Hein, ICML 2020, arXiv 2003.01690"


@dataclass(frozen=True)
class CheckEntry:
    """One check."""

    id: str
    phase: Phase
    """``model``: before the attacks; ``attacks``: after them; ``run``: of several networks or of
    the splits, called by name with plain data."""
    tier: Literal["cheap", "expensive"]
    """Expensive ones attack the model themselves."""
    function: str
    """In `arnas.evaluation.checks`, as ``module:function``; takes the `CheckContext`, or the flags
    of the images that withstood each of `attacks`, or for the phase ``run`` plain data."""
    fail: str
    """What FAIL means, or WARN where the check never fails, in one sentence."""
    citation: str = ""
    applies: Condition = "always"
    """``deterministic``: to models that draw no random numbers; ``monitored``: where every pass of
    the attacks was watched. Where it does not apply the status is SKIP."""
    attacks: tuple[str, str] | tuple[()] = ()
    """The weaker and the stronger attack that it compares, if both attacked every image."""


_ENTRIES = (
    CheckEntry(
        "eval_mode",
        "model",
        "cheap",
        "model:eval_mode",
        "A submodule stays in training mode after eval(), or a pass changes weights, buffers or "
        "images.",
        CARLINI,
    ),
    CheckEntry(
        "batch_size_invariance",
        "model",
        "cheap",
        "model:batch_size_invariance",
        "The logits of an image depend on the other images of its batch.",
    ),
    CheckEntry(
        "determinism",
        "model",
        "cheap",
        "model:determinism",
        "The model draws random numbers and is attacked as if it did not; use `--suite rand`.",
        ATHALYE,
    ),
    CheckEntry(
        "input_range",
        "model",
        "cheap",
        "images:input_range",
        "Pixels are not in [0, 1], were divided by 255 twice, or the model expects images that are "
        "normalised outside it.",
        ROBUSTBENCH,
    ),
    CheckEntry(
        "clean_accuracy_recorded",
        "model",
        "cheap",
        "images:clean_accuracy",
        "The clean accuracy is not the one recorded with the checkpoint.",
        ROBUSTBENCH,
    ),
    CheckEntry(
        "logits",
        "model",
        "cheap",
        "gradients:logits",
        "The outputs are no logits, are not finite, or are so large that the cross-entropy has no "
        "gradient.",
        CARLINI,
    ),
    CheckEntry(
        "gradient",
        "model",
        "cheap",
        "gradients:gradient",
        "No gradient reaches some images, so that attacks cannot move them.",
        ATHALYE,
    ),
    CheckEntry(
        "finite_differences",
        "model",
        "cheap",
        "finite_differences:finite_differences",
        "The gradient is not the derivative of the logits: a part of the model is detached or has "
        "a substitute's gradient.",
        ATHALYE,
    ),
    CheckEntry(
        "epsilon_unit",
        "model",
        "cheap",
        "images:epsilon_unit",
        "The budget is not the one that was written; WARN where it looks like another one, as "
        "0.031 does like 8/255.",
        ROBUSTBENCH,
    ),
    CheckEntry(
        "test_subset",
        "model",
        "cheap",
        "images:subset",
        "The indices do not belong to these images; WARN on few, repeated or unbalanced images.",
        CARLINI,
    ),
    CheckEntry(
        "precision",
        "model",
        "cheap",
        "model:precision",
        "Something is computed in less than float32 and predictions change in float32.",
    ),
    CheckEntry(
        "frozen_while_crafting",
        "model",
        "cheap",
        "model:frozen_while_crafting",
        "A forward and backward pass finds batch normalisation or dropout in training mode, or "
        "changes the model.",
    ),
    CheckEntry(
        "model_unchanged",
        "attacks",
        "cheap",
        "examples:model_unchanged",
        "During the attacks a submodule was in training mode, or weights or buffers changed.",
        applies="monitored",
    ),
    CheckEntry(
        "ball_and_box",
        "attacks",
        "cheap",
        "examples:ball_and_box",
        "An adversarial example leaves the ball or [0, 1]; WARN where rounding to 8 bits undoes "
        "the attack.",
        CARLINI,
        "attacked",
    ),
    CheckEntry(
        "examples_valid",
        "attacks",
        "cheap",
        "examples:examples_valid",
        "An example holds NaN or infinity, or an image was changed that no attack broke.",
        applies="attacked",
    ),
    CheckEntry(
        "examples_reproduce",
        "attacks",
        "cheap",
        "examples:examples_reproduce",
        "The stored examples, classified again, do not give the robust accuracy that is reported.",
        ROBUSTBENCH,
        "attacked",
    ),
    CheckEntry(
        "epsilon_zero",
        "attacks",
        "cheap",
        "examples:epsilon_zero",
        "An attack with a budget of 0 changes an image or a prediction.",
        CARLINI,
    ),
    CheckEntry(
        "union",
        "attacks",
        "cheap",
        "examples:union",
        "The robust accuracy is not the share of images that withstood every attack.",
        CARLINI,
        "attacked",
    ),
    CheckEntry(
        "iterative_not_weaker",
        "attacks",
        "cheap",
        "run:iterative_not_weaker",
        "PGD-20 leaves more images robust than FGSM, by more than 1 % and two images.",
        ATHALYE,
        "both attacks",
        ("fgsm", "pgd20"),
    ),
    CheckEntry(
        "more_steps_not_weaker",
        "attacks",
        "cheap",
        "run:more_steps_not_weaker",
        "PGD-100 leaves more images robust than PGD-20, by more than 1 % and two images; WARN "
        "where it breaks 2 points more, so that 20 steps had not converged.",
        CARLINI,
        "both attacks",
        ("pgd20", "pgd100"),
    ),
    CheckEntry(
        "margin_not_stronger",
        "attacks",
        "cheap",
        "run:margin_not_stronger",
        "CW-inf breaks over 10 points more than PGD-100: the cross-entropy saturates.",
        AUTOATTACK,
        "both attacks",
        ("pgd100", "cw_inf"),
    ),
    CheckEntry(
        "attack_converged",
        "attacks",
        "expensive",
        "strength:attack_converged",
        "One step breaks more images than twenty; WARN where twice the steps or a second start "
        "break clearly more.",
        ATHALYE,
    ),
    CheckEntry(
        "unbounded_attack",
        "attacks",
        "expensive",
        "strength:unbounded_attack",
        "Images withstand a budget that allows every image.",
        ATHALYE,
    ),
    CheckEntry(
        "margin_against_entropy",
        "attacks",
        "expensive",
        "strength:margin_against_entropy",
        "An attack on the margin breaks many images that one on the cross-entropy does not: the "
        "cross-entropy saturates.",
        AUTOATTACK,
    ),
    CheckEntry(
        "blackbox",
        "attacks",
        "expensive",
        "strength:blackbox",
        "Square, transferred examples or numerical gradients break images that gradients do not, "
        "and another sign of masked gradients is there.",
        ATHALYE,
        "deterministic",
    ),
    CheckEntry(
        "random_corners",
        "attacks",
        "expensive",
        "strength:random_corners",
        "Random points of the ball break images that the attacks left.",
        ATHALYE,
        "deterministic",
    ),
    CheckEntry(
        "silent_success",
        "attacks",
        "expensive",
        "strength:silent_success",
        "WARN where an attack that returns its last iterate would miss images it had broken.",
        PINTOR,
        "deterministic",
    ),
    CheckEntry(
        "loss_still_rising",
        "attacks",
        "expensive",
        "strength:loss_still_rising",
        "WARN where the loss of images that are still classified correctly has not stopped rising.",
        PINTOR,
        "deterministic",
    ),
    CheckEntry(
        "linear_control",
        "attacks",
        "expensive",
        "linear_control:linear_control",
        "On a linear classifier, of which the exact answer is known, APGD breaks too few or too "
        "many images, or masked gradients go unnoticed.",
    ),
    CheckEntry(
        "selection",
        "attacks",
        "cheap",
        "training:selection",
        "WARN where the checkpoint was chosen on the images it is evaluated on.",
        "Rice et al., ICML 2020, arXiv 2002.11569",
    ),
    CheckEntry(
        "catastrophic_overfitting",
        "attacks",
        "cheap",
        "training:catastrophic_overfitting",
        "WARN where robust accuracy fell by more than 20 points in one epoch of training.",
        "Wong et al., ICLR 2020, arXiv 2001.03994",
    ),
    CheckEntry(
        "corruptions",
        "attacks",
        "cheap",
        "training:corruptions",
        "WARN where the accuracy on corrupted images is that of images of another size.",
        "Hendrycks and Dietterich, ICLR 2019, arXiv 1903.12261",
    ),
    CheckEntry(
        "provenance",
        "attacks",
        "cheap",
        "training:provenance",
        "WARN where a digest, a version, the device or the settings of an attack are not recorded.",
    ),
    CheckEntry(
        "ranking",
        "attacks",
        "cheap",
        "training:ranking",
        "WARN where a check has failed, so that the row is kept out of rankings.",
    ),
    CheckEntry(
        "selection_not_test",
        "run",
        "cheap",
        "run:selection_not_test",
        "The clean accuracy on the validation images is not the one noted when the checkpoint was "
        "chosen, or a test image is also in another split; WARN where an equal copy is.",
        CARLINI,
    ),
    CheckEntry(
        "blackbox_ball_and_box",
        "run",
        "cheap",
        "run:blackbox_ball_and_box",
        "An example that is shown to other networks, or one of Square, leaves the ball or [0, 1].",
    ),
    CheckEntry(
        "blackbox_not_stronger",
        "run",
        "cheap",
        "run:blackbox_not_stronger",
        "A black-box attack leaves clearly fewer images robust than all white-box ones together.",
        ATHALYE,
    ),
    CheckEntry(
        "control_falls",
        "run",
        "cheap",
        "run:control_falls",
        "The undefended network of the dataset keeps its accuracy: the attacks do not work.",
        CARLINI,
    ),
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
    function = load_reference(f"{__name__}.{entry.function}")

    def check(context: CheckContext) -> Check:
        _require(entry, context)
        if entry.attacks:
            weaker, stronger = (context.outcomes[attack] == 1 for attack in entry.attacks)
            result: Check = function(weaker, stronger)
        else:
            result = function(context)
        return result

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
    from arnas.evaluation.checks.base import Check

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
