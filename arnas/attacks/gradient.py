"""Attacks of fixed steps along an objective's gradient: FGSM and PGD."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from arnas.attacks.modes import BatchNorm, attacked
from arnas.attacks.threat import Threat
from arnas.runtime.errors import UserError
from arnas.runtime.seeds import make_generator

Keep = Literal["best", "last"]
Objective = Callable[[Tensor, Tensor], Tensor]
"""What an attack climbs: logits (N, classes) and labels (N,) to one number for each image."""
ROUNDING = 1e-6
"""What float32 preprocessing may add to pixels in [0, 1]."""


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Return the cross-entropy of each image."""
    return F.cross_entropy(logits, y, reduction="none")


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """Return the largest other logit minus the true one; positive where misclassified.

    The loss of Carlini and Wagner (arXiv 1608.04644, section V, f6) without its cut-off. It does
    not saturate when logits are large, as the cross-entropy does.
    """
    true = logits.gather(1, y[:, None]).squeeze(1)
    others = logits.scatter(1, y[:, None], -torch.inf)
    return others.amax(1) - true


def project(x: Tensor, delta: Tensor, threat: Threat, clip: bool = True) -> Tensor:
    """Return `delta` brought into the ball and, if `clip`, x + delta into the box [0, 1].

    The ball comes first and the box second: clipping towards a box that holds the image never
    leaves the ball again. For linf this is the nearest point, for L2 a nearby one.

    Parameters
    ----------
    x, delta
        Shape (N, ...); `x` in [0, 1].
    threat
        Norm and budget.
    clip
        Whether x + delta must lie in [0, 1].
    """
    if threat.norm == "linf":
        delta = delta.clamp(-threat.epsilon, threat.epsilon)
    else:
        length = _l2_norm(delta)
        delta = delta * (threat.epsilon / length.clamp_min(1e-12)).clamp_max(1)
    return torch.minimum(torch.maximum(delta, -x), 1 - x) if clip else delta


def _l2_norm(delta: Tensor) -> Tensor:
    """Return the L2 norm of each image's perturbation, broadcastable to `delta`."""
    length: Tensor = delta.flatten(1).norm(dim=1)
    return length.view(-1, *[1] * (delta.ndim - 1))


def ascent_direction(gradient: Tensor, norm: str) -> Tensor:
    """Return the unit step of steepest ascent in `norm`; zero where the gradient is zero."""
    if norm == "linf":
        return gradient.sign()
    return gradient / _l2_norm(gradient).clamp_min(1e-12)


def random_perturbation(unit: Tensor, threat: Threat) -> Tensor:
    """Return a random point of the ball from numbers uniform in [0, 1] of the images' shape.

    Uniform in the ball: for linf coordinate by coordinate; for L2 the numbers' normal quantiles
    give the direction, and the lower digits of the first number, which hardly enter it, the radius.
    """
    if threat.norm == "linf":
        return threat.epsilon * (2 * unit - 1)
    normal = torch.special.ndtri(unit.clamp(1e-6, 1 - 1e-6))
    dimension = unit[0].numel() if len(unit) else 1
    share = (4096 * unit.flatten(1)[:, :1]).frac().view(-1, *[1] * (unit.ndim - 1))
    radius = threat.epsilon * share ** (1 / dimension)
    point: Tensor = radius * normal / _l2_norm(normal).clamp_min(1e-12)
    return point


def draw_perturbation(x: Tensor, threat: Threat, generator: torch.Generator) -> Tensor:
    """Draw a random point of the ball for each image; of x's shape, dtype and device."""
    unit = torch.rand(x.shape, generator=generator, device=generator.device).to(x)
    return random_perturbation(unit, threat)


def check_start(x: Tensor, y: Tensor, steps: int, start: Tensor | None) -> None:
    """Refuse inputs that no attack can mean."""
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
    if steps < 0:
        raise UserError(f"steps is {steps}: allowed are 0 and more.")
    if start is not None and start.shape != x.shape:
        raise UserError(
            f"start has shape {tuple(start.shape)}: needed is that of x, {tuple(x.shape)}."
        )


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
    objective: Objective = cross_entropy,
) -> Tensor:
    """Climb an objective by projected gradient steps (arXiv 1706.06083, section 2.1).

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
        See `arnas.attacks.modes.attacked`.
    clip
        Keep the iterates in [0, 1]; off only to reproduce the released ARNAS search, which let
        them leave the box.
    stop_when_broken
        Spend no further steps on an image once an iterate is misclassified; needs
        ``keep="best"``. The answer to "is it broken?" is the same, as long as an image's logits
        do not depend on the batch (``batch_norm="eval"``).
    objective
        What the steps climb; the cross-entropy by default.

    Returns
    -------
    Tensor
        x_adv of x's shape and dtype, inside the ball and the box within 1e-6.

    Raises
    ------
    UserError
        When x and y do not fit each other, x leaves [0, 1], or an argument is impossible.
    """
    check_start(x, y, steps, start)
    if keep not in get_args(Keep):
        raise UserError(f"keep is '{keep}': allowed are {', '.join(get_args(Keep))}.")
    if stop_when_broken and keep != "best":
        raise UserError('stop_when_broken needs keep="best", because the last iterate is dropped.')
    x = x.detach()
    if step_size is not None and not step_size >= 0:
        raise UserError(f"step_size is {step_size}: allowed are 0 and more.")
    size = 2.5 * threat.epsilon / max(steps, 1) if step_size is None else step_size
    if start is not None:
        delta = project(x, start.to(x), threat, clip)
    elif random_start:
        generator = make_generator("pgd") if generator is None else generator
        delta = project(x, draw_perturbation(x, threat, generator), threat, clip)
    else:
        delta = torch.zeros_like(x)
    with attacked(model, batch_norm):
        if keep == "last":
            for _ in range(steps):
                gradient, _, _ = input_gradient(model, x + delta, y, objective)
                delta = project(
                    x, delta + size * ascent_direction(gradient, threat.norm), threat, clip
                )
            return _assemble(x, delta, clip)
        path = _Path(threat, steps, size, clip, stop_when_broken, objective)
        return _best_iterate(model, x, y, delta, path)


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


def input_gradient(
    model: nn.Module, x: Tensor, y: Tensor, objective: Objective
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the input gradient of the summed objective, its values and the logits."""
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        logits = model(x)
        losses = objective(logits, y)
        (gradient,) = torch.autograd.grad(losses.sum(), x)
    return gradient, losses.detach(), logits.detach()


def _best_iterate(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    delta: Tensor,
    path: _Path,
) -> Tensor:
    """Run the steps of `pgd` and return each image's best iterate."""
    best = delta.clone()
    best_loss = torch.full((len(x),), -torch.inf, dtype=x.dtype, device=x.device)
    broken = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    active = torch.arange(len(x), device=x.device)

    def record(losses: Tensor, logits: Tensor) -> None:
        wrong = logits.argmax(1) != y[active]
        old_wrong = broken[active]
        better = (wrong & ~old_wrong) | ((wrong == old_wrong) & (losses > best_loss[active]))
        changed = active[better]
        best[changed], best_loss[changed] = delta[changed], losses[better]
        broken[changed] = wrong[better]

    for _ in range(path.steps):
        gradient, losses, logits = input_gradient(
            model, (x + delta)[active], y[active], path.objective
        )
        record(losses, logits)
        moved = delta[active] + path.size * ascent_direction(gradient, path.threat.norm)
        delta[active] = project(x[active], moved, path.threat, path.clip)
        if path.stop_when_broken:
            active = active[~broken[active]]
            if not len(active):
                break
    if len(active):
        with torch.no_grad():
            logits = model((x + delta)[active])
        record(path.objective(logits, y[active]), logits)
    return _assemble(x, best, path.clip)
