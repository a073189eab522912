"""One step of a search: first the architecture parameters, then the weights.

No random numbers are drawn here: a step depends on the state and the batches only
(arXiv 2405.05502; DARTS, arXiv 1806.09055, algorithm 1).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from arnas.data.batches import Batch
from arnas.search.gradients import RADIUS, ArchitectureGradient, architecture_gradients
from arnas.search.min_norm import Direction, min_norm
from arnas.search.options import Combine, Order, SupernetOptions
from arnas.search.state import SearchState


@dataclass(frozen=True)
class StagePlan:
    """Settings of one stage of the search."""

    name: str
    epochs: int
    order: Order
    combine: Combine
    difference_radius: float = RADIUS
    adversarial_weight: float = 1.0
    warmup_epochs: int = 0


class Combination(NamedTuple):
    """A registry entry."""

    objectives: tuple[str, ...]
    """The validation losses it needs."""
    combine: Callable[..., Direction]
    """Called with the objectives' gradients in that order, the adversarial one weighted."""


COMBINATIONS: dict[str, Combination] = {
    "min_norm": Combination(("natural", "adversarial"), min_norm),
    "sum": Combination(("natural", "adversarial"), lambda *g: Direction(g[0] + g[1], math.nan)),
    "adversarial": Combination(("adversarial",), lambda g: Direction(g, math.nan)),
    "natural": Combination(("natural",), lambda g: Direction(g, math.nan)),
}
"""How the gradients of stage 2 become one: MGDA (arXiv 1810.04650, as in arXiv 2405.05502) and the
ablations of that paper's released code."""


def architecture_step(
    state: SearchState, plan: StagePlan, train: Batch, validation: Mapping[str, Batch]
) -> dict[str, float]:
    """Take an Adam step on the architecture parameters and return the step's metrics.

    Parameters
    ----------
    state
        Its architecture parameters and their Adam change; weights, SGD and running statistics do
        not.
    plan
        How gradients are taken and combined.
    train
        Adversarial examples, for the virtual weight step of second order.
    validation
        A batch for each objective of the combination: ``natural``, ``adversarial`` or both.

    Returns
    -------
    dict
        ``gamma`` (see `Direction`), ``<objective>_loss`` and, of two, ``cosine``.
    """
    combination = COMBINATIONS[plan.combine]
    results = architecture_gradients(
        state.supernet,
        state.weight_optimiser,
        train,
        validation,
        plan.order,
        plan.difference_radius,
    )
    gradients = {name: item.gradient for name, item in results.items()}
    if "adversarial" in gradients:
        gradients["adversarial"] = plan.adversarial_weight * gradients["adversarial"]
    direction = combination.combine(*(gradients[name] for name in combination.objectives))
    _adam_step(state, direction.direction)
    return {"gamma": direction.gamma, **_metrics(results)}


def _adam_step(state: SearchState, gradient: Tensor) -> None:
    """Take an Adam step along the joined gradient."""
    offset = 0
    for alpha in state.supernet.alphas.values():
        alpha.grad = gradient[offset : offset + alpha.numel()].view_as(alpha).clone()
        offset += alpha.numel()
    state.alpha_optimiser.step()
    state.alpha_optimiser.zero_grad()


def _metrics(results: dict[str, ArchitectureGradient]) -> dict[str, float]:
    """Return the losses and, with two of them, the cosine of their gradients."""
    measured = {f"{name}_loss": item.loss for name, item in results.items()}
    if len(results) == 2:
        first, second = (item.gradient for item in results.values())
        measured["cosine"] = float(F.cosine_similarity(first, second, dim=0))
    return measured


def weight_step(state: SearchState, train: Batch, options: SupernetOptions) -> tuple[float, float]:
    """Take an SGD step on adversarial examples; return loss and accuracy (percent)."""
    logits = state.supernet(train.x)
    loss = F.cross_entropy(logits, train.y)
    weights = state.supernet.weights()
    gradients = torch.autograd.grad(loss, weights)
    for weight, gradient in zip(weights, gradients, strict=True):
        weight.grad = gradient
    torch.nn.utils.clip_grad_norm_(weights, options.weights.gradient_clip)
    state.weight_optimiser.step()
    state.weight_optimiser.zero_grad()
    correct = (logits.detach().argmax(1) == train.y).float().mean()
    return float(loss.detach()), 100 * float(correct)
