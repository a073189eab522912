"""What attacks on many images are given and return: the model, random numbers, the outcome."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from arnas.attacks.objectives import Objective


class LossAndGrad(NamedTuple):
    """An objective at some images."""

    gradient: Tensor
    """Of the objective by the image; of the images' shape."""
    value: Tensor
    """Of shape (N,)."""
    logits: Tensor
    """Of shape (N, classes)."""


class AttackOutput(NamedTuple):
    """The result of an attack."""

    broken: Tensor
    """bool of shape (N,): whether `x_adv` is misclassified."""
    x_adv: Tensor
    """Of the images' shape; for a robust image the best candidate, where there is one, or the image
    itself."""


class ActiveImages:
    """The images still under attack: every tensor of it has them as its first dimension."""

    def select(self, rows: Tensor) -> None:
        """Go on with some of the images only: their rows, or bool of shape (N,)."""
        if rows.dtype == torch.bool and bool(rows.all()):
            return
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(self, name, value[rows])


Numbers = Callable[[int, Tensor, int], Tensor]
"""``(block, rows, count)`` to numbers in [0, 1), of shape (len(rows), count), for the images at
`rows` (int64, on the CPU) of the batch. What an image gets depends on the image and the block only,
so that it does not matter which images are attacked together."""


class RandomStreams(NamedTuple):
    """Random numbers, each a function of its image, attack, try and the seed only."""

    uniform: Callable[[tuple[int, ...]], Tensor]
    """Shape of one image's numbers in [0, 1) to those of all images, which come first."""
    normal: Callable[[tuple[int, ...]], Tensor]
    blocks: Numbers
    """For an attack that takes more numbers than can be drawn at once."""


class Oracle:
    """The model, queried in full batches, and the number of queries.

    Attacks advance all their images together and query those that are still robust, so that batches
    stay full while images drop out. The model must be frozen and in evaluation mode
    (`arnas.attacks.eval_mode.frozen_eval`).

    Parameters
    ----------
    model
        Pixels in [0, 1] to logits.
    batch_size
        Images that go through the model together, from 1 up.
    expectation
        Passes that gradient, value and logits are averaged over, for a model that draws random
        numbers (expectation over transformation, Athalye et al., arXiv 1707.07397). Of such a model
        one misclassified draw says little, so no image leaves an attack before its last step.
    """

    def __init__(self, model: nn.Module, batch_size: int, expectation: int = 1) -> None:
        self.model = model
        self.batch_size = batch_size
        self.expectation = expectation
        self.forwards = 0
        """Forward passes, counted in images; those of gradients included."""
        self.backwards = 0
        """Backward passes, counted in images."""

    def logits(self, x: Tensor) -> Tensor:
        """Return the logits of images, of shape (N, classes)."""
        self.forwards += len(x)
        with torch.no_grad():
            return torch.cat(
                [self.model(part).detach() for part in torch.split(x, self.batch_size)]
            )

    def is_wrong(self, x: Tensor, y: Tensor) -> Tensor:
        """Return which images are misclassified, bool of shape (N,)."""
        return misclassified(self.logits(x), y)

    def misclassified(self, logits: Tensor, y: Tensor) -> Tensor:
        """Return which logits end an attack, bool of shape (N,): none of a random model."""
        wrong = misclassified(logits, y)
        return wrong if self.expectation == 1 else torch.zeros_like(wrong)

    def slope(self, x: Tensor, labels: Tensor, objective: Objective) -> LossAndGrad:
        """Return the input gradient of the summed objective, its values and the logits.

        At least one image is needed; labels are of shape (N,) or (N, 2), as the objective takes.
        """
        parts = zip(
            torch.split(x, self.batch_size), torch.split(labels, self.batch_size), strict=True
        )
        slopes = [self._batch_slope(image, label, objective) for image, label in parts]
        return LossAndGrad(*(torch.cat(values) for values in zip(*slopes, strict=True)))

    def _batch_slope(self, x: Tensor, labels: Tensor, objective: Objective) -> LossAndGrad:
        """Do the same for one batch."""
        x = x.detach().requires_grad_()
        passes = []
        for _ in range(self.expectation):
            with torch.enable_grad():
                logits = self.model(x)
                values = objective(logits, labels)
                passes.append((gradient_of(values, x), values.detach(), logits.detach()))
        self.forwards += self.expectation * len(x)
        self.backwards += self.expectation * len(x)
        if self.expectation == 1:
            return LossAndGrad(*passes[0])
        return LossAndGrad(*(torch.stack(found).mean(0) for found in zip(*passes, strict=True)))


def gradient_of(values: Tensor, x: Tensor) -> Tensor:
    """Return the gradient of the summed values by x: zero where there is none, or no number.

    An attack goes on without it, and the checks say of the model that its gradients are missing.
    """
    if not values.requires_grad:
        return torch.zeros_like(x)
    (gradient,) = torch.autograd.grad(values.sum(), x, allow_unused=True, materialize_grads=True)
    return gradient.nan_to_num(0)


def misclassified(logits: Tensor, y: Tensor) -> Tensor:
    """Return whether the largest logit is not the true class's; NaN counts as misclassified."""
    return (logits.argmax(1) != y) | logits.isnan().any(1)


def in_batches(
    oracle: Oracle, attack: Callable[..., Tensor], x: Tensor, y: Tensor, *more: Tensor
) -> AttackOutput:
    """Run an attack that returns adversarial examples batch by batch, and classify them.

    It gets the images, the labels and the rows of `more` of each batch.
    """
    if not len(x):
        return AttackOutput(torch.zeros(0, dtype=torch.bool, device=x.device), x.clone())
    batches = (torch.split(values, oracle.batch_size) for values in (x, y, *more))
    x_adv = torch.cat([attack(*batch) for batch in zip(*batches, strict=True)])
    return AttackOutput(misclassified(oracle.logits(x_adv), y), x_adv)
