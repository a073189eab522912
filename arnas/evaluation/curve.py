"""Accuracy against epsilon: each budget starts where the smaller one ended."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from arnas.attacks.apgd import apgd
from arnas.attacks.objectives import cross_entropy, margin
from arnas.attacks.oracle import Oracle, misclassified
from arnas.attacks.projection import random_perturbation
from arnas.attacks.threat import Threat
from arnas.runtime.seeds import per_image_uniform

STEPS = 100
"""Of each of the two walks, up the cross-entropy and up the margin."""
L1_RESTARTS = 5
"""Further walks from random points in L1, where one from a sparse point moves few pixels only."""


def warm_curve(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    standing: Tensor,
    threats: Sequence[Threat],
    *,
    indices: Tensor,
    seed: int,
    batch_size: int,
) -> Tensor:
    """Attack a model with growing budgets and return what each image withstood.

    The balls are nested: an image that falls to a budget falls to every larger one and is not
    attacked again, and for one that stands the best point of the smaller ball is where the walk
    through the larger one starts. So the accuracy never rises along the curve.

    Parameters
    ----------
    model
        Inside `arnas.attacks.eval_mode.frozen_eval`, on the device of `x`.
    x, y
        Images of shape (n, C, H, W) in [0, 1] and labels of shape (n,).
    standing
        bool of shape (n,), on the CPU: images that are classified correctly.
    threats
        Of one norm, epsilon rising.
    indices
        int64 of shape (n,): what the random start of an image depends on.
    seed
        Likewise.
    batch_size
        Images that go through the model together.

    Returns
    -------
    Tensor
        bool of shape (len(threats), n), on the CPU.
    """
    oracle = Oracle(model, batch_size)
    standing, delta, rows = standing.clone(), torch.zeros_like(x), []
    warm = False
    for threat in threats:
        for number in range(2 + (L1_RESTARTS if threat.norm == "l1" else 0)):
            places = standing.nonzero().flatten()
            if not threat.epsilon or not len(places):
                break
            image, label, start = x[places], y[places], delta[places]
            if not warm or number >= 2:
                unit = per_image_uniform(("curve", seed, number), indices[places], x.shape[1:])
                start, warm = random_perturbation(unit.to(x), threat), True
            x_adv = apgd(
                model,
                image,
                label,
                threat,
                steps=STEPS,
                start=start,
                objective=(cross_entropy, margin)[number % 2],
                batch_size=batch_size,
            )
            delta[places] = x_adv - image
            standing[places] = ~misclassified(oracle.logits(x_adv), label).cpu()
        rows.append(standing.clone())
    return torch.stack(rows)
