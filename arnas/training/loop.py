"""The training loop, the same for every model and loss."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from arnas.attacks.gradient import pgd
from arnas.attacks.modes import attacked
from arnas.attacks.threat import Threat
from arnas.data.batches import batches_per_epoch, epoch_batches
from arnas.data.splits import LabelledImages, to_pixels
from arnas.runtime.errors import UserError
from arnas.runtime.history import Record, discard
from arnas.runtime.progress import Report
from arnas.runtime.seeds import make_generator
from arnas.training.losses import LOSSES, Loss, LossEntry, Step
from arnas.training.options import RetrainOptions


class TrainingData(NamedTuple):
    """What training reads, on its device."""

    train: LabelledImages
    selection: LabelledImages
    """Picks the checkpoint and nothing else."""
    scale: int
    """The stored value that means 1.0."""


@dataclass(frozen=True)
class TrainingTask:
    """One training of one network."""

    loss: str
    """A name of `arnas.training.losses.LOSSES`."""
    data: TrainingData
    options: RetrainOptions
    threat: Threat
    """Norm and budget of training and of the selection attack."""
    seed_parts: tuple[object, ...]
    """What the run's random numbers are for."""


@dataclass(frozen=True)
class Checkpoint:
    """Weights after an epoch, with what was measured on the selection images."""

    epoch: int
    """Epochs done, from 1."""
    weights: dict[str, Tensor]
    """A copy of the model's state dict."""
    selection_clean: float
    """Accuracy in percent."""
    selection_robust: float
    """Accuracy under PGD in percent."""


@dataclass(frozen=True)
class TrainingResult:
    """What training leaves."""

    last: Checkpoint
    selected: Checkpoint
    """The best on the selection images; of equals the later one."""
    history: list[dict[str, Any]]
    """One row an epoch."""


def learning_rate(step: int, steps_per_epoch: int, options: RetrainOptions) -> float:
    """Return the learning rate of a step, counted from 0 through all epochs."""
    epoch = step / steps_per_epoch
    rate = options.learning_rate
    if options.schedule == "multistep":
        rate *= 0.1 ** sum(int(epoch) >= milestone for milestone in options.milestones)
    else:
        rate *= 0.5 * (1 + math.cos(math.pi * epoch / options.epochs))
    if epoch < options.warmup_epochs:
        rate *= (step + 1) / (steps_per_epoch * options.warmup_epochs + 1)
    return rate


def train(
    model: nn.Module, task: TrainingTask, report: Report, record: Record = discard
) -> TrainingResult:
    """Train `model` in place and keep its last and its selected checkpoint.

    Parameters
    ----------
    model
        Pixels in [0, 1] to logits, on the data's device.
    task
        Loss, data and recipe.
    report, record
        Called after every epoch, with its figures in words and as a row.
    """
    entry, options = LOSSES[task.loss], task.options
    optimiser = torch.optim.SGD(
        model.parameters(),
        lr=options.learning_rate,
        momentum=options.momentum,
        weight_decay=options.weight_decay,
    )
    history: list[dict[str, Any]] = []
    selected: Checkpoint | None = None
    last: Checkpoint | None = None
    for epoch in range(options.epochs):
        row = _train_epoch(model, entry.loss, optimiser, task, epoch)
        clean, robust = selection_accuracy(model, task)
        row = {"epoch": epoch + 1, **row, "selection_clean": clean, "selection_robust": robust}
        history.append(row)
        record(row)
        weights = {name: value.detach().clone() for name, value in model.state_dict().items()}
        last = Checkpoint(epoch + 1, weights, clean, robust)
        if selected is None or _score(last, entry) >= _score(selected, entry):
            selected = last
        text = f"loss {row['train_loss']:.3f}, selection clean {clean:.1f} robust {robust:.1f}"
        report(epoch + 1, options.epochs, text)
    assert last is not None and selected is not None
    return TrainingResult(last, selected, history)


def _score(checkpoint: Checkpoint, entry: LossEntry) -> tuple[float, float]:
    """Return what checkpoints are compared by: the loss's own accuracy, then the other one."""
    pair = (checkpoint.selection_robust, checkpoint.selection_clean)
    return pair if entry.selects == "robust" else pair[::-1]


def _train_epoch(
    model: nn.Module, loss: Loss, optimiser: torch.optim.SGD, task: TrainingTask, epoch: int
) -> dict[str, float]:
    """Run one epoch and return its mean loss and accuracy (percent) on the images trained on."""
    model.train()
    data, options = task.data, task.options
    steps = batches_per_epoch(len(data.train.labels), options.batch_size)
    parts = (*task.seed_parts, epoch)
    losses, correct, seen = 0.0, 0, 0
    batches = epoch_batches(
        data.train, data.scale, options.batch_size, options.augment, (*parts, "order")
    )
    for step, batch in enumerate(batches):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(epoch * steps + step, steps, options)
        if options.clean_forward:
            with torch.no_grad():
                model(batch.x)
        generator = make_generator(*parts, step, "attack")
        value = loss(Step(model, batch, task.threat, options, generator))
        optimiser.zero_grad()
        value.loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), options.gradient_clip)
        optimiser.step()
        losses += float(value.loss.detach()) * len(batch.y)
        correct += int((value.logits.argmax(1) == batch.y).sum())
        seen += len(batch.y)
    if not math.isfinite(losses):
        raise UserError(
            f"the training loss is {losses} in epoch {epoch + 1}: lower the recipe's learning_rate "
            "or gradient_clip."
        )
    rate = optimiser.param_groups[0]["lr"]
    return {
        "learning_rate": rate,
        "train_loss": losses / seen,
        "train_accuracy": 100 * correct / seen,
    }


def selection_accuracy(model: nn.Module, task: TrainingTask) -> tuple[float, float]:
    """Return clean and PGD accuracy in percent on the selection images.

    The random starts are the same after every epoch, so that checkpoints are compared on equal
    terms.
    """
    data, options, threat = task.data, task.options.selection, task.threat
    count = len(data.selection.labels)
    clean = robust = 0
    generator = make_generator(*task.seed_parts, "selection")
    for start in range(0, count, options.batch_size):
        images, y = (part[start : start + options.batch_size] for part in data.selection)
        x = to_pixels(images, data.scale)
        x_adv = pgd(
            model,
            x,
            y,
            threat,
            steps=options.steps,
            step_size=threat.epsilon / 4,
            generator=generator,
            keep="last",
        )
        with attacked(model), torch.no_grad():
            right = model(x).argmax(1) == y
            clean += int(right.sum())
            robust += int((right & (model(x_adv).argmax(1) == y)).sum())
    return 100 * clean / count, 100 * robust / count
