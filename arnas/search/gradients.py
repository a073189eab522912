"""Gradients of validation losses with respect to the architecture parameters.

First order takes the weights as constant. Second order looks one virtual weight step ahead and
corrects for it by a finite difference (DARTS, arXiv 1806.09055, equations 6 to 8).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from arnas.attacks.eval_mode import module_modes
from arnas.data.batches import Batch
from arnas.search.options import Order
from arnas.search.supernet import Supernet

RADIUS = 0.01
"""Length of the finite difference's step in weight space, DARTS's value. It crosses kinks of ReLU
and max-pooling, so the correction is a coarse one; see the setting `difference_radius`."""


class ArchitectureGradient(NamedTuple):
    """The gradient of one validation loss."""

    gradient: Tensor
    """Shape (kinds * 98,): the tables' gradients one after the other."""
    loss: float
    """The loss, at the virtual weights for second order."""


def architecture_gradients(
    supernet: Supernet,
    optimiser: torch.optim.SGD,
    train: Batch,
    validation: Mapping[str, Batch],
    order: Order,
    radius: float = RADIUS,
) -> dict[str, ArchitectureGradient]:
    """Return the gradient of each validation loss; weights and statistics are restored.

    The virtual weights are computed once and serve all losses. A factor on a loss is a factor on
    its gradient, so weighting is left to the caller.

    Parameters
    ----------
    supernet
        The supernet at its current weights.
    optimiser
        The weights' SGD, whose learning rate, momentum and weight decay the virtual step uses.
    train
        The batch of the virtual step, adversarial examples.
    validation
        Name of an objective to its batch.
    order
        ``first`` or ``second``.
    radius
        Length of the finite difference's step in weight space, for second order.
    """
    alphas = list(supernet.alphas.values())
    with module_modes(supernet, "batch"):
        if order == "first":
            return {name: _with_loss(supernet, batch, alphas) for name, batch in validation.items()}
        return _second_order(supernet, optimiser, train, validation, alphas, radius)


def _loss(supernet: Supernet, batch: Batch) -> Tensor:
    """Return the mean cross-entropy of a batch."""
    return F.cross_entropy(supernet(batch.x), batch.y)


def _flat(gradients: Sequence[Tensor | None], parameters: Sequence[Tensor]) -> Tensor:
    """Join gradients into a vector; an unused parameter has the gradient zero."""
    pairs = zip(gradients, parameters, strict=True)
    return torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in pairs])


def _with_loss(
    supernet: Supernet, batch: Batch, alphas: list[nn.Parameter]
) -> ArchitectureGradient:
    """Return the plain gradient of a batch's loss."""
    loss = _loss(supernet, batch)
    gradients = torch.autograd.grad(loss, alphas, allow_unused=True)
    return ArchitectureGradient(_flat(gradients, alphas), float(loss.detach()))


@contextmanager
def _replaced(parameters: Sequence[Tensor], values: Sequence[Tensor]) -> Iterator[None]:
    """Give parameters other values inside the block; their own are restored bit for bit."""
    targets: list[Tensor] = list(parameters)
    own = [p.detach().clone() for p in targets]
    try:
        with torch.no_grad():
            torch._foreach_copy_(targets, list(values))
        yield
    finally:
        with torch.no_grad():
            torch._foreach_copy_(targets, own)


def virtual_weights(
    weights: Sequence[Tensor], gradients: Sequence[Tensor], optimiser: torch.optim.SGD
) -> list[Tensor]:
    """Return the weights after the SGD step that `gradients` would cause, without taking it."""
    group = optimiser.param_groups[0]
    result = []
    for weight, gradient in zip(weights, gradients, strict=True):
        step = gradient + group["weight_decay"] * weight.detach()
        momentum = optimiser.state[weight].get("momentum_buffer") if group["momentum"] else None
        if momentum is not None:
            step = step + group["momentum"] * momentum
        result.append(weight.detach() - group["lr"] * step)
    return result


def _second_order(
    supernet: Supernet,
    optimiser: torch.optim.SGD,
    train: Batch,
    validation: Mapping[str, Batch],
    alphas: list[nn.Parameter],
    radius: float,
) -> dict[str, ArchitectureGradient]:
    """Return the corrected gradients.

    With w' the virtual weights, v the gradient of the validation loss there and eta the learning
    rate: grad_alpha L_val(w') - eta * (grad_alpha L_train(w + r v) - grad_alpha L_train(w - r v)) /
    (2 r), r = radius / |v|.
    """
    weights = supernet.weights()
    present = [w.detach().clone() for w in weights]
    rate = optimiser.param_groups[0]["lr"]
    slopes = torch.autograd.grad(_loss(supernet, train), weights)
    ahead: dict[str, tuple[Tensor, list[Tensor], float]] = {}
    with _replaced(weights, virtual_weights(weights, slopes, optimiser)):
        for name, batch in validation.items():
            loss = _loss(supernet, batch)
            found = torch.autograd.grad(loss, [*alphas, *weights], allow_unused=True)
            direct = _flat(found[: len(alphas)], alphas)
            direction = [
                torch.zeros_like(w) if g is None else g
                for g, w in zip(found[len(alphas) :], weights, strict=True)
            ]
            ahead[name] = (direct, direction, float(loss.detach()))
    result = {}
    for name, (direct, direction, value) in ahead.items():
        length = torch.stack(torch._foreach_norm(direction)).norm()
        share = radius / float(length.clamp_min(1e-12))
        sides = []
        for signed in (share, -share):
            shifted = torch._foreach_add(present, direction, alpha=signed)
            with _replaced(weights, shifted):
                sides.append(_with_loss(supernet, train, alphas).gradient)
        correction = (sides[0] - sides[1]) / (2 * share)
        result[name] = ArchitectureGradient(direct - rate * correction, value)
    return result
