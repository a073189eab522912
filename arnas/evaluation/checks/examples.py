"""Checks of what the attacks left: the examples, and the outcomes that are counted."""

from __future__ import annotations

import torch
from torch import Tensor

from arnas.attacks.oracle import misclassified
from arnas.attacks.pgd import fgsm, pgd
from arnas.attacks.projection import length
from arnas.attacks.threat import GREY_LEVELS, Threat
from arnas.evaluation.checks.base import CheckContext, NotApplicableError
from arnas.evaluation.checks.grades import FEW, SLACK, grade
from arnas.evaluation.checks.probes import suite_robust
from arnas.evaluation.monitor import TOLERANCE, EvalMonitor
from arnas.evaluation.result import BROKEN, ROBUST, SKIPPED, Check

TIE = 1e-4
"""Difference of the two largest logits, over the size of the logits, that rounding can turn."""
NOISE = 2.58
"""Standard deviations that random answers may differ by: 99 % of a normal distribution."""
RECOUNTS = 100
"""Passes over the examples of a random model."""


def ball_and_box(context: CheckContext) -> Check:
    """Fail if an example leaves the ball or [0, 1], warn if rounding to 8 bits undoes it."""
    x_adv, robust, norm = _examples(context), suite_robust(context), context.threat.norm
    (excess, outside), allowed = _leaving(context, x_adv), _rounding(context, x_adv)
    bad = int(((excess > allowed) | (outside > TOLERANCE)).sum())
    low, high = (float(value) for value in x_adv.aminmax())
    others = _others_outside(context.monitor, allowed)
    broken = (context.outcomes["clean"].cpu() == ROBUST) & ~robust
    rounded = (GREY_LEVELS * x_adv[broken]).round().clamp(0, GREY_LEVELS) / GREY_LEVELS
    kept = int(misclassified(context.logits(rounded), context.y.cpu()[broken]).sum())
    n = int(broken.sum())
    further, _ = _leaving(context, rounded, broken)
    level = float(length(torch.full((1, *x_adv.shape[1:]), 0.5 / GREY_LEVELS), norm))
    leaves, far = (int((further > allowed + more).sum()) for more in (0.0, level))
    lost = n - kept > max(SLACK * n, FEW) and context.expectation == 1  # else chance restores them
    return Check(
        "ball_and_box",
        grade(fail=bad or others, warn=lost),
        f"{bad} of {len(x_adv)} examples leave the ball or the box (epsilon exceeded by "
        f"{max(float(excess.max()), 0.0):.2g} at most, pixels from {low:.6g} to {high:.6g}); "
        f"rounded to 8 bits {kept} of {n} still break the model, {leaves} leave the ball, {far} by "
        f"more than half a grey level{others}",
        "project onto the ball, then clip to [0, 1], in input units"
        if bad or others
        else "the claim is about float images: quote the accuracy on rounded ones beside it",
    )


def _others_outside(monitor: EvalMonitor | None, allowed: float) -> str:
    """Return that examples which were not kept have left the ball or the box, in words, or ''."""
    if monitor is None or not monitor.examples or monitor.inside(allowed):
        return ""
    return (
        f"; of all {monitor.examples} examples that the attacks made some exceed epsilon by "
        f"{monitor.excess:.2g}, have pixels from {monitor.low:.6g} to {monitor.high:.6g}, or NaN"
    )


def _examples(context: CheckContext) -> Tensor:
    """Return the examples on the CPU."""
    if context.x_adv is None:
        raise NotApplicableError("no attack has been run yet")
    if context.x_adv.shape != context.x.shape:
        shapes = tuple(context.x_adv.shape), tuple(context.x.shape)
        raise ValueError(f"x_adv has shape {shapes[0]}, x {shapes[1]}")
    return context.x_adv.cpu()


def _leaving(
    context: CheckContext, x_adv: Tensor, chosen: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return by how much examples of the chosen images leave the ball, and the box."""
    x = context.x.cpu() if chosen is None else context.x.cpu()[chosen]
    excess, outside = [torch.zeros(0)], [torch.zeros(0)]
    for image, example in zip(torch.split(x, 256), torch.split(x_adv, 256), strict=True):
        far = length(example.double() - image.double(), context.threat.norm)
        # Not a number is no place in the ball.
        excess.append((far - context.threat.epsilon).nan_to_num(torch.inf, torch.inf))
        outside.append(
            torch.maximum(-example, example - 1).flatten(1).amax(1).nan_to_num(torch.inf)
        )
    return torch.cat(excess), torch.cat(outside)


def _rounding(context: CheckContext, x_adv: Tensor) -> float:
    """Return what storing pixels may add to the norm of a perturbation, besides `TOLERANCE`."""
    half_a_step = torch.finfo(x_adv.dtype).eps / 4
    each = torch.full((1, x_adv[0].numel()), half_a_step, dtype=torch.float64)
    return TOLERANCE + float(length(each, context.threat.norm))


def examples_valid(context: CheckContext) -> Check:
    """Fail if an example holds NaN, or an image was changed that no attack broke."""
    x_adv, robust = _examples(context), suite_robust(context)
    wrong = context.outcomes["clean"].cpu() != ROBUST
    broken = ~x_adv.flatten(1).isfinite().all(1)
    # Of a random model each image has its worst example, and is robust in a share of the passes.
    kept = wrong | robust if context.expectation == 1 else wrong
    touched = (x_adv != context.x.cpu().to(x_adv)).flatten(1).any(1) & kept & ~broken
    bad = int(broken.sum()) + int(touched.sum())
    return Check(
        "examples_valid",
        grade(fail=bad),
        f"{int(broken.sum())} of {len(x_adv)} examples hold NaN or infinity; {int(touched.sum())} "
        f"of {int(kept.sum())} images that were wrong or robust were changed",
        "attack only images that are classified correctly, and look for NaN in the gradient",
    )


def examples_reproduce(context: CheckContext) -> Check:
    """Fail if the stored examples, classified again, give another robust accuracy."""
    claimed, n = suite_robust(context), len(context.y)
    if context.expectation > 1:
        return _recount_random(context, claimed)
    logits = context.logits(_examples(context))
    again = ~misclassified(logits, context.y.cpu())
    different = claimed != again
    count = int(different.sum())
    evidence = (
        f"{int(claimed.sum())} of {n} images are reported robust, {int(again.sum())} are when the "
        f"stored examples are classified again; {count} differ"
    )
    status = grade(fail=count)
    advice = "claims and examples do not belong together: evaluate again with one model and batch"
    if count and bool(_is_tie(logits)[different].all()):
        status, advice = "WARN", "rounding decides these images: evaluate in float64 to be sure"
        evidence += ", all of them with two equal logits but for rounding"
    return Check("examples_reproduce", status, evidence, advice)


def _recount_random(context: CheckContext, claimed: Tensor) -> Check:
    """Compare the claimed number of robust images with the mean of repeated passes.

    Images that were wrong before the attacks are left out on both sides.
    """
    x_adv, y = _examples(context), context.y.cpu()
    right = context.outcomes["clean"].cpu() == ROBUST
    passes = torch.tensor(
        [float((~misclassified(context.logits(x_adv), y))[right].sum()) for _ in range(RECOUNTS)]
    )
    mean, n = float(passes.mean()), int(right.sum())
    # The number claimed is the mean of more passes, rounded image by image.
    noise = 2 + 2 * NOISE * float(passes.std()) / RECOUNTS**0.5
    return Check(
        "examples_reproduce",
        grade(fail=abs(mean - int(claimed.sum())) > noise),
        f"{int(claimed.sum())} of {n} images are reported robust, {mean:.1f} are in the mean of "
        f"{RECOUNTS} passes over the stored examples, {noise:.1f} more or fewer may be chance",
        "the attacks drew other random numbers: quote the mean of many repetitions",
    )


def _is_tie(logits: Tensor) -> Tensor:
    """Return where the two largest logits are equal but for rounding."""
    if logits.shape[1] < 2:
        return torch.zeros(len(logits), dtype=torch.bool)
    top = logits.topk(2, dim=1).values
    return top[:, 0] - top[:, 1] <= TIE * logits.abs().amax(1)


def epsilon_zero(context: CheckContext) -> Check:
    """Fail if an attack with epsilon 0 changes an image or a prediction."""
    images = context.sample()
    x, y = context.x[images].clone(), context.y[images]
    nothing = Threat(context.threat.norm, 0.0)
    clean = ~misclassified(context.logits(x), y).cpu()
    if context.outcomes:
        clean = context.outcomes["clean"].cpu()[images] == ROBUST
    attacks = (fgsm(context.model, x, y, nothing), pgd(context.model, x, y, nothing, steps=3))
    changed = int(torch.stack([(x_adv != x).flatten(1).any(1) for x_adv in attacks]).any(0).sum())
    flags = [~misclassified(context.logits(x_adv), y).cpu() for x_adv in attacks]
    different = int(((flags[0] != clean) | (flags[1] != clean)).sum())
    random = context.expectation > 1
    return Check(
        "epsilon_zero",
        grade(fail=changed or (different and not random)),
        f"epsilon 0 changes {changed} of {len(y)} images, {different} are classified differently"
        + (", as random answers are" if random else ""),
        "the model draws random numbers, or clean and attacked images are prepared differently",
    )


def union(context: CheckContext) -> Check:
    """Fail if robust accuracy is not the share of images robust to every attack."""
    outcomes = {name: value.cpu() for name, value in context.outcomes.items()}
    flags = suite_robust(context)
    left, faults, most = outcomes["clean"] == ROBUST, [], ("none", 0)
    if bool((outcomes["clean"] == SKIPPED).any()):
        faults.append("clean skips images")
    if set(outcomes) - {"clean"} != set(context.attacks):
        faults.append("attacks and outcomes have other names")
    for name, result in context.attacks.items():
        outcome = outcomes.get(name, torch.zeros(0))
        attacked = outcomes["clean"] == ROBUST if context.combine == "each" else left
        if outcome.shape != left.shape or not bool(((outcome == SKIPPED) == ~attacked).all()):
            faults.append(f"{name} was not run on exactly the images that it should attack")
            break
        left = left & (outcome == ROBUST)
        broken = int((outcome == BROKEN).sum())
        counted = (result.attacked, result.broken, *result.robust_accuracy[:2])
        if counted != (int((outcome != SKIPPED).sum()), broken, int(left.sum()), len(left)):
            faults.append(f"the counts of {name} are not those of its outcomes")
        most = max(most, (name, broken), key=lambda found: found[1])
    clean, robust = int((outcomes["clean"] == ROBUST).sum()), int(flags.sum())
    if not faults and not bool((left == flags).all()):
        faults.append("the union is not what every attack leaves")
    if robust > clean:
        faults.append("robust exceeds clean")
    return Check(
        "union",
        grade(fail=faults),
        f"{clean} of {len(flags)} images are classified correctly and {robust} withstand all of "
        f"{len(context.attacks)} attacks; {most[0]} breaks most ({most[1]})"
        + "".join(f"; {fault}" for fault in faults),
        "count an image as robust only if it is robust to every attack, image by image",
    )
