"""Accuracy against epsilon: each budget starts where the smaller one ended."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from arnas.attacks.apgd import apgd
from arnas.attacks.eval_mode import frozen_eval
from arnas.attacks.objectives import cross_entropy, margin
from arnas.attacks.oracle import misclassified
from arnas.attacks.projection import random_perturbation
from arnas.attacks.threat import Threat
from arnas.evaluation.checks.base import CheckContext
from arnas.evaluation.predict import logits
from arnas.evaluation.result import ROBUST, robust_images
from arnas.evaluation.runner import SuiteState
from arnas.runtime.resume import Checkpointer
from arnas.runtime.seeds import per_image_uniform

STEPS = 100
"""Of each of the two runs of APGD, on the cross-entropy and on the margin."""
L1_RESTARTS = 5
"""Further runs from random points in L1, where one from a sparse point moves few pixels only."""


def accuracy_curve(
    context: CheckContext,
    threats: Mapping[str, Threat],
    state: SuiteState,
    checkpointer: Checkpointer,
    count: int | None = None,
) -> Tensor:
    """Attack a model with growing budgets and return which images were robust at each.

    The balls are nested: an image that a budget breaks is broken at every larger one and is not
    attacked again, and for the others the best point of the smaller ball is where APGD starts in
    the larger one. So the accuracy never rises along the curve. An image that the suite broke is
    broken from the suite's budget on.

    Parameters
    ----------
    context
        After the attacks of the suite.
    threats
        Epsilon, as it was written, to a threat of the suite's norm; in any order.
    state, checkpointer
        Where finished budgets are kept.
    count
        Images, from the first; all by default.

    Returns
    -------
    Tensor
        bool of shape (len(threats), images), on the CPU, in the order of `threats`.
    """
    tensors = state.tensors
    clean = context.outcomes["clean"][:count] == ROBUST
    robust_to_suite = robust_images(context.outcomes)[:count]
    tensors.setdefault("curve", torch.zeros((0, len(clean)), dtype=torch.bool))
    tensors.setdefault("curve_delta", torch.zeros_like(context.x[:count], device="cpu"))
    order = sorted(threats, key=lambda epsilon: threats[epsilon].epsilon)
    for name in order[len(tensors["curve"]) :]:
        rows = tensors["curve"]
        robust = (rows[-1] if len(rows) else clean).clone()
        _attack(context, threats[name], robust, tensors["curve_delta"])
        tensors["curve"] = torch.cat([rows, robust[None]])
        checkpointer.maybe_save(state.snapshot)
    place = torch.tensor([order.index(name) for name in threats], dtype=torch.int64)
    large = [threat.epsilon >= context.threat.epsilon for threat in threats.values()]
    broken = torch.tensor(large, dtype=torch.bool)[:, None] & ~robust_to_suite
    return tensors["curve"][place] & ~broken


def _attack(context: CheckContext, threat: Threat, robust: Tensor, delta: Tensor) -> None:
    """Attack the images that are robust so far; `robust` and `delta` are updated."""
    if not threat.epsilon:
        return
    for number in range(2 + (L1_RESTARTS if threat.norm == "l1" else 0)):
        places = robust.nonzero().flatten()
        if not len(places):
            return
        x, y = context.x[places.to(context.x.device)], context.y[places.to(context.y.device)]
        start = delta[places].to(x)
        if number >= 2 or not bool(delta.any()):
            shape = tuple(x.shape[1:])
            unit = per_image_uniform(("curve", context.seed, number), context.places[places], shape)
            start = random_perturbation(unit.to(x), threat)
        with frozen_eval(context.model):
            x_adv = apgd(
                context.model,
                x,
                y,
                threat,
                steps=STEPS,
                start=start,
                objective=(cross_entropy, margin)[number % 2],
                batch_size=context.batch_size,
            )
        delta[places] = (x_adv - x).to(delta)
        wrong = misclassified(logits(context.model, x_adv, context.batch_size), y)
        robust[places] = ~wrong.cpu()
