"""FAB: along the nearest decision boundary, as close to the image as it gets.

The Fast Adaptive Boundary attack (Croce and Hein, ICML 2020, arXiv 1907.02044) as AutoAttack runs
it. At each step the classifier is replaced by its linearisation, and point and image are both
brought onto the linearised boundary by their smallest changes; the next point lies a little beyond
it, between the two. The attack ends at the first point that is misclassified within the budget; it
does not look for closer ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from arnas.attacks.eval_mode import BatchNorm
from arnas.attacks.folding import attacked
from arnas.attacks.objectives import targeted_margin
from arnas.attacks.oracle import (
    ActiveImages,
    AttackOutput,
    LossAndGrad,
    Oracle,
    RandomStreams,
    misclassified,
)
from arnas.attacks.pgd import check_attack
from arnas.attacks.projection import TINY, draw_noise, length, shaped, vector_length
from arnas.attacks.threat import Threat
from arnas.runtime.seeds import make_generator

MOST_BIAS, OVERSHOOT, WAY_BACK = 0.1, 1.05, 0.9
"""Published parameters: alpha_max, how much of the image's own change enters a step; eta, how far
a step goes beyond the boundary; beta, what is left of the distance to the image after a point was
misclassified too far away (section 3 of the paper)."""
LEAST_CHANGE = 1e-8
"""Changes are compared as though they had at least this length, as in the reference package."""
LEAST_WEIGHT = 1e-8
"""Coordinates of which the plane depends less than this stay where they are in L2 and L1, as in
the reference package; in linf only those that it does not depend on at all."""
DUALS = {"linf": "l1", "l2": "l2", "l1": "linf"}
"""The norm of a gradient that turns a difference of logits into a distance."""
CACHED = 2**16
"""Pixels that are moved at a time on a CPU: the tensors stay in its cache, which makes it about
three times as fast for images of 3x32x32."""
CONTEXTS = 4
"""Number of possible outcomes of a point's last two predictions."""


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
    model, x, y, threat, steps, generator, batch_norm, batch_size
        As for `arnas.attacks.apgd.apgd`.
    restarts
        From 1 up: the first run starts at the image, the others, of images that are still robust,
        at random points half the budget away.
    targets
        int64 of shape (N,): the class whose boundary is approached. By default the nearest at each
        step, which takes a backward pass for each class.

    Returns
    -------
    Tensor
        x_adv of x's shape and dtype, inside the ball and the box within 1e-6. Robust images, and
        those misclassified already, are returned unchanged.

    Raises
    ------
    UserError
        As for `arnas.attacks.pgd.pgd`.
    """
    labels = check_attack(x, y, targets, steps=steps, restarts=restarts, batch_size=batch_size)
    x = x.detach()
    x_adv = x.clone()
    if threat.epsilon == 0:
        return x_adv
    generator = make_generator("fab") if generator is None else generator
    robust = torch.arange(len(x), device=x.device)
    with attacked(model, x, batch_norm) as network:
        oracle = Oracle(network, batch_size)
        for restart in range(restarts):
            # Drawn for all images, so that an image's numbers do not depend on the others.
            start = random_start(x, draw_noise(x, threat, generator), threat) if restart else x
            found = fab_from(oracle, x[robust], labels[robust], start[robust], threat, steps)
            x_adv[robust[found.broken]] = found.x_adv[found.broken]
            robust = robust[~found.broken]
    return x_adv


def random_start(x: Tensor, noise: Tensor, threat: Threat) -> Tensor:
    """Return points half the budget away from the images.

    `noise` has x's shape and is uniform in [0, 1] for linf, normal for L2 and L1.
    """
    direction = 2 * noise - 1 if threat.norm == "linf" else noise
    size = shaped(length(direction, threat.norm), x).clamp_min(TINY)
    return (x + threat.epsilon / 2 * direction / size).clamp(0, 1)


def fab_batch(
    oracle: Oracle,
    x: Tensor,
    labels: Tensor,
    threat: Threat,
    streams: RandomStreams | None = None,
    *,
    steps: int = 100,
) -> AttackOutput:
    """Follow the nearest decision boundary until a point is misclassified in the ball.

    A step queries the model twice: whether the new point is misclassified, which sends it back
    towards the image unless that breaks it, and for the gradient where the next step starts. If the
    point is not sent back, one pass could do both, but most are: 91 of 100 in linf and 96 in L2
    on small adversarially trained networks, 58 in L1. So a targeted step omits the first query only
    where the image's last predictions follow a pattern by which the point will be classified
    correctly. This changes the order of the passes and not the points. An untargeted step, whose
    gradients cost much more than a forward pass, always makes both queries.

    The attack starts at the images, so that it needs no random numbers. Robust images are returned
    unchanged.

    Parameters
    ----------
    labels
        int64 of shape (N,), the true classes: each step approaches the class that seems nearest. Or
        of shape (N, 2), true classes and targets: each approaches the target, and any other class
        counts.
    """
    return fab_from(oracle, x, labels, x, threat, steps)


def fab_from(
    oracle: Oracle, x: Tensor, labels: Tensor, start: Tensor, threat: Threat, steps: int
) -> AttackOutput:
    """Do the same from given points of the ball; a misclassified start breaks its image."""
    x = x.detach()
    no = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    found = AttackOutput(no.clone(), x.clone())
    state = _State(
        index=torch.arange(len(x), device=x.device),
        image=x,
        labels=labels,
        point=start.clone(),
        steps=torch.zeros_like(no, dtype=torch.int64),
        classified=~no,
        done=no.clone(),
        crossed=~no[:, None].repeat(1, CONTEXTS),  # at first points are expected to cross
        context=torch.zeros_like(no, dtype=torch.int64),
    )
    while len(state.index):
        query = ~state.classified
        if labels.ndim > 1:
            expected = state.crossed.gather(1, state.context[:, None]).squeeze(1)
            query &= expected | (state.steps == steps)
        rows = state.rows()[query]
        if len(rows):
            wrong = oracle.is_wrong(state.point[rows], state.y[rows])
            _record(state, rows, wrong, threat, found)
        state.select(~state.done & (state.steps < steps))
        for rows in torch.split(state.rows(), oracle.batch_size) if len(state.index) else ():
            _step(oracle, state, rows, threat, found)
        state.select(~state.done)
    return found


@dataclass
class _State(ActiveImages):
    """The state of a run."""

    index: Tensor
    """int64: the image's position in the batch."""
    image: Tensor
    labels: Tensor
    """Of shape (N,) or (N, 2)."""
    point: Tensor
    steps: Tensor
    """int64: steps so far."""
    classified: Tensor
    """bool: whether the prediction at the point has been dealt with, so that a step starts there.
    """
    done: Tensor
    """bool: whether the image needs no further step."""
    crossed: Tensor
    """bool of shape (N, 4): whether a point was misclassified the last time that the two
    predictions before it came out like this."""
    context: Tensor
    """int64: how the last two predictions came out."""

    def rows(self) -> Tensor:
        """Return the rows of the images that are under attack."""
        return torch.arange(len(self.index), device=self.index.device)

    @property
    def y(self) -> Tensor:
        """Return the true classes, int64 of shape (N,)."""
        return self.labels if self.labels.ndim == 1 else self.labels[:, 0]


def _record(
    state: _State, rows: Tensor, wrong: Tensor, threat: Threat, found: AttackOutput
) -> Tensor:
    """Act on the predictions at the points of some rows.

    Returns which of the rows are neither done nor sent back, bool of shape (rows,).
    """
    new = ~state.classified[rows]
    fresh, outcome, context = rows[new], wrong[new], state.context[rows[new]]
    state.crossed[fresh, context] = outcome
    state.context[fresh] = (2 * context + outcome) % CONTEXTS
    state.classified[fresh] = True
    stays = torch.ones_like(wrong)
    if bool(wrong.any()):
        which = wrong.nonzero().flatten()
        beyond = rows[which]
        delta = state.point[beyond] - state.image[beyond]
        # In double precision: float32 adds up an L1 norm with errors as large as the tolerance.
        broken = length(delta.double(), threat.norm) <= threat.epsilon
        state.done[beyond] = broken
        found.broken[state.index[beyond]] = broken
        found.x_adv[state.index[beyond[broken]]] = state.point[beyond[broken]]
        back = ~broken & new[which]
        state.point[beyond[back]] = state.image[beyond[back]] + WAY_BACK * delta[back]
        stays[which] = ~(broken | back)
    return stays


def _step(oracle: Oracle, state: _State, rows: Tensor, threat: Threat, found: AttackOutput) -> None:
    """Take one step with each of some rows, one batch at most.

    Rows whose points turn out to be misclassified are sent back instead and step another time.
    """
    point, labels = state.point[rows], state.labels[rows]
    surface = (
        _nearest_boundary(oracle, point, labels, threat.norm)
        if labels.ndim == 1
        else oracle.slope(point, labels, targeted_margin)
    )
    wrong = misclassified(surface.logits, state.y[rows])
    stays = _record(state, rows, wrong, threat, found)
    if not bool(stays.all()):
        rows, point, wrong = rows[stays], point[stays], wrong[stays]
        surface = LossAndGrad(*(values[stays] for values in surface))
    if not len(rows):
        return
    few = max(1, CACHED // point[0].numel()) if point.device.type == "cpu" else len(point)
    given = (point, state.image[rows], surface.gradient, surface.value)
    chunks = zip(*(torch.split(values, few) for values in given), strict=True)
    moved = torch.cat([_next_point(a, b, c, d, threat.norm) for a, b, c, d in chunks])
    state.point[rows] = moved
    state.steps[rows] += 1
    state.classified[rows] = False
    if oracle.expectation == 1:
        # A step to where it started, as on a flat model: all that follow would be the same.
        still = length(moved - point, "linf") == 0
        state.done[rows] = still & ~wrong


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
    steepness = vector_length(gradients.flatten(2), DUALS[norm])
    distance = (gaps.abs() / (TINY + steepness)).nan_to_num(torch.inf, torch.inf)
    nearest, row = distance.argmin(1), torch.arange(len(x), device=x.device)
    return LossAndGrad(gradients[row, nearest], gaps[row, nearest], logits)


def _gradients(gaps: Tensor, x: Tensor) -> Tensor:
    """Return the gradient of each column of `gaps`, of shape (N, columns, ...).

    Zero where there is none or it is NaN, as in `Oracle.slope`.
    """
    found = x.new_zeros(len(x), gaps.shape[1], *x.shape[1:])
    for column, gap in enumerate(gaps.unbind(1) if gaps.requires_grad else ()):
        (gradient,) = torch.autograd.grad(
            gap.sum(), x, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        found[:, column] = gradient
    return found.nan_to_num(0)


def _next_point(point: Tensor, image: Tensor, gradient: Tensor, value: Tensor, norm: str) -> Tensor:
    """Return the points after a step (algorithm 1 of the paper), of shape (N, ...).

    `gradient` and `value` are those of the linear function that is zero at the boundary, at the
    points.
    """
    both = torch.stack([point, image], 1).flatten(2)
    normal = gradient.flatten(1)
    at_image = value + torch.linalg.vecdot(both[:, 1] - both[:, 0], normal)
    changes = change_onto(both, normal[:, None], torch.stack([value, at_image], 1), norm)
    sizes = vector_length(changes, norm).clamp_min(LEAST_CHANGE)
    bias = (sizes[:, :1] / sizes.sum(1, keepdim=True)).clamp_max(MOST_BIAS)
    aims = torch.add(both, changes, alpha=OVERSHOOT)
    moved = torch.lerp(aims[:, 0], aims[:, 1], bias).clamp(0, 1).view_as(point)
    # NaN where gradients or logits hold one: such a pixel stays.
    return moved.where(~moved.isnan(), point) if bool(moved.sum().isnan()) else moved


def change_onto(points: Tensor, normal: Tensor, value: Tensor, norm: str) -> Tensor:
    """Return the smallest changes that bring points onto hyperplanes, within the box [0, 1].

    The inner problem of the attack (section 2.1 of the paper): minimise the norm of d subject to
    value + w.d = 0 and 0 <= t + d <= 1. By the optimality conditions every coordinate moves in the
    one direction that helps, no further than its room up to the face of the box there, and

    * linf: all move by one common amount, cut at their rooms;
    * L2: all move in proportion to abs(w), cut at their rooms;
    * L1: those with the largest abs(w) move first and all the way, the last one as far as is
      needed.

    Where even the corner of the box does not reach the hyperplane, the answer is that corner. Exact
    but for rounding.

    Parameters
    ----------
    points
        Of shape (..., D), values in [0, 1].
    normal
        The normals w; of shape (..., D), broadcast against the points.
    value
        Of shape (...): the linear function at the point, of either sign; for the plane w.z = b it
        is w.t - b, which would lose its last digits.
    norm
        ``linf``, ``l2`` or ``l1``: what is small.
    """
    size, needed = normal.abs(), value.abs()[..., None]
    if norm != "linf":
        normal = normal.masked_fill(size <= LEAST_WEIGHT, 0)
    # Downwards where the point lies on the positive side. Products of signs instead of choices,
    # which cost ten times as much on a CPU; no room for coordinates that stay.
    side = (normal * torch.where(value >= 0, -1.0, 1.0).to(normal)[..., None]).sign()
    room = torch.maximum(side * (1 - points), -side * points)
    if norm == "l1":
        length = _largest_first(size, room, needed)
    elif norm == "l2":
        length = _in_proportion(size, room, needed)
    else:
        length = torch.minimum(room, _common_amount(room, size, needed))
    return side * length


def _common_amount(reach: Tensor, weight: Tensor, needed: Tensor) -> Tensor:
    """Return the amount for which the sum of weight * min(reach, amount) is what is needed.

    No less than every reach where no amount suffices. The sum is concave, rising, and linear
    between the reaches: Newton's method from below never steps beyond the solution, and when a step
    has passed no reach, it has got there. Three to five passes over the coordinates do, for a
    fraction of the time that it takes to sort the reaches; their number bounds it.
    """
    slope = weight.sum(-1, keepdim=True)
    amount = needed / slope.clamp_min(torch.finfo(slope.dtype).tiny)
    for _ in range(reach.shape[-1]):
        free = (reach - amount).sign_().clamp_(min=0)
        rest = torch.linalg.vecdot(free, weight)[..., None]
        if not bool((rest < slope).any()):
            break
        done = torch.linalg.vecdot(torch.minimum(reach, amount), weight)[..., None]
        # Without a number where nothing is missing and nothing could move.
        slope, amount = rest, torch.fmax(amount, amount + (needed - done) / rest)
    return amount


def _in_proportion(size: Tensor, room: Tensor, needed: Tensor) -> Tensor:
    """Return how far coordinates move when their weights say how fast.

    Those that stay count as though they had room without end, as in the package, which leaves the
    change a little short where no weight is much larger than theirs.
    """
    limits = torch.finfo(size.dtype)
    # As large as numbers get but finite, because infinity times a weight of zero is no number.
    endless = torch.zeros_like(size).masked_fill_(size <= LEAST_WEIGHT, limits.max)
    reach = room / size.clamp_min(limits.tiny) + endless
    amount = _common_amount(reach, size.square(), needed)
    out_of_reach = torch.linalg.vecdot(room, size)[..., None] < needed
    return torch.minimum(reach, amount.masked_fill(out_of_reach, limits.max)) * size


def _largest_first(size: Tensor, room: Tensor, needed: Tensor) -> Tensor:
    """Return how far coordinates move when those with the largest weight do all they can."""
    size, order = size.sort(dim=-1, descending=True)
    room = torch.take_along_dim(room, order, dim=-1)
    gain = size * room
    missing = needed - (gain.cumsum(-1) - gain)
    length = torch.minimum(missing.clamp_min(0) / size.clamp_min(LEAST_WEIGHT), room)
    return torch.zeros_like(room).scatter(-1, order.expand_as(room), length)
