"""The checks that are made when the attacks of an evaluation have run, 13 to 30 of the list.

Those here look at what the attacks left and at what is known of model and data;
`checks.strength` and `checks.linear_control` attack again. A verdict FAIL
says that the robust accuracy is wrong or not credible, WARN that something is worth a look.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from arnas.attacks.oracle import misclassified
from arnas.attacks.pgd import fgsm, pgd
from arnas.attacks.projection import length
from arnas.attacks.threat import GREY_LEVELS, Threat
from arnas.evaluation.checks.base import own_randomness, untouched
from arnas.evaluation.checks.context import CheckContext, CheckFn
from arnas.evaluation.checks.linear_control import controls
from arnas.evaluation.checks.probes import NotApplicableError, withstood
from arnas.evaluation.checks.run import FEW, SLACK, TOLERANCE, Check, Status, failed_checks
from arnas.evaluation.checks.strength import (
    attack_converged,
    blackbox,
    loss_still_rising,
    margin_against_entropy,
    random_corners,
    silent_success,
    unbounded_attack,
)
from arnas.evaluation.result import BROKEN, ROBUST, SKIPPED
from arnas.runtime.errors import one_line

TIE = 1e-4
"""Difference of the two largest logits, over the size of the logits, that rounding can turn."""
NOISE = 2.58
"""Standard deviations that random answers may differ by: 99 % of a normal distribution."""
COLLAPSE = 20.0
"""Points of robust accuracy lost in one epoch that are called catastrophic overfitting."""
NEEDED = {
    "the model's digest": ("model_sha256",),
    "the images' digest": ("data_sha256", "data_source_sha256"),
    "the versions of the packages": ("packages",),
    "the device": ("device",),
}
"""What a row must say, and the keys of `CheckContext.known` that say it."""


def ball_and_box(trial: CheckContext) -> Check:
    """Check 13: every example lies in the ball and the box; and what rounding to 8 bits changes."""
    x_adv, stood, norm = _examples(trial), withstood(trial), trial.threat.norm
    (excess, outside), allowed = _leaving(trial, x_adv), _rounding(trial, x_adv)
    bad = int(((excess > allowed) | (outside > TOLERANCE)).sum())
    low, high = (float(value) for value in x_adv.aminmax())
    fell = (trial.outcomes["clean"].cpu() == ROBUST) & ~stood
    rounded = (GREY_LEVELS * x_adv[fell]).round().clamp(0, GREY_LEVELS) / GREY_LEVELS
    kept, n = (
        int(misclassified(_logits(trial, rounded), trial.y.cpu()[fell]).sum()),
        int(fell.sum()),
    )
    further, _ = _leaving(trial, rounded, fell)
    level = float(length(torch.full((1, *x_adv.shape[1:]), 0.5 / GREY_LEVELS), norm))
    leaves, far = (int((further > allowed + more).sum()) for more in (0.0, level))
    lost = n - kept > max(SLACK * n, FEW) and trial.expectation == 1  # else chance restores them
    status: Status = "WARN" if lost else "PASS"
    return Check(
        "ball_and_box",
        "FAIL" if bad else status,
        f"{bad} of {len(x_adv)} examples leave the ball or the box (epsilon exceeded by "
        f"{max(float(excess.max()), 0.0):.2g} at most, pixels from {low:.6g} to {high:.6g}); "
        f"rounded to 8 bits {kept} of {n} still break the model, {leaves} leave the ball, {far} by "
        "more than half a grey level",
        "project onto the ball, then clip to [0, 1], in input units"
        if bad
        else "the claim is about float images: quote the accuracy on rounded ones beside it",
    )


def _examples(trial: CheckContext) -> Tensor:
    """Return the examples on the CPU."""
    if trial.x_adv is None or not len(trial.y):
        raise NotApplicableError("no attack has been run yet")
    if trial.x_adv.shape != trial.x.shape:
        raise ValueError(f"x_adv has shape {tuple(trial.x_adv.shape)}, x {tuple(trial.x.shape)}")
    return trial.x_adv.cpu()


def _leaving(
    trial: CheckContext, x_adv: Tensor, chosen: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return by how much examples of the chosen images leave the ball, and the box."""
    x = trial.x.cpu() if chosen is None else trial.x.cpu()[chosen]
    excess, outside = [torch.zeros(0)], [torch.zeros(0)]
    for image, example in zip(torch.split(x, 256), torch.split(x_adv, 256), strict=True):
        far = length(example.double() - image.double(), trial.threat.norm)
        # Not a number is no place in the ball.
        excess.append((far - trial.threat.epsilon).nan_to_num(torch.inf, torch.inf))
        outside.append(
            torch.maximum(-example, example - 1).flatten(1).amax(1).nan_to_num(torch.inf)
        )
    return torch.cat(excess), torch.cat(outside)


def _rounding(trial: CheckContext, x_adv: Tensor) -> float:
    """Return what storing pixels may add to the norm of a perturbation, besides `TOLERANCE`."""
    half_a_step = torch.finfo(x_adv.dtype).eps / 4
    each = torch.full((1, x_adv[0].numel()), half_a_step, dtype=torch.float64)
    return TOLERANCE + float(length(each, trial.threat.norm))


def _logits(trial: CheckContext, x: Tensor) -> Tensor:
    """Return the logits of images on the CPU, batch by batch on the device of the model."""
    if not len(x):
        return torch.zeros((0, 1))
    parts = torch.split(x, trial.batch_size)
    return torch.cat([trial.logits(part.to(trial.x, copy=True)).cpu() for part in parts])


def examples_valid(trial: CheckContext) -> Check:
    """Check 14: examples are numbers, and the image itself where it was wrong or has stood."""
    x_adv, stood = _examples(trial), withstood(trial)
    wrong = trial.outcomes["clean"].cpu() != ROBUST
    broken = ~x_adv.flatten(1).isfinite().all(1)
    touched = (x_adv != trial.x.cpu().to(x_adv)).flatten(1).any(1) & (wrong | stood) & ~broken
    bad = int(broken.sum()) + int(touched.sum())
    return Check(
        "examples_valid",
        "FAIL" if bad else "PASS",
        f"{int(broken.sum())} of {len(x_adv)} examples hold NaN or infinity; {int(touched.sum())} "
        f"of {int((wrong | stood).sum())} images that were wrong or have stood were changed",
        "attack only images that are classified correctly, and look for NaN in the gradient",
    )


def recount(trial: CheckContext) -> Check:
    """Check 15: the stored examples, classified again, give the robust accuracy that is claimed."""
    claimed, n = withstood(trial), len(trial.y)
    logits = _logits(trial, _examples(trial))
    again = ~misclassified(logits, trial.y.cpu())
    different = claimed != again
    count, lead = int(different.sum()), int(again.sum()) - int(claimed.sum())
    figure = (
        f"{int(claimed.sum())} of {n} images are claimed to stand, {int(again.sum())} do when the "
        f"stored examples are classified again; {count} differ"
    )
    status: Status = "FAIL" if count else "PASS"
    advice = "claims and examples do not belong together: evaluate again with one model and batch"
    if trial.expectation > 1:
        share = int(claimed.sum() + again.sum()) / (2 * n)
        noise = NOISE * (2 * share * (1 - share) * n) ** 0.5
        status = "PASS" if abs(lead) <= noise else "WARN" if lead > 0 else "FAIL"
        figure += f", where random answers may differ by {noise:.1f}"
        advice = "attacks and recount drew other random numbers: quote the mean of many recounts"
    elif count and bool(_is_tie(logits)[different].all()):
        status, advice = "WARN", "rounding decides these images: evaluate in float64 to be sure"
        figure += ", all of them with two equal logits but for rounding"
    return Check("recount", status, figure, advice)


def _is_tie(logits: Tensor) -> Tensor:
    """Return where the two largest logits are equal but for rounding."""
    if logits.shape[1] < 2:
        return torch.zeros(len(logits), dtype=torch.bool)
    top = logits.topk(2, dim=1).values
    return top[:, 0] - top[:, 1] <= TIE * logits.abs().amax(1)


def epsilon_zero(trial: CheckContext) -> Check:
    """Check 16: an attack without a budget changes no image and no answer."""
    x, y = (values.detach().clone() for values in trial.probe())
    if not len(y):
        raise NotApplicableError("there are no images")
    nothing = Threat(trial.threat.norm, 0.0)
    clean = ~misclassified(trial.logits(x), y).cpu()
    if trial.outcomes:
        clean = trial.outcomes["clean"].cpu()[: len(y)] == ROBUST
    attacks = (fgsm(trial.model, x, y, nothing), pgd(trial.model, x, y, nothing, steps=3))
    changed = int(torch.stack([(x_adv != x).flatten(1).any(1) for x_adv in attacks]).any(0).sum())
    flags = [~misclassified(trial.logits(x_adv), y).cpu() for x_adv in attacks]
    different = int(((flags[0] != clean) | (flags[1] != clean)).sum())
    random = trial.expectation > 1
    return Check(
        "epsilon_zero",
        "FAIL" if changed or (different and not random) else "PASS",
        f"epsilon 0 changes {changed} of {len(y)} images, and {different} are judged differently"
        + (", as random answers are" if random else ""),
        "the model draws random numbers, or clean and attacked images are prepared differently",
    )


def union(trial: CheckContext) -> Check:
    """Check 24: robust is, image by image, who withstood every attack."""
    outcomes = {name: value.cpu() for name, value in trial.outcomes.items()}
    stood = withstood(trial)
    left, faults, most = outcomes["clean"] == ROBUST, [], ("none", 0)
    if bool((outcomes["clean"] == SKIPPED).any()):
        faults.append("clean spares images")
    if set(outcomes) - {"clean"} != set(trial.attacks):
        faults.append("attacks and outcomes have other names")
    for name, result in trial.attacks.items():
        outcome = outcomes.get(name, torch.zeros(0))
        if outcome.shape != left.shape or not bool(((outcome == SKIPPED) == ~left).all()):
            faults.append(f"{name} was not run on just those that stood before")
            break
        left = left & (outcome == ROBUST)
        fell = int((outcome == BROKEN).sum())
        counted = (result.attacked, result.broken, result.standing.correct, result.standing.n)
        if counted != (int((outcome != SKIPPED).sum()), fell, int(left.sum()), len(left)):
            faults.append(f"the counts of {name} are not those of its outcomes")
        most = max(most, (name, fell), key=lambda found: found[1])
    clean, robust = int((outcomes["clean"] == ROBUST).sum()), int(stood.sum())
    if not faults and not bool((left == stood).all()):
        faults.append("the union is not what every attack leaves")
    if robust > clean:
        faults.append("robust exceeds clean")
    return Check(
        "union",
        "FAIL" if faults else "PASS",
        f"{clean} of {len(stood)} images are classified correctly and {robust} withstand all of "
        f"{len(trial.attacks)} attacks; most fall to {most[0]} ({most[1]})"
        + "".join(f"; {fault}" for fault in faults),
        "count an image as robust only if it withstood every attack, image by image",
    )


def selection(trial: CheckContext) -> Check:
    """Check 26: the checkpoint was not chosen on the images that it is judged on."""
    how = trial.known.get("selection")
    if how is None:
        raise NotApplicableError("it is not known how the checkpoint was chosen")
    words = one_line(how, 120)
    tested = re.search(r"\btest", words, re.I) and not re.search(r"\b(no|not|never)\b", words, re.I)
    figure = f"the checkpoint was chosen as: {words}"
    best, last = (trial.known.get(key) for key in ("best_robust", "last_robust"))
    course = _course(trial.known.get("training_history"))
    if best is None and last is None and course:
        best, last = max(course), course[-1]
    if best is not None and last is not None:
        figure += (
            f"; best {float(best):.2f} %, last {float(last):.2f} % robust, a gap of "
            f"{float(best) - float(last):.2f} points"
        )
    return Check(
        "selection",
        "WARN" if tested else "PASS",
        figure,
        "choose the checkpoint on images of its own, and report the last one beside it",
    )


def _course(history: Any) -> list[float]:
    """Return the robust accuracies of epochs, which are numbers or rows of a training history."""
    if not isinstance(history, Sequence) or isinstance(history, str):
        return []
    rows = [row.get("val_robust") if isinstance(row, Mapping) else row for row in history]
    return [float(value) for value in rows if value is not None]


def catastrophic_overfitting(trial: CheckContext) -> Check:
    """Check 27: robust accuracy never collapsed from one epoch to the next."""
    course = _course(trial.known.get("training_history"))
    if len(course) < 2:
        raise NotApplicableError("the robust accuracies of the training's epochs are not known")
    drops = [before - after for before, after in pairwise(course)]
    worst = max(range(len(drops)), key=drops.__getitem__)
    return Check(
        "catastrophic_overfitting",
        "WARN" if drops[worst] > COLLAPSE else "PASS",
        f"over {len(course)} epochs robust accuracy fell by {max(drops[worst], 0.0):.2f} points at "
        f"most from one to the next, from {course[worst]:.2f} % before epoch {worst + 2} to "
        f"{course[worst + 1]:.2f} %",
        "training with one step has overfitted to it: use smaller or more steps, or stop earlier",
    )


def corruptions(trial: CheckContext) -> Check:
    """Check 28: the accuracy on corrupted images belongs to images of this size."""
    found = trial.known.get("corruptions")
    if not isinstance(found, Mapping) or not {"mean", "size"} <= set(found):
        raise NotApplicableError("no accuracy on corrupted images is known")
    size, own = int(found["size"]), trial.x.shape[-1]
    return Check(
        "corruptions",
        "PASS" if size == own else "WARN",
        f"mean accuracy {float(found['mean']):.2f} % on corrupted images of {size} pixels a side; "
        f"the model is judged on {own}",
        "corrupt images of the size that the model takes: resizing afterwards changes ranks",
    )


def provenance(trial: CheckContext) -> Check:
    """Check 29: the row says what was evaluated and how."""
    missing = [name for name, keys in NEEDED.items() if not any(map(trial.known.get, keys))]
    if not trial.attacks or not all(a.settings and a.citation for a in trial.attacks.values()):
        missing.append("the attacks' settings")
    return Check(
        "provenance",
        "WARN" if missing else "PASS",
        f"{len(trial.y)} images, seed {trial.seed}, {len(trial.attacks)} attacks; "
        + (f"missing: {', '.join(missing)}" if missing else "nothing is missing"),
        "evaluate from files, through the command line, so that their digests are recorded",
    )


def ranking(trial: CheckContext) -> Check:
    """Check 30: a row with a failed check is written, but kept out of rankings."""
    if "checks" not in trial.notes:
        raise NotApplicableError("no other check was made")
    failed = failed_checks(trial.notes["checks"])
    return Check(
        "ranking",
        "WARN" if failed else "PASS",
        f"unreliable because of {', '.join(failed)}" if failed else "no check has failed",
        "written, but kept out of rankings unless flagged rows are allowed",
    )


def _judged(name: str, judge: CheckFn, trial: CheckContext) -> Check:
    """Return a verdict, whatever happens: SKIP where none applies, FAIL where the model raises."""
    try:
        with own_randomness(name, trial.seed), untouched(trial.model):
            return judge(trial)
    except NotApplicableError as reason:
        return Check(name, "SKIP", str(reason), "")
    except Exception as error:
        first = next(iter(str(error).splitlines()), "")
        words = f"the check ended in {type(error).__name__}: {one_line(first, 200)}"
        advice = "the model must take such images and return logits: call it on a few by hand"
        return Check(name, "FAIL", words, advice)


_JUDGES: dict[str, CheckFn] = {
    "ball_and_box": ball_and_box,
    "examples_valid": examples_valid,
    "recount": recount,
    "epsilon_zero": epsilon_zero,
    "attack_converged": attack_converged,
    "unbounded_attack": unbounded_attack,
    "margin_against_entropy": margin_against_entropy,
    "blackbox": blackbox,
    "random_corners": random_corners,
    "silent_success": silent_success,
    "loss_still_rising": loss_still_rising,
    "union": union,
    "controls": controls,
    "selection": selection,
    "catastrophic_overfitting": catastrophic_overfitting,
    "corruptions": corruptions,
    "provenance": provenance,
    "ranking": ranking,
}
ATTACK_CHECKS: dict[str, CheckFn] = {
    name: partial(_judged, name, judge) for name, judge in _JUDGES.items()
}
"""Name to verdict, in the order of the list."""
