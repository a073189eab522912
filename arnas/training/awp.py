"""Adversarial weight perturbation: training at the worst weights near the present ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from arnas.attacks.projection import TINY
from arnas.models.sharing import sum_gradients
from arnas.training.losses import Loss, Step


@contextmanager
def perturbed_weights(step: Step, loss: Loss, size: float) -> Iterator[Step]:
    """Let the model have weights that raise a loss, and afterwards its own ones, to the bit.

    Wu et al. (NeurIPS 2020, arXiv 2004.05884, equations 7 to 10, one step): each matrix or kernel w
    moves by size * |w| * g / |g|, g its gradient. Biases and normalisations stay. The pass that
    finds the direction leaves statistics alone, and the pass inside gets the same adversarial
    examples.

    Parameters
    ----------
    step
        The model, in training mode, and its batch. The model's gradients are cleared.
    loss
        Called once to find the direction.
    size
        Of a move relative to the weights, gamma in the paper; 0 changes nothing.

    Yields
    ------
    Step
        To evaluate the loss on.
    """
    if not size:
        yield step
        return
    model = step.model
    statistics = [(buffer, buffer.clone()) for buffer in model.buffers()]
    first = step._replace(made=[])
    model.zero_grad()
    loss(first).loss.backward()  # type: ignore[no-untyped-call]
    sum_gradients(model)
    kernels = [p for p in model.parameters() if p.ndim > 1 and p.grad is not None]
    own = [p.detach().clone() for p in kernels]
    with torch.no_grad():
        for p in kernels:
            assert p.grad is not None
            p.add_(p.grad * (size * p.norm() / p.grad.norm().clamp_min(TINY)))
        for buffer, before in statistics:
            buffer.copy_(before)
    model.zero_grad()
    try:
        yield step._replace(given=iter(first.made or ()))
    finally:
        with torch.no_grad():
            for p, before in zip(kernels, own, strict=True):
                p.copy_(before)
