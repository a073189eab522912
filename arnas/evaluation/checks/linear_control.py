"""A control of the evaluator itself: a classifier whose robustness is known exactly.

The nearest of the class means is a linear classifier, so that the largest change of a margin within
the ball and the box is a sum over pixels that can be written down. What the attacks find on it, on
the same images and with the same budget, must agree; and the same classifier with logits that
saturate the cross-entropy must be noticed.
"""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
from torch import Tensor, nn

from arnas.attacks.apgd import apgd
from arnas.attacks.objectives import margin
from arnas.attacks.oracle import misclassified
from arnas.attacks.threat import Threat, unbounded
from arnas.evaluation.checks.base import CheckContext, NotApplicableError
from arnas.evaluation.checks.grades import FEW, SLACK, grade
from arnas.evaluation.checks.strength import margin_against_entropy
from arnas.evaluation.result import Check

DUAL = {"linf": 1.0, "l2": 2.0, "l1": float("inf")}
"""Order of the norm that bounds what a budget does to a linear function."""
LOUD = 1000.0
"""Factor of the logits of the masked control, whose median margin is 1 before."""
TARGETS = 9
"""Most likely rivals that the attack heads for, as many as in AutoAttack."""
STEPS = 40
"""Of each run of the attack: the gradient of a linear classifier leads there directly."""
HELD = 8
"""Images that cannot be broken and are attacked nevertheless."""
NEAR = 1e-6
"""Share of an image's margin within which rounding may decide."""


class Exact(NamedTuple):
    """What is known of a linear classifier, bool of shape (N,)."""

    certified: Tensor
    """Robust even if pixels could leave [0, 1], by the dual norm."""
    robust: Tensor
    """Robust within ball and box."""
    breakable: Tensor
    """Not robust. An image that is neither lies on the edge, where rounding decides."""


def nearest_mean(x: Tensor, y: Tensor) -> tuple[nn.Sequential, Tensor]:
    """Return the classifier by the nearest class mean, in float64, and the classes it knows."""
    classes = torch.unique(y)
    means = torch.stack([x[y == label].flatten(1).double().mean(0) for label in classes])
    layer = nn.Linear(means.shape[1], len(classes)).to(means)
    with torch.no_grad():
        layer.weight.copy_(means)
        layer.bias.copy_(-means.square().sum(1) / 2)
    return nn.Sequential(nn.Flatten(), layer), classes


def scaled(model: nn.Sequential, factor: float, dtype: torch.dtype) -> nn.Sequential:
    """Return a copy of a linear classifier with larger logits."""
    larger = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in larger.parameters():
            parameter.mul_(factor)
    return larger.to(dtype)


def exact_robustness(model: nn.Sequential, x: Tensor, y: Tensor, threat: Threat) -> Exact:
    """Return which float64 images a linear classifier keeps, whatever the attacker does."""
    layer = model[1]
    assert isinstance(layer, nn.Linear)
    with torch.no_grad():
        logits, flat = model(x), x.flatten(1)
        certified = torch.ones_like(y, dtype=torch.bool)
        robust, breakable = certified.clone(), ~certified
        for rival in range(logits.shape[1]):
            other = y != rival
            lead = logits.gather(1, y[:, None]).squeeze(1) - logits[:, rival]
            slope = layer.weight[rival] - layer.weight[y]
            dual = torch.linalg.vector_norm(slope, DUAL[threat.norm], dim=1)
            gain, near = largest_gain(slope, flat, threat), NEAR * lead.abs() + 1e-12
            certified &= ~other | (lead > threat.epsilon * dual + near)
            robust &= ~other | (lead > gain + near)
            breakable |= other & (lead < gain - near)
    return Exact(certified, robust, breakable)


def largest_gain(slope: Tensor, x: Tensor, threat: Threat) -> Tensor:
    """Return the largest slope . delta over the perturbations within ball and box, of shape (N,).

    Every pixel moves the way its slope points, as far as the box allows. In linf that is cut at
    epsilon; L1 spends its budget on the steepest pixels first; in L2 the pixels move in proportion
    to their slopes, by the multiplier that spends the budget.
    """
    steep, room = slope.abs(), torch.where(slope > 0, 1 - x, x).clamp_min(0)
    if threat.norm == "linf":
        return (steep * room.clamp_max(threat.epsilon)).sum(1)
    if threat.norm == "l1":
        steep, order = steep.sort(dim=1, descending=True)
        spent = room.gather(1, order).cumsum(1).clamp_max(threat.epsilon)
        return (steep * torch.diff(spent, dim=1, prepend=torch.zeros_like(spent[:, :1]))).sum(1)
    return (steep * torch.minimum(_multiplier(steep, room, threat.epsilon) * steep, room)).sum(1)


def _multiplier(steep: Tensor, room: Tensor, epsilon: float) -> Tensor:
    """Return t, of shape (N, 1), for which min(t steep, room) has length epsilon; or is the room.

    Between two kinks, where pixels reach the end of their room, the squared length is quadratic.
    """
    kink, order = (room / steep).where(steep > 0, torch.inf).sort(dim=1)
    used = room.gather(1, order).where(kink.isfinite(), 0.0).square().cumsum(1)
    free = steep.gather(1, order).square().flip(1).cumsum(1).flip(1)
    before = torch.cat([torch.zeros_like(used[:, :1]), used[:, :-1]], 1)
    # How far a pixel's interval of t could go; the first that does not reach its kink is the one.
    t = ((epsilon**2 - before).clamp_min(0) / free).sqrt()
    stops = (t <= kink) & (free > 0)
    first = stops.int().argmax(1, keepdim=True)
    furthest = kink.where(kink.isfinite(), 0.0).amax(1, keepdim=True)
    return torch.where(stops.any(1, keepdim=True), t.gather(1, first), furthest)


class Control(NamedTuple):
    """A linear classifier, images that it classifies correctly, and what is known of them."""

    model: nn.Sequential
    x: Tensor
    y: Tensor
    threat: Threat
    exact: Exact


def make_control(context: CheckContext) -> Control:
    """Return the control for a context's images and budget.

    Where the budget is too small for it to lose a quarter of its images, a power of two times as
    much is taken: an attack cannot be judged on a model that has nothing to lose.
    """
    images = context.sample()
    x, y = context.x[images], context.y[images]
    if len(set(y.tolist())) < 2:
        raise NotApplicableError("the control needs images of two classes")
    model, classes = nearest_mean(context.x, context.y)
    x, label = x.double().clamp(0, 1), torch.searchsorted(classes, y)
    lead = -margin(model(x).detach(), label)
    known = lead > 0
    if int(known.sum()) <= FEW:
        raise NotApplicableError("the control, the nearest class mean, knows too few images")
    # So that the margins of all data have one size, and LOUD one meaning.
    model = scaled(model, 1 / float(lead[known].median()), x.dtype)
    x, label = x[known], label[known]
    threat, full = context.threat, unbounded(context.threat.norm, x[0].numel())
    if not threat.epsilon:
        threat = Threat(full.norm, full.epsilon / 256)
    while True:
        exact = exact_robustness(model, x, label, threat)
        if int(exact.breakable.sum()) > max(FEW, len(x) / 4) or threat == full:
            return Control(model, x, label, threat, exact)
        threat = Threat(full.norm, min(2 * threat.epsilon, full.epsilon))


def linear_control(context: CheckContext) -> Check:
    """Fail if the attacks miss the exact answer on a linear classifier."""
    control = make_control(context)
    exact, threat = control.exact, control.threat
    broken = attack_control(control)
    impossible = int((broken & exact.robust).sum())
    breakable, missed = int(exact.breakable.sum()), int((exact.breakable & ~broken).sum())
    loud = CheckContext(
        scaled(control.model, LOUD, torch.float32),
        control.x.float(),
        control.y,
        threat,
        context.suite,
        context.seed,
        context.batch_size,
    )
    masked = margin_against_entropy(loud)
    wrong = impossible or missed > max(SLACK * breakable, FEW)
    return Check(
        "linear_control",
        grade(fail=wrong or masked.status != "FAIL"),
        f"of {len(broken)} images a linear classifier {int(exact.certified.sum())} are certified "
        f"and {breakable} can be broken at epsilon {threat.epsilon:.4g}; APGD misses {missed} of "
        f"these and breaks {impossible} that cannot be broken; with logits x {LOUD:.0f} "
        f"masking is {'' if masked.status == 'FAIL' else 'not '}noticed ({masked.evidence})",
        "the attacks do not work on these images: look at their range, their type and epsilon",
    )


def attack_control(control: Control) -> Tensor:
    """Return which images APGD breaks, on the cross-entropy or on the margin to likely rivals.

    Of the images that cannot be broken a few are enough, and two tries at each.
    """
    model, x, y, threat, exact = control
    logits = model(x).detach()
    broken = torch.zeros_like(y, dtype=torch.bool)
    held = exact.robust & (exact.robust.cumsum(0) <= HELD)
    tries = min(TARGETS, logits.shape[1] - 1)
    rivals = logits.scatter(1, y[:, None], -torch.inf).topk(tries, dim=1).indices
    for number in range(tries + 1):
        left = (~broken & (exact.breakable | (held if number < 2 else False))).nonzero().flatten()
        image, label = x[left], y[left]
        aim = {"targets": rivals[left, number - 1], "objective": margin} if number else {}
        x_adv = apgd(model, image, label, threat, steps=STEPS, **aim)
        broken[left] = misclassified(model(x_adv).detach(), label)
    return broken
