"""Checks whether the attacks were strong enough for their result to mean anything.

They attack the images of `CheckContext.probe` that the model classifies correctly, and look for the
signs of obfuscated gradients of Athalye et al. (arXiv 1802.00420, section 3.1), of the checklist of
Carlini et al. (arXiv 1902.06705) and of the indicators of attack failure of Pintor et al. (arXiv
2106.09947). PGD runs once on each objective and serves all of them.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from arnas.attacks.objectives import Objective, cross_entropy, margin
from arnas.attacks.oracle import misclassified
from arnas.attacks.projection import length, project, random_perturbation, shaped
from arnas.attacks.threat import Threat, unbounded
from arnas.evaluation.checks.base import CheckContext, NotApplicableError, remembered
from arnas.evaluation.checks.grades import FEW, SLACK, grade
from arnas.evaluation.checks.probes import (
    STEPS,
    PgdTrace,
    Probe,
    found,
    margin_of_known,
    numeric_ascent,
    perturbation,
    pgd_trace,
    probe_of,
)
from arnas.evaluation.checks.run import MARGIN_FAIL
from arnas.evaluation.result import BROKEN, ROBUST, Check

SHARE, ONE = 0.005, 1
"""Share of the images, and images, that twice the effort may break besides."""
CLOSE = 0.01
"""Share of the images by which the margin may be ahead of the cross-entropy."""
SUSPECT = 0.005
"""Share of the images that black-box attacks alone may break before masking is suspected."""
SEVERAL = 3
"""Images robust to the suite from which it counts as a fault that an attack of a check breaks them.
On honest networks under `standard` or `fast` no check breaks any."""
SMOOTHING = 8
"""Points that a smoothed gradient is averaged over."""
SATURATED = 0.5
"""Share of what the margin breaks that the cross-entropy must break too."""
CORNERS = 50
"""Random points that each image is tried with."""
NUMERIC_IMAGES = 32
"""Most images that are attacked along numerical gradients."""
LOST = 0.05
"""Share of the images that only an earlier iterate breaks, from which it is worth a look."""
LATE, RISE, RISING = 10, 0.05, 0.25
"""An image's loss still rises if its last 10 steps bring more than 5 % of the whole rise (Pintor et
al., indicator I4); the share of such images from which it is worth a look."""
STUCK = 0.1
"""Share of images on which no step along the gradient gained anything: a sign of masking."""


def pgd_entropy(context: CheckContext) -> PgdTrace:
    """Return PGD-20 on the cross-entropy and 20 steps more of the same size."""
    return _pgd_forty(context, "entropy", cross_entropy, full_steps=STEPS)


def pgd_margin(context: CheckContext) -> PgdTrace:
    """Return PGD-40 on the margin from the same start; its broken images get no further steps."""
    return _pgd_forty(context, "margin", margin)


def _pgd_forty(
    context: CheckContext, name: str, objective: Objective, full_steps: int = 0
) -> PgdTrace:
    def measure() -> PgdTrace:
        images, start = probe_of(context).images, perturbation(context, "start")
        size = 2.5 * context.threat.epsilon / STEPS
        trace = partial(pgd_trace, context, images, start, objective=objective, size=size)
        return trace(steps=2 * STEPS, full_steps=full_steps)

    return remembered(context, name, measure)


def attack_converged(context: CheckContext) -> Check:
    """Fail if one step beats twenty, or several images fall that are robust to the suite.

    Warn if more steps or starts break clearly more.
    """
    probe, entropy = probe_of(context), pgd_entropy(context)
    single, second = _fgsm(context, probe), _second_start(context, probe, entropy.broken(STEPS))
    twenty, forty, n = entropy.broken(STEPS), entropy.broken(), len(probe.y)
    lag, lost = int(single.sum() - twenty.sum()), int((single & ~twenty).sum())
    steps, starts = int((forty & ~twenty).sum()), int((second & ~twenty).sum())
    missed = int(((single | forty | second) & probe.robust).sum())
    warn = max(steps, starts) > SHARE * n + ONE or lag > 0
    masked, weak = lag > max(SLACK * n, ONE), _claimed(context) and missed >= SEVERAL
    return Check(
        "attack_converged",
        grade(fail=masked or weak, warn=warn or (_claimed(context) and missed)),
        f"of {n} images FGSM breaks {int(single.sum())}, PGD-20 {int(twenty.sum())} ({lost} only "
        f"FGSM); twice the steps break {steps} more, a second start {starts} more; {missed} of "
        f"these {'are robust to the suite' if _claimed(context) else 'were classified correctly'}",
        "one step beats twenty: a sign of masked gradients; try the margin and a black-box attack"
        if masked
        else "the suite is too weak for this model: quote the suite standard"
        if weak
        else "PGD-20 has not converged here: quote longer attacks, with several starts",
    )


def _claimed(context: CheckContext) -> bool:
    """Return whether images that a check breaks contradict the suite.

    Of a random model one misclassified pass does not.
    """
    return bool(context.outcomes) and context.expectation == 1


def _fgsm(context: CheckContext, probe: Probe) -> Tensor:
    """Return which images one step of the whole budget breaks."""
    start, size = torch.zeros_like(probe.x), context.threat.epsilon
    return pgd_trace(
        context, probe.images, start, objective=cross_entropy, steps=1, size=size
    ).broken()


def _second_start(context: CheckContext, probe: Probe, first: Tensor) -> Tensor:
    """Return which images PGD-20 breaks from the first start or another one."""
    broken, left = first.clone(), (~first).nonzero().flatten()
    if len(left):
        start = perturbation(context, "second start")[left]
        trace = pgd_trace(context, probe.images[left], start, objective=cross_entropy)
        broken[left] = trace.broken()
    return broken


def unbounded_attack(context: CheckContext) -> Check:
    """Fail if images are robust to a budget that allows every image."""
    probe, full = probe_of(context), unbounded(context.threat.norm, context.x[0].numel())
    n, curve = len(probe.y), []
    # A model that names one class whatever it sees cannot be broken on that class.
    constant = int(probe.y.min()) == int(probe.y.max())
    robust, at = torch.arange(n, device=probe.y.device), probe.x
    half = torch.zeros_like(probe.robust)
    for factor in (0.5, 1.0, 2.0, 4.0):
        if not 0 < factor * context.threat.epsilon < full.epsilon:
            continue
        threat = Threat(context.threat.norm, factor * context.threat.epsilon)
        if factor == 1:
            left = ~pgd_margin(context).broken()[robust]
            robust, at = robust[left], pgd_margin(context).best[robust[left]]
        else:
            robust, at = _attack_on(context, robust, at, threat, steps=STEPS // 2)
        curve.append(f"{len(robust)} at {threat.epsilon:.4g}")
        if factor < 1:
            half = torch.ones_like(half).index_fill(0, robust, False)
    robust, at = _attack_on(context, robust, at, full)
    for objective in (cross_entropy, margin):
        start = perturbation(context, f"full range {objective.__name__}", full)[robust]
        robust, at = _attack_on(context, robust, probe.x[robust] + start, full, objective)
    curve.append(f"{len(robust)} at {full.epsilon:.4g}, which allows every image")
    # Broken with half the budget, and by neither attack with all of it.
    lost = int((half & ~pgd_entropy(context).broken() & ~pgd_margin(context).broken()).sum())
    return Check(
        "unbounded_attack",
        grade(
            fail=len(robust) > (n if constant else FEW),
            warn=len(robust) or lost > max(SLACK * n, FEW),
        ),
        f"of {n} images remain robust: {', '.join(curve)}; half of epsilon breaks {lost} that "
        "epsilon itself does not",
        "the gradients mislead the attack: look for saturated, rounded or random outputs",
    )


def _attack_on(
    context: CheckContext,
    robust: Tensor,
    at: Tensor,
    threat: Threat,
    objective: Objective = margin,
    steps: int = STEPS,
) -> tuple[Tensor, Tensor]:
    """Attack the robust images from where they are; return those still robust and their points."""
    if not len(robust):
        return robust, at
    images = probe_of(context).images[robust]
    start = at - context.x[images]
    trace = pgd_trace(context, images, start, objective=objective, threat=threat, steps=steps)
    left = ~trace.broken()
    return robust[left], trace.best[left]


def margin_against_entropy(context: CheckContext) -> Check:
    """Fail if the margin's gradient breaks many images the cross-entropy's does not.

    Large logits saturate the cross-entropy, whose gradient then vanishes; the margin's does not.
    The other way round there is no such reason: where several classes are near, PGD on the margin
    is a little weaker on honest models too, and only a large difference is worth a look.
    """
    entropy, rival = pgd_entropy(context).broken(), pgd_margin(context).broken()
    n, lead = len(entropy), int(rival.sum() - entropy.sum())
    warn = lead > max(CLOSE * n, ONE) or -lead > max(MARGIN_FAIL * n, FEW)
    # Of a model that resists well, a tenth of all images may be more than can be broken at all.
    fail = lead > FEW and lead > min(MARGIN_FAIL * n, SATURATED * int(rival.sum()))
    return Check(
        "margin_against_entropy",
        grade(fail=fail, warn=warn),
        f"of {n} images PGD-40 on the cross-entropy breaks {int(entropy.sum())}, PGD-40 on the "
        f"margin {int(rival.sum())}",
        "masking: the cross-entropy saturates; look at the size of the logits and attack the margin"
        if lead > 0
        else "the margin's gradients mislead: quote the union of both",
    )


def blackbox(context: CheckContext) -> Check:
    """Fail if numerical gradients break several images that are robust to all else.

    Or if other attacks without gradients break more, and other signs of masking are there.
    """
    probe, n = probe_of(context), len(context.y)
    unseen = black_box_breaks(context)
    only = sum(unseen.values())
    seen = pgd_entropy(context).broken() | pgd_margin(context).broken()
    left = (probe.robust & ~seen).nonzero().flatten()[:NUMERIC_IMAGES]
    numeric = int(numeric_ascent(context, probe.images[left]).sum())
    signs = _signs_of_masking(context)
    many = only >= SEVERAL and only > SUSPECT * n
    status = grade(fail=(signs and many) or numeric >= SEVERAL, warn=only or numeric)
    return Check(
        "blackbox",
        status,
        f"{only} of {n} images are broken only by {', '.join(unseen) or 'a black-box attack'}; "
        f"numerical gradients break {numeric} of {len(left)} robust to all else"
        + (f"; {', and '.join(signs)}" if signs else ""),
        "masking is suspected: attack a smooth approximation of what has no gradient"
        if status == "FAIL"
        else "attacks that see the gradient should find these: give them more steps and starts",
    )


def black_box_breaks(context: CheckContext) -> dict[str, int]:
    """Return what Square and transferred examples broke that earlier attacks did not.

    Only those count that come after an attack that sees gradients.
    """
    found, seen, left = {}, False, torch.ones(len(context.y), dtype=torch.bool)
    for name, outcome in context.outcomes.items():
        if name != "square" and not name.startswith("transfer"):
            seen = seen or name != "clean"
        elif seen:
            found[name] = int((left & (outcome.cpu() == BROKEN)).sum())
        left &= outcome.cpu() == ROBUST
    return found


def smoothed_gradient(context: CheckContext) -> Check:
    """Fail if gradients averaged over the neighbourhood break images robust to the suite.

    Ripples, steps and outputs that never win mislead the gradient of a point, and average out.
    """
    probe = probe_of(context)
    images = probe.images[probe.robust]
    if not len(images):
        raise NotApplicableError("no image is robust to the suite")
    start = torch.zeros_like(probe.x[probe.robust])
    objective = margin_of_known(context)
    trace = pgd_trace(context, images, start, objective=objective, smoothing=SMOOTHING)
    count = int(trace.broken().sum())
    claimed = _claimed(context)
    return Check(
        "smoothed_gradient",
        grade(fail=claimed and count >= SEVERAL, warn=claimed and count),
        f"PGD-{STEPS} on gradients averaged over {SMOOTHING} points near by breaks {count} of "
        f"{len(images)} images {'robust to the suite' if claimed else 'classified correctly'}",
        "quote the suite standard; if it breaks no more, the gradients mislead: attack a smooth "
        "approximation of the model",
    )


def _signs_of_masking(context: CheckContext) -> list[str]:
    """Return what besides black-box attacks says that the gradients mislead, in words."""
    signs = []
    if margin_against_entropy(context).status != "PASS":
        signs.append("the margin and the cross-entropy disagree")
    if loss_still_rising(context).status != "PASS":
        signs.append("the loss still rises")
    if stuck(context) > STUCK:
        signs.append(f"no step along the gradient helps on {100 * stuck(context):.0f} % of images")
    return signs


def stuck(context: CheckContext) -> float:
    """Return the share of images whose margin no step of PGD-20 raises above that of its start."""
    trace = pgd_margin(context)
    start, later = trace.values[0], trace.values[1:].nan_to_num(-torch.inf).amax(0)
    return float((~trace.wrong[0] & (later <= start)).float().mean())


def random_corners(context: CheckContext) -> Check:
    """Fail if random points of the ball break images that the attacks did not."""
    probe = probe_of(context)
    x, y, images = (values[probe.robust] for values in (probe.x, probe.y, probe.images))
    broken = torch.zeros(len(y), dtype=torch.bool, device=y.device)
    for number in range(CORNERS if len(y) else 0):
        delta = random_perturbation(context.uniform(f"corner {number}", images), context.threat)
        if context.threat.norm == "linf":
            delta = context.threat.epsilon * delta.sign()
        else:
            size = shaped(length(delta, context.threat.norm), delta)
            delta = delta * context.threat.epsilon / size.clamp_min(1e-12)
        point = (x + project(x, delta, context.threat)).clamp(0, 1)
        broken |= (fell := misclassified(context.logits(point), y))
        found(context, images[fell], point[fell])
    count = int(broken.sum())
    return Check(
        "random_corners",
        grade(fail=count > ONE, warn=count),
        f"{count} of {len(y)} images robust to the suite are broken by one of {CORNERS} "
        "random corners of the ball",
        "chance finds what the attacks missed: the gradients are masked or the attacks too short",
    )


def silent_success(context: CheckContext) -> Check:
    """Warn if an attack that returns its last iterate loses images it had broken."""
    wrong = pgd_entropy(context).wrong[: STEPS + 1]
    count, n = int((wrong.any(0) & ~wrong[-1]).sum()), wrong.shape[1]
    return Check(
        "silent_success",
        grade(warn=count > LOST * n),
        f"{count} of {n} images are broken by an earlier iterate of PGD-20 but not by the last",
        "keep the best iterate, and take smaller steps: the loss is rough",
    )


def loss_still_rising(context: CheckContext) -> Check:
    """Warn if the loss of the images robust to PGD-40 has not stopped rising.

    Looked at are the last ten of forty steps: with twenty of this size, ten are still on their way
    from a random start to the other side of the ball, and the loss of nearly every image rises.
    """
    trace = pgd_entropy(context)
    values = trace.values[:, ~trace.broken()].cummax(0).values
    late, whole = values[-1] - values[-1 - LATE], values[-1] - values[0]
    count, n = int((late > RISE * whole).sum()), values.shape[1]
    return Check(
        "loss_still_rising",
        grade(warn=count > max(RISING * n, FEW)),
        f"the loss of {count} of {n} images robust to PGD-40 still rises in its last {LATE} steps",
        "the attack has not converged: more steps, or larger ones",
    )
