"""Black-box evaluation: examples made on one network are shown to the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from arnas.attacks.eval_mode import frozen_eval
from arnas.attacks.pgd import transferable
from arnas.attacks.square import square
from arnas.attacks.threat import Threat
from arnas.data.placement import on_device
from arnas.evaluation.ledger import Ledger
from arnas.runtime.seeds import per_image_uniform


class Opinion(NamedTuple):
    """What a network says of images."""

    predicted: Tensor
    """int64 of shape (N,)."""
    confidence: Tensor
    """float32 of shape (N,): softmax probability of the predicted class."""


def opinion(
    model: nn.Module, x: Tensor, batch_size: int, device: torch.device | None = None
) -> Opinion:
    """Return the predicted classes and how sure the model is, in evaluation mode.

    Parameters are those of `arnas.evaluation.whitebox.predict`.
    """
    batches = (on_device(part, device or x.device) for part in torch.split(x, batch_size))
    with frozen_eval(model), torch.no_grad():
        parts = [model(batch).softmax(1).max(1) for batch in batches]
    confidence, predicted = (torch.cat(values) for values in zip(*parts, strict=True))
    return Opinion(predicted, confidence)


def transfer_examples(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    steps: int,
    batch_size: int,
    seed: int,
    ledger: Ledger | None = None,
) -> Tensor:
    """Return adversarial examples made on `model` for showing to other models.

    Those of `arnas.attacks.pgd.transferable`, also of images that the model misclassifies.

    Parameters
    ----------
    model
        Pixels in [0, 1] to logits.
    x, y
        float32 of shape (N, C, H, W) in [0, 1] and int64 of shape (N,). The labels are on the
        device of the model; images elsewhere are moved there batch by batch.
    threat
        Norm and budget.
    steps
        Gradient steps.
    batch_size
        Images attacked together.
    seed
        The replicate's seed; an image's start depends on it and the image's index only.
    ledger
        Examples that an earlier run that was cut short had made are not made again.

    Returns
    -------
    Tensor
        x_adv of x's shape, on x's device.
    """

    def make(index: Tensor, clean: Tensor, label: Tensor) -> Tensor:
        unit = per_image_uniform(("blackbox", seed), index, x.shape[1:]).to(clean)
        return transferable(model, clean, label, threat, unit, steps=steps)

    return _by_batches("transfer", x, y, batch_size, ledger, make)


def square_examples(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    queries: int,
    batch_size: int,
    ledger: Ledger | None = None,
) -> Tensor:
    """Return what Square finds on `model` (`arnas.attacks.square.square`), batch by batch.

    Parameters and result are those of `transfer_examples`.

    Parameters
    ----------
    queries
        Most queries for an image.
    """

    def make(index: Tensor, clean: Tensor, label: Tensor) -> Tensor:
        return square(model, clean, label, threat, queries=queries, indices=index)

    return _by_batches("square", x, y, batch_size, ledger, make)


def _by_batches(
    name: str,
    x: Tensor,
    y: Tensor,
    batch_size: int,
    ledger: Ledger | None,
    make: Callable[[Tensor, Tensor, Tensor], Tensor],
) -> Tensor:
    """Return the examples of all images, going on after the last batch that the ledger knows.

    `make` gets the indices of a batch, its images and its labels, on the device of the labels.
    """
    ledger = ledger or Ledger()
    found, done = ledger.begin(name, x)
    for number, index in enumerate(torch.split(torch.arange(len(x)), batch_size)):
        if number < done:
            continue
        made = make(index, on_device(x[index], y.device), y[index])
        found[index] = made.to(found.device)
        ledger.note(name, found, number + 1)
    return found
