"""Attacks of fixed steps along an objective's gradient: FGSM, PGD, MI-FGSM and CW."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from arnas.attacks.eval_mode import BatchNorm
from arnas.attacks.folding import attacked
from arnas.attacks.objectives import (
    Objective,
    cross_entropy,
    margin,
    targeted_cross_entropy,
)
from arnas.attacks.oracle import (
    AttackOutput,
    Oracle,
    RandomStreams,
    gradient_of,
    in_batches,
    misclassified,
)
from arnas.attacks.projection import (
    draw_perturbation,
    project,
    random_perturbation,
    shaped,
    step_along,
)
from arnas.attacks.threat import Threat
from arnas.runtime.errors import UserError
from arnas.runtime.seeds import make_generator

Keep = Literal["best", "last"]
ROUNDING = 1e-6
"""What float32 preprocessing may add to pixels in [0, 1]."""


def check_attack(
    x: Tensor,
    y: Tensor,
    targets: Tensor | None = None,
    start: Tensor | None = None,
    *,
    steps: int = 0,
    **numbers: int,
) -> Tensor:
    """Refuse invalid inputs of an attack; `numbers` must be from 1 up.

    Returns the labels of its objective: with targets int64 of shape (N, 2), true class and target.
    """
    if len(x) != len(y) or y.ndim != 1:
        raise UserError(
            f"x has shape {tuple(x.shape)} and y {tuple(y.shape)}: needed is one label for each "
            "image."
        )
    if len(x) and not (x.min() >= -ROUNDING and x.max() <= 1 + ROUNDING):
        raise UserError(
            f"x runs from {x.min():.4g} to {x.max():.4g}: attacks take pixels in [0, 1]; put the "
            "normalisation into the model."
        )
    check_at_least(0, steps=steps)
    check_at_least(1, **numbers)
    if start is not None and start.shape != x.shape:
        raise UserError(
            f"start has shape {tuple(start.shape)}: needed is that of x, {tuple(x.shape)}."
        )
    if targets is None:
        return y
    if targets.shape != y.shape:
        raise UserError(
            f"targets has shape {tuple(targets.shape)}: needed is one class for each of the "
            f"{len(y)} images."
        )
    if (targets == y).any():
        raise UserError("targets names some images' own class: needed is another class for each.")
    return torch.stack([y, targets.to(y)], dim=1)


def check_at_least(least: int, **numbers: int) -> None:
    """Refuse arguments that are too small."""
    for name, value in numbers.items():
        if value < least:
            raise UserError(f"{name} is {value}: allowed are {least} and more.")


def fgsm(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    generator: torch.Generator | None = None,
    keep: Keep = "best",
    batch_norm: BatchNorm = "eval",
) -> Tensor:
    """Take one step of size epsilon along the gradient (arXiv 1412.6572, section 4).

    Parameters and result as for `pgd`; there is no random start, so `generator` is not used.
    ``keep="best"`` returns the image itself where the step did not raise the loss.
    """
    return pgd(
        model,
        x,
        y,
        threat,
        steps=1,
        step_size=threat.epsilon,
        random_start=False,
        generator=generator,
        keep=keep,
        batch_norm=batch_norm,
    )


def pgd(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    steps: int = 20,
    step_size: float | None = None,
    random_start: bool = True,
    start: Tensor | None = None,
    generator: torch.Generator | None = None,
    keep: Keep = "best",
    batch_norm: BatchNorm = "eval",
    clip: bool = True,
    stop_when_broken: bool = False,
    objective: Objective | None = None,
    targets: Tensor | None = None,
    restarts: int = 1,
    momentum: float = 0.0,
) -> Tensor:
    """Maximise an objective by projected gradient steps (arXiv 1706.06083, section 2.1).

    Parameters
    ----------
    model
        Pixels in [0, 1] to logits. Its modes, gradients, buffers and `requires_grad` flags are
        untouched afterwards.
    x
        float of shape (N, C, H, W) with values in [0, 1].
    y
        int64 of shape (N,): true labels.
    threat
        Norm and budget.
    steps
        Number of gradient steps, from 0 up.
    step_size
        Length of a step in input units; by default ``2.5 * epsilon / steps``.
    random_start
        Start from a random point of the ball, clipped to the box, instead of from `x`.
    start
        A perturbation of x's shape to start from instead; projected first.
    generator
        Source of the random start, on any device; None uses a CPU generator with a fixed seed.
    keep
        ``best`` returns for each image the iterate that is misclassified, and of those the one
        with the highest objective, the start included; it costs one forward pass more. ``last``
        returns the last iterate, as training and the published PGD-k protocols do.
    batch_norm
        See `arnas.attacks.eval_mode.frozen_eval`.
    clip
        Keep the iterates in [0, 1]; off only to reproduce the released ARNAS search, which let
        them leave the box.
    stop_when_broken
        Spend no further steps on an image once an iterate is misclassified; needs
        ``keep="best"``. The answer to "is it broken?" is the same, as long as an image's logits
        do not depend on the batch (``batch_norm="eval"``).
    objective
        What the steps maximise; the cross-entropy by default, with `targets` the negative
        cross-entropy of the target.
    targets
        int64 of shape (N,): the class to reach for each image, not its own. The objective then
        gets labels of shape (N, 2), true class and target. An image is broken as soon as it is
        misclassified, as whatever class.
    restarts
        Climbs from the start on, from 1 up; all but the first begin at a random point. The best
        iterate of all of them is returned, and with `stop_when_broken` only images that still
        stand go on. Needs ``keep="best"``.
    momentum
        Share of the direction so far that stays in the next one, from 0 up (MI-FGSM, Dong et al.,
        arXiv 1710.06081, algorithm 1, which takes 1): gradients are scaled to equal L1 norms and
        summed. With 0 a step follows the gradient alone.

    Returns
    -------
    Tensor
        x_adv of x's shape and dtype, inside the ball and the box within 1e-6.

    Raises
    ------
    UserError
        When x and y do not fit each other, x leaves [0, 1], or an argument is impossible.
    """
    labels = check_attack(x, y, targets, start, steps=steps, restarts=restarts)
    _check_choices(keep, stop_when_broken, step_size, momentum)
    if restarts > 1 and keep != "best":
        raise UserError(f'restarts is {restarts}: more than one needs keep="best".')
    if restarts > 1 and not random_start:
        raise UserError(
            f"restarts is {restarts}: more than one needs random_start, or all would be the same."
        )
    if objective is None:
        objective = cross_entropy if targets is None else targeted_cross_entropy
    x = x.detach()
    size = 2.5 * threat.epsilon / max(steps, 1) if step_size is None else step_size
    path = _Path(threat, steps, size, clip, stop_when_broken, objective, momentum)
    generator = make_generator("pgd") if generator is None else generator
    if start is not None:
        delta = project(x, start.to(x), threat, clip)
    elif random_start:
        delta = project(x, draw_perturbation(x, threat, generator), threat, clip)
    else:
        delta = torch.zeros_like(x)
    with attacked(model, x, batch_norm) as network:
        if keep == "last":
            return _assemble(x, _last_iterate(network, x, labels, delta, path), clip)
        best = _Best.at(delta)
        _run(network, x, labels, delta, path, best)
        for _ in range(restarts - 1):
            delta = project(x, draw_perturbation(x, threat, generator), threat, clip)
            _run(network, x, labels, delta, path, best)
    return _assemble(x, best.delta, clip)


def cw(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    steps: int = 30,
    confidence: float = 0.0,
    targets: Tensor | None = None,
    restarts: int = 1,
    generator: torch.Generator | None = None,
    keep: Keep = "best",
    batch_norm: BatchNorm = "eval",
) -> Tensor:
    """Maximise the margin of the logits up to a cut-off, as PGD in the ball.

    The loss of Carlini and Wagner (arXiv 1608.04644, section V, f6 with its cut-off kappa) with
    steps of epsilon / 4 from a random start; the registry's ``cw_inf`` is this attack. With
    `targets` it maximises the lead of the target over all other classes. Parameters and result
    otherwise as for `pgd`.

    Parameters
    ----------
    confidence
        Margin, from 0 up, from which on an image is not pushed any further.
    """
    if not confidence >= 0:
        raise UserError(f"confidence is {confidence}: allowed are 0 and more.")

    def cut_off(logits: Tensor, labels: Tensor) -> Tensor:
        lead = margin(logits, labels) if targets is None else -margin(logits, labels[:, 1])
        return lead.clamp_max(confidence)

    return pgd(
        model,
        x,
        y,
        threat,
        steps=steps,
        step_size=threat.epsilon / 4,
        generator=generator,
        keep=keep,
        batch_norm=batch_norm,
        stop_when_broken=keep == "best" and confidence == 0 and targets is None,
        objective=cut_off,
        targets=targets,
        restarts=restarts,
    )


def transferable(
    model: nn.Module, x: Tensor, y: Tensor, threat: Threat, unit: Tensor, *, steps: int
) -> Tensor:
    """Return examples made on `model` for showing to other models.

    PGD on the cross-entropy with steps of epsilon / 4 from one uniform start; the last iterate of
    every image: an attack that stops at the first misclassification leaves examples that hardly
    transfer. `unit` holds numbers uniform in [0, 1] of x's shape.
    """
    start = random_perturbation(unit, threat)
    return pgd(
        model, x, y, threat, steps=steps, step_size=threat.epsilon / 4, start=start, keep="last"
    )


def transfer_batch(
    oracle: Oracle,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    streams: RandomStreams,
    *,
    source: nn.Module,
    steps: int,
) -> AttackOutput:
    """Show the model of the oracle the examples that `transferable` makes on another one."""

    def attack(image: Tensor, label: Tensor, unit: Tensor) -> Tensor:
        return transferable(source, image, label, threat, unit, steps=steps)

    return in_batches(oracle, attack, x, y, streams.uniform(tuple(x.shape[1:])).to(x))


def pgd_batch(
    oracle: Oracle,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    streams: RandomStreams,
    *,
    steps: int,
    step_size_over_epsilon: float,
    objective: Objective = cross_entropy,
    random_start: bool = True,
) -> AttackOutput:
    """Run `pgd` from one uniform start, or from the images, and keep each image's best iterate."""

    def attack(image: Tensor, label: Tensor, unit: Tensor) -> Tensor:
        return pgd(
            oracle.model,
            image,
            label,
            threat,
            steps=steps,
            step_size=step_size_over_epsilon * threat.epsilon,
            start=random_perturbation(unit, threat) if random_start else None,
            random_start=random_start,
            stop_when_broken=True,
            objective=objective,
        )

    unit = streams.uniform(tuple(x.shape[1:])).to(x) if random_start else x
    return in_batches(oracle, attack, x, y, unit)


def _check_choices(
    keep: str, stop_when_broken: bool, step_size: float | None, momentum: float
) -> None:
    """Refuse impossible arguments of `pgd`."""
    if keep not in get_args(Keep):
        raise UserError(f"keep is '{keep}': allowed are {', '.join(get_args(Keep))}.")
    if stop_when_broken and keep != "best":
        raise UserError('stop_when_broken needs keep="best", because the last iterate is dropped.')
    if step_size is not None and not step_size >= 0:
        raise UserError(f"step_size is {step_size}: allowed are 0 and more.")
    if not 0 <= momentum < math.inf:
        raise UserError(f"momentum is {momentum}: allowed are 0 and more; MI-FGSM takes 1.")


def _assemble(x: Tensor, delta: Tensor, clip: bool) -> Tensor:
    """Return x + delta, free of the rounding that would leave the box."""
    return (x + delta).clamp(0, 1) if clip else x + delta


class _Path(NamedTuple):
    """How `pgd` moves."""

    threat: Threat
    steps: int
    size: float
    clip: bool
    stop_when_broken: bool
    objective: Objective
    momentum: float

    def move(self, x: Tensor, delta: Tensor, direction: Tensor) -> Tensor:
        """Return the perturbation one step along `direction` from `delta`."""
        return step_along(x, delta, direction, self.size, self.threat, self.clip)

    def direction(self, gradient: Tensor, before: Tensor | None) -> Tensor:
        """Return where the next step goes, from the gradient and where the last one went."""
        if self.momentum == 0:
            return gradient
        scale = shaped(gradient.abs().flatten(1).mean(1), gradient)
        unit = gradient / torch.where(scale > 0, scale, 1)
        return unit if before is None else self.momentum * before + unit


@dataclass
class _Best:
    """The best iterate of each image so far: misclassified, and of those the highest objective."""

    delta: Tensor
    value: Tensor
    broken: Tensor

    @classmethod
    def at(cls, delta: Tensor) -> _Best:
        """Return the state before anything is known, at a start."""
        value = torch.full((len(delta),), -torch.inf, dtype=delta.dtype, device=delta.device)
        broken = torch.zeros(len(delta), dtype=torch.bool, device=delta.device)
        return cls(delta.clone(), value, broken)

    def record(self, place: Tensor, delta: Tensor, value: Tensor, wrong: Tensor) -> None:
        """Look at iterates of the images at `place`, whose values and errors those are."""
        old_wrong = self.broken[place]
        better = (wrong & ~old_wrong) | ((wrong == old_wrong) & (value > self.value[place]))
        changed = place[better]
        self.delta[changed], self.value[changed] = delta[better], value[better]
        self.broken[changed] = wrong[better]


def input_gradient(
    model: nn.Module, x: Tensor, y: Tensor, objective: Objective
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the input gradient of the summed objective, its values and the logits."""
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        logits = model(x)
        losses = objective(logits, y)
        gradient = gradient_of(losses, x)
    return gradient, losses.detach(), logits.detach()


def _last_iterate(
    model: nn.Module, x: Tensor, labels: Tensor, delta: Tensor, path: _Path
) -> Tensor:
    """Return where the steps of `pgd` end."""
    direction = None
    for _ in range(path.steps):
        gradient, _, _ = input_gradient(model, x + delta, labels, path.objective)
        direction = path.direction(gradient, direction)
        delta = path.move(x, delta, direction)
    return delta


def _run(
    model: nn.Module, x: Tensor, labels: Tensor, delta: Tensor, path: _Path, best: _Best
) -> None:
    """Run the steps of `pgd` once and note each image's best iterate."""
    y = labels if labels.ndim == 1 else labels[:, 0]
    active = torch.arange(len(x), device=x.device)
    direction = None
    if path.stop_when_broken:
        active = active[~best.broken]
    for _ in range(path.steps):
        if not len(active):
            return
        gradient, values, logits = input_gradient(
            model, (x + delta)[active], labels[active], path.objective
        )
        best.record(active, delta[active], values, misclassified(logits, y[active]))
        direction = path.direction(gradient, direction)
        delta[active] = path.move(x[active], delta[active], direction)
        if path.stop_when_broken:
            robust = ~best.broken[active]
            active, direction = active[robust], direction[robust]
    if len(active):
        with torch.no_grad():
            logits = model((x + delta)[active])
        values = path.objective(logits, labels[active])
        best.record(active, delta[active], values, misclassified(logits, y[active]))
