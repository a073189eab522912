"""FAB: along the nearest decision boundary, as close to the image as it gets.

The Fast Adaptive Boundary attack (Croce and Hein, ICML 2020, arXiv 1907.02044) as AutoAttack runs
it. At each step the classifier is replaced by its linearisation, and point and image are both
brought onto the linearised boundary by their smallest changes; the next point lies a little beyond
it, between the two. The attack goes on until a point is misclassified within the budget; how much
closer another one would have come is not asked here.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from arnas.attacks.eval_mode import BatchNorm, frozen_eval
from arnas.attacks.hyperplane import change_onto
from arnas.attacks.objectives import targeted_margin
from arnas.attacks.oracle import AttackOutput, LossAndGrad, Oracle, RandomStreams, misclassified
from arnas.attacks.pgd import check_start
from arnas.attacks.projection import TINY, shaped
from arnas.attacks.threat import Threat
from arnas.runtime.errors import UserError
from arnas.runtime.seeds import make_generator

MOST_BIAS, OVERSHOOT, WAY_BACK = 0.1, 1.05, 0.9
"""Published parameters: alpha_max, how much of the image's own change enters a step; eta, how far
a step goes beyond the boundary; beta, what is left of the distance to the image after a point was
misclassified too far away (section 3 of the paper)."""
LEAST_CHANGE = 1e-8
"""Changes are compared as though they had at least this length, as in the reference package."""
DUALS = {"linf": "l1", "l2": "l2", "l1": "linf"}
"""The norm of a gradient that turns a difference of logits into a distance."""
CACHED = 2**16
"""Pixels that are moved at a time on a CPU: the tensors stay in its cache, which makes it about
three times as fast for images of 3x32x32."""
CONTEXTS = 4
"""Ways in which a point's last two verdicts can have come out."""


@dataclass
class _Walk:
    """Where each image still under attack stands; every field has the images first."""

    place: Tensor
    """int64: the image's index in the batch."""
    image: Tensor
    labels: Tensor
    """Of shape (N,) or (N, 2)."""
    point: Tensor
    taken: Tensor
    """int64: steps so far."""
    judged: Tensor
    """bool: whether the point is one that a step must start from, whatever the model says of it."""
    left: Tensor
    """bool: whether the image is done with."""
    crossed: Tensor
    """bool of shape (N, 4): whether the point was misclassified that came after two verdicts like
    this, the last time that they came out so."""
    context: Tensor
    """int64: how the last two verdicts came out."""

    def keep(self, index: Tensor) -> None:
        """Go on with some of the images only, bool of shape (N,)."""
        if not bool(index.all()):
            for name, value in vars(self).items():
                setattr(self, name, value[index])

    def rows(self) -> Tensor:
        """Return the indices of the images that are under attack."""
        return torch.arange(len(self.place), device=self.place.device)

    @property
    def true(self) -> Tensor:
        """Return the true classes, int64 of shape (N,)."""
        return self.labels if self.labels.ndim == 1 else self.labels[:, 0]


def fab_batch(
    oracle: Oracle,
    x: Tensor,
    labels: Tensor,
    threat: Threat,
    streams: RandomStreams | None = None,
    *,
    steps: int = 100,
) -> AttackOutput:
    """Walk along the nearest decision boundary until a point is misclassified in the ball.

    A step looks at the model twice: whether the new point is misclassified, which sends it back
    towards the image unless that breaks it, and for the gradient where the next step starts. If the
    point is not sent back, one pass could do both, but most are: 91 of 100 in linf and 96 in L2
    on small adversarially trained networks, 58 in L1. So a targeted step spares itself the first
    look only where the image's own verdicts have been following one another in a pattern that
    says that the point will be classified correctly. This changes the order of the passes and not
    the points. An untargeted step, whose gradients cost much more than a look, always looks first.

    Parameters
    ----------
    oracle
        The model. An image's logits must not depend on the others.
    x
        float of shape (N, ...) in [0, 1].
    labels
        int64 of shape (N,), the true classes: each step goes for the class that seems nearest. Or
        of shape (N, 2), true classes and targets: each goes for the target, and any other class
        counts.
    threat
        Norm and budget.
    streams
        Not used: the attack starts at the images.
    steps
        Most steps, from 0 up.

    Returns
    -------
    AttackOutput
        Broken are the images of which a point was misclassified at a distance of at most epsilon;
        `x_adv` is the first such point. The others are returned as they were. A start that is
        misclassified is such a point: all of them lie in the ball.
    """
    return fab_from(oracle, x, labels, x, threat, steps)


def fab_from(
    oracle: Oracle, x: Tensor, labels: Tensor, start: Tensor, threat: Threat, steps: int
) -> AttackOutput:
    """Do the same from given points of the ball."""
    x = x.detach()
    found = AttackOutput(torch.zeros(len(x), dtype=torch.bool, device=x.device), x.clone())
    walk = _begin(x, labels, start.clone())
    while len(walk.place):
        asked = ~walk.judged
        if labels.ndim > 1:
            expected = walk.crossed.gather(1, walk.context[:, None]).squeeze(1)
            asked &= expected | (walk.taken == steps)
        rows = walk.rows()[asked]
        if len(rows):
            wrong = oracle.is_wrong(walk.point[rows], walk.true[rows])
            _judge(walk, rows, wrong, threat, found)
        walk.keep(~walk.left & (walk.taken < steps))
        for rows in torch.split(walk.rows(), oracle.batch_size) if len(walk.place) else ():
            _advance(oracle, walk, rows, threat, found)
        walk.keep(~walk.left)
    return found


def random_start(x: Tensor, noise: Tensor, threat: Threat) -> Tensor:
    """Return points half the budget away from the images.

    `noise` has x's shape and is uniform in [0, 1] for linf, normal for L2 and L1.
    """
    direction = 2 * noise - 1 if threat.norm == "linf" else noise
    size = shaped(_length(direction.flatten(1), threat.norm), x).clamp_min(TINY)
    return (x + threat.epsilon / 2 * direction / size).clamp(0, 1)


def _length(values: Tensor, norm: str) -> Tensor:
    """Return the norm over the last dimension.

    A CPU takes 15 times as long for it by `torch.linalg.vector_norm` in linf, 5 times in L1.
    """
    if norm == "l2":
        size: Tensor = torch.linalg.vector_norm(values, dim=-1)
        return size
    return values.abs().amax(-1) if norm == "linf" else values.abs().sum(-1)


def _begin(x: Tensor, labels: Tensor, point: Tensor) -> _Walk:
    """Return the walk before its first step. Its images are expected to cross the boundary."""
    count = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    no = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    return _Walk(
        place=torch.arange(len(x), device=x.device),
        image=x,
        labels=labels,
        point=point,
        taken=count,
        judged=~no,
        left=no,
        crossed=~no[:, None].repeat(1, CONTEXTS),
        context=count.clone(),
    )


def _judge(walk: _Walk, rows: Tensor, wrong: Tensor, threat: Threat, found: AttackOutput) -> Tensor:
    """Act on what the model says of the points of some rows.

    Returns which of the rows have neither left nor been sent back, bool of shape (rows,).
    """
    new = ~walk.judged[rows]
    judged, verdict, context = rows[new], wrong[new], walk.context[rows[new]]
    walk.crossed[judged, context] = verdict
    walk.context[judged] = (2 * context + verdict) % CONTEXTS
    walk.judged[judged] = True
    stays = torch.ones_like(wrong)
    if bool(wrong.any()):
        there = wrong.nonzero().flatten()
        beyond = rows[there]
        delta = walk.point[beyond] - walk.image[beyond]
        # In double precision: float32 adds up an L1 norm with errors as large as the tolerance.
        broken = _length(delta.flatten(1).double(), threat.norm) <= threat.epsilon
        walk.left[beyond] = broken
        found.broken[walk.place[beyond]] = broken
        found.x_adv[walk.place[beyond[broken]]] = walk.point[beyond[broken]]
        back = ~broken & new[there]
        walk.point[beyond[back]] = walk.image[beyond[back]] + WAY_BACK * delta[back]
        stays[there] = ~(broken | back)
    return stays


def _advance(
    oracle: Oracle, walk: _Walk, rows: Tensor, threat: Threat, found: AttackOutput
) -> None:
    """Take one step with each of some rows, one batch at most.

    Rows whose points turn out to be misclassified are sent back instead and step another time.
    """
    point, labels = walk.point[rows], walk.labels[rows]
    surface = (
        _nearest_boundary(oracle, point, labels, threat.norm)
        if labels.ndim == 1
        else oracle.slope(point, labels, targeted_margin)
    )
    wrong = misclassified(surface.logits, walk.true[rows])
    stays = _judge(walk, rows, wrong, threat, found)
    if not bool(stays.all()):
        rows, point, wrong = rows[stays], point[stays], wrong[stays]
        surface = LossAndGrad(*(values[stays] for values in surface))
    if not len(rows):
        return
    moved = _moved(point, walk.image[rows], surface.gradient, surface.value, threat.norm)
    walk.point[rows] = moved
    walk.taken[rows] += 1
    walk.judged[rows] = False
    if oracle.expectation == 1:
        # A step to where it started, as on a flat model: so would be all that follow.
        still = _length((moved - point).flatten(1), "linf") == 0
        walk.left[rows] = still & ~wrong


def _nearest_boundary(oracle: Oracle, x: Tensor, y: Tensor, norm: str) -> LossAndGrad:
    """Return the difference to the class whose linearised boundary is nearest, and its gradient.

    One forward pass and a backward pass for each other class, whose gradients are held together.
    """
    x = x.detach().requires_grad_()
    total = x.new_zeros(())
    for _ in range(oracle.expectation):
        with torch.enable_grad():
            logits = oracle.model(x)
            rivals = torch.arange(logits.shape[1] - 1, device=x.device).expand(len(x), -1)
            rivals = rivals + (rivals >= y[:, None])
            gaps = logits.gather(1, rivals) - logits.gather(1, y[:, None])
        total = total + _gradients(gaps, x)
    oracle.forwards += oracle.expectation * len(x)
    oracle.backwards += oracle.expectation * rivals.numel()
    gradients, gaps, logits = total / oracle.expectation, gaps.detach(), logits.detach()
    if not rivals.numel():
        return LossAndGrad(torch.zeros_like(x), torch.zeros_like(logits[:, 0]), logits)
    steepness = _length(gradients.flatten(2), DUALS[norm])
    distance = (gaps.abs() / (TINY + steepness)).nan_to_num(torch.inf, torch.inf)
    nearest, row = distance.argmin(1), torch.arange(len(x), device=x.device)
    return LossAndGrad(gradients[row, nearest], gaps[row, nearest], logits)


def _gradients(gaps: Tensor, x: Tensor) -> Tensor:
    """Return the gradient of each column of `gaps`, of shape (N, columns, ...).

    Zero where there is none, or no number, as in `Oracle.slope`.
    """
    if not gaps.requires_grad:
        return x.new_zeros(len(x), gaps.shape[1], *x.shape[1:])
    columns = [
        torch.autograd.grad(
            gap.sum(), x, retain_graph=True, allow_unused=True, materialize_grads=True
        )[0]
        for gap in gaps.unbind(1)
    ]
    return (
        torch.stack(columns, 1).nan_to_num(0) if columns else x.new_zeros(len(x), 0, *x.shape[1:])
    )


def _moved(point: Tensor, image: Tensor, gradient: Tensor, value: Tensor, norm: str) -> Tensor:
    """Return the next points.

    Parameters
    ----------
    point, image
        Of shape (N, ...).
    gradient, value
        Of the linearised function that is zero at the boundary, at the points.
    norm
        ``linf``, ``l2`` or ``l1``.
    """
    few = max(1, CACHED // point[0].numel()) if point.device.type == "cpu" else len(point)
    parts = zip(
        *(torch.split(values, few) for values in (point, image, gradient, value)), strict=True
    )
    return torch.cat([_step(a, b, c, d, norm) for a, b, c, d in parts])


def _step(point: Tensor, image: Tensor, gradient: Tensor, value: Tensor, norm: str) -> Tensor:
    """Return the same for a few points (algorithm 1 of the paper)."""
    both = torch.stack([point, image], 1).flatten(2)
    normal = gradient.flatten(1)
    at_image = value + torch.linalg.vecdot(both[:, 1] - both[:, 0], normal)
    changes = change_onto(both, normal[:, None], torch.stack([value, at_image], 1), norm)
    sizes = _length(changes, norm).clamp_min(LEAST_CHANGE)
    bias = (sizes[:, :1] / sizes.sum(1, keepdim=True)).clamp_max(MOST_BIAS)
    aims = torch.add(both, changes, alpha=OVERSHOOT)
    moved = torch.lerp(aims[:, 0], aims[:, 1], bias).clamp(0, 1).view_as(point)
    # No number where gradients or logits hold none: such a pixel stays.
    return moved.where(~moved.isnan(), point) if bool(moved.sum().isnan()) else moved


def fab(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    steps: int = 100,
    restarts: int = 1,
    targets: Tensor | None = None,
    generator: torch.Generator | None = None,
    batch_norm: BatchNorm = "eval",
    batch_size: int = 250,
) -> Tensor:
    """Look for misclassified points of the ball along the nearest decision boundary.

    The attack of Croce and Hein (ICML 2020, arXiv 1907.02044); see `fab_batch`.

    Parameters
    ----------
    model, batch_norm
        As for `arnas.attacks.pgd.pgd`.
    x
        float of shape (N, C, H, W) with values in [0, 1].
    y
        int64 of shape (N,): true labels.
    threat
        Norm and budget.
    steps
        Most steps, from 0 up; the published budget is 100.
    restarts
        Walks, from 1 up: the first one starts at the image, the others at random points half the
        budget away, with the images that still stand.
    targets
        int64 of shape (N,): the class whose boundary each image goes for. By default the nearest
        at each step, which takes a backward pass for each class.
    generator
        Source of the random starts, on any device; None uses a CPU generator with a fixed seed.
    batch_size
        Images that go through the model together, from 1 up.

    Returns
    -------
    Tensor
        x_adv of x's shape and dtype, inside the ball and the box within 1e-6. Images that stand,
        and those misclassified already, are returned as they were.

    Raises
    ------
    UserError
        When x and y do not fit each other, x leaves [0, 1], or an argument is impossible.
    """
    check_start(x, y, steps, None)
    for name, number in (("restarts", restarts), ("batch_size", batch_size)):
        if number < 1:
            raise UserError(f"{name} is {number}: allowed are 1 and more.")
    if targets is not None and targets.shape != y.shape:
        raise UserError(
            f"targets has shape {tuple(targets.shape)}: needed is one class for each image, "
            f"{tuple(y.shape)}."
        )
    x = x.detach()
    result = x.clone()
    if threat.epsilon == 0:
        return result
    labels = y if targets is None else torch.stack([y, targets], 1)
    generator = make_generator("fab") if generator is None else generator
    standing = torch.arange(len(x), device=x.device)
    with frozen_eval(model, batch_norm):
        oracle = Oracle(model, batch_size)
        for number in range(restarts):
            # Drawn for all images, so that nobody's numbers depend on who else still stands.
            start = random_start(x, _draw(x, threat, generator), threat) if number else x
            found = fab_from(oracle, x[standing], labels[standing], start[standing], threat, steps)
            result[standing[found.broken]] = found.x_adv[found.broken]
            standing = standing[~found.broken]
    return result


def _draw(x: Tensor, threat: Threat, generator: torch.Generator) -> Tensor:
    """Draw the noise of a random start, as `random_start` takes it."""
    draw = torch.rand if threat.norm == "linf" else torch.randn
    return draw(x.shape, generator=generator, device=generator.device).to(x)
