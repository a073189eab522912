"""Training losses: each is a function of model, batch and threat, with its citation.

A loss calls the model in training mode; the examples that it trains on are made as the recipe's
`attack` says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from arnas.attacks.eval_mode import frozen_eval
from arnas.attacks.objectives import Objective, cross_entropy
from arnas.attacks.pgd import pgd
from arnas.attacks.threat import Threat, parse_amount
from arnas.data.batches import Batch
from arnas.training.options import RetrainOptions
from arnas.training.registry import SmoothedOptions

TINY = 1e-12
"""Keeps the logarithm of a probability of zero finite."""


class LossValue(NamedTuple):
    """What a training step needs from a loss."""

    loss: Tensor
    """Scalar with a graph to the weights."""
    logits: Tensor
    """Logits of the images trained on, (N, classes); for the training accuracy."""


class Step(NamedTuple):
    """All that a loss works with."""

    model: nn.Module
    batch: Batch
    threat: Threat
    options: RetrainOptions
    generator: torch.Generator
    """CPU generator of the attack's start."""
    settings: Any = SmoothedOptions(name="pgd")
    """Settings of the loss."""
    made: list[Tensor] | None = None
    """Where the examples are recorded that are made, if anywhere."""
    given: Iterator[Tensor] = iter(())
    """Examples that are taken before any are made."""


Loss = Callable[[Step], LossValue]


def training_examples(step: Step, objective: Objective = cross_entropy) -> Tensor:
    """Return the adversarial examples of a batch for the present weights, of its shape."""
    if (given := next(step.given, None)) is not None:
        return given
    attack, x = step.options.attack, step.batch.x
    start = None
    if attack.start == "normal":
        noise = torch.randn(x.shape, generator=step.generator)
        start = (attack.start_scale * noise).to(x.device)
    x_adv = pgd(
        step.model,
        x,
        step.batch.y,
        step.threat,
        steps=attack.steps,
        step_size=parse_amount(attack.step_size),
        start=start,
        generator=step.generator,
        keep="last",
        batch_norm=attack.batch_norm,
        objective=objective,
    )
    if step.made is not None:
        step.made.append(x_adv)
    return x_adv


def divergence(first: Tensor, second: Tensor) -> Tensor:
    """Return KL(softmax(first) || softmax(second)) of each image; logits of shape (N, classes)."""
    terms = F.kl_div(second.log_softmax(1), first.log_softmax(1), log_target=True, reduction="none")
    return terms.sum(1)


def natural_loss(step: Step) -> LossValue:
    """Return the cross-entropy of the clean batch; the undefended control."""
    logits = step.model(step.batch.x)
    return _cross_entropy(step, logits)


def pgd_loss(step: Step) -> LossValue:
    """Return the cross-entropy of the batch's PGD examples (arXiv 1706.06083, equation 2.1)."""
    logits = step.model(training_examples(step))
    return _cross_entropy(step, logits)


def _cross_entropy(step: Step, logits: Tensor) -> LossValue:
    smoothing = step.settings.label_smoothing
    loss = F.cross_entropy(logits, step.batch.y, label_smoothing=smoothing)
    return LossValue(loss, logits.detach())


def trades_loss(step: Step) -> LossValue:
    """Return CE(x) + beta KL(p(x) || p(x')), x' maximising the divergence.

    arXiv 1901.08573, equation 5 with the divergence of its released code. The clean prediction is
    the same in every step of the attack, so it is made once.
    """
    x, y = step.batch
    with frozen_eval(step.model, step.options.attack.batch_norm), torch.no_grad():
        target = step.model(x)
    x_adv = training_examples(step, lambda logits, _: divergence(target, logits))
    clean, adversarial = step.model(x), step.model(x_adv)
    penalty = divergence(clean, adversarial).mean()
    loss = F.cross_entropy(clean, y) + step.settings.beta * penalty
    return LossValue(loss, adversarial.detach())


def mart_loss(step: Step) -> LossValue:
    """Return BCE(p(x'), y) + lambda KL(p(x) || p(x')) (1 - p_y(x)), x' as for PGD training.

    Wang et al., ICLR 2020, equations 10 and 11; the boosted cross-entropy BCE adds
    ``-log(1 - max_{k != y} p_k(x'))`` to the cross-entropy.
    """
    return boosted_loss(step, step.settings.weight, lambda clean: doubt(clean, step.batch.y))


def boosted_loss(step: Step, strength: float, weigh: Callable[[Tensor], Tensor]) -> LossValue:
    """Return the boosted cross-entropy and a divergence in which images have different weights.

    `weigh` maps the logits of the clean batch to the weights, of shape (N,).
    """
    x, y = step.batch
    x_adv = training_examples(step)
    clean, adversarial = step.model(x), step.model(x_adv)
    others = adversarial.softmax(1).scatter(1, y[:, None], 0.0).amax(1)
    boosted = F.cross_entropy(adversarial, y) - (1 - others).clamp_min(TINY).log().mean()
    penalty = (divergence(clean, adversarial) * weigh(clean)).mean()
    return LossValue(boosted + strength * penalty, adversarial.detach())


def doubt(logits: Tensor, y: Tensor) -> Tensor:
    """Return how much probability the true classes lack, of shape (N,)."""
    return 1 - logits.softmax(1).gather(1, y[:, None]).squeeze(1)
