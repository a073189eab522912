"""The training loop, the same for every model and loss."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from arnas.attacks.pgd import pgd
from arnas.attacks.threat import Threat
from arnas.data.batches import Batch, batches_per_epoch, epoch_batches
from arnas.data.placement import on_device
from arnas.data.splits import LabelledImages, to_pixels
from arnas.evaluation.predict import predict
from arnas.models.sharing import sum_gradients
from arnas.runtime.errors import UserError
from arnas.runtime.files import TensorFile
from arnas.runtime.history import Record, discard
from arnas.runtime.progress import Report
from arnas.runtime.references import load_reference
from arnas.runtime.resume import NO_CHECKPOINT, Checkpointer, Snapshot
from arnas.runtime.seeds import make_generator
from arnas.spaces.network import CellNetwork
from arnas.training.awp import perturbed_weights
from arnas.training.losses import Loss, Step
from arnas.training.options import RetrainOptions
from arnas.training.registry import LossOptions, loss_entry

Pair = tuple[float, float]
NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)
ADAM_SQUARES = 0.999
"""Decay of Adam's second moment (arXiv 1412.6980)."""
OLD_NAMES = {"momentum": "momentum_buffer"}
"""Names that parts of the optimiser's state had in states of an earlier release."""


class TrainingData(NamedTuple):
    """The images of a training, on its device."""

    train: LabelledImages
    val: LabelledImages
    """Picks the checkpoint and nothing else."""
    scale: int
    """The stored value that means 1.0."""


@dataclass(frozen=True)
class TrainingTask:
    """One training of one network."""

    loss: LossOptions
    """Its name and its settings."""
    data: TrainingData
    options: RetrainOptions
    threat: Threat
    """Norm and budget of training and of the attack that selects."""
    seed_parts: tuple[object, ...]
    """Parts of the seed of all its random numbers."""


@dataclass(frozen=True)
class Checkpoint:
    """Weights after an epoch, with their accuracies on the validation images."""

    epoch: int
    """Epochs done, from 1."""
    weights: dict[str, Tensor]
    """A copy of the model's state dict."""
    val_clean: float
    """Accuracy in percent."""
    val_robust: float
    """Accuracy under PGD in percent."""


@dataclass(frozen=True)
class TrainingResult:
    """Checkpoints and history of a training."""

    last: Checkpoint
    selected: Checkpoint
    """The best on the validation images; of equals the later one."""
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


def training_threat(step: int, steps_per_epoch: int, task: TrainingTask) -> Threat:
    """Return the threat of a step, counted from 0 through all epochs."""
    warmup = task.options.attack.epsilon_warmup_epochs * steps_per_epoch
    share = min(1.0, (step + 1) / (warmup + 1))
    return replace(task.threat, epsilon=share * task.threat.epsilon) if share < 1 else task.threat


@dataclass
class _Progress:
    """Progress of a training; its snapshot is what a resumed run begins with."""

    epoch: int = 0
    """Epochs done."""
    step: int = 0
    """Steps done of the current epoch."""
    losses: float = 0.0
    """Sum over the images of the current epoch, as the two below."""
    correct: int = 0
    seen: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    selected: Checkpoint | None = None
    average: dict[str, Tensor] | None = None
    """Moving average of the model's state dict."""

    def next_epoch(self, row: dict[str, Any]) -> None:
        """Add the row of an epoch and begin the next."""
        self.history.append(row)
        self.epoch, self.step = self.epoch + 1, 0
        self.losses, self.correct, self.seen = 0.0, 0, 0


def _checkpoint(model: nn.Module, progress: _Progress) -> Checkpoint:
    """Return the present weights, or their average, with the last epoch's accuracies."""
    row = progress.history[-1]
    state = model.state_dict() if progress.average is None else progress.average
    weights = {name: value.detach().clone() for name, value in state.items()}
    return Checkpoint(progress.epoch, weights, row["val_clean"], row["val_robust"])


def _optimiser(model: nn.Module, options: RetrainOptions) -> torch.optim.Optimizer:
    """Return the recipe's optimiser of a model's weights, the learning rate apart."""
    kinds: dict[nn.Parameter, str] = {}
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            kinds.setdefault(parameter, "norm" if isinstance(module, NORMS) else name)
    decayed = [p for p, kind in kinds.items() if kind not in options.no_decay]
    free = [p for p, kind in kinds.items() if kind in options.no_decay]
    groups: list[dict[str, Any]] = [{"params": decayed, "weight_decay": options.weight_decay}]
    if free:
        groups.append({"params": free, "weight_decay": 0.0})
    if options.optimiser == "adam":
        betas = (options.momentum, ADAM_SQUARES)
        return torch.optim.Adam(groups, lr=options.learning_rate, betas=betas)
    return torch.optim.SGD(groups, lr=options.learning_rate, momentum=options.momentum)


def _update_average(model: nn.Module, progress: _Progress, decay: float, step: int) -> None:
    """Move the average towards the present weights; `step` counts from 0 through all epochs."""
    state = model.state_dict()
    if progress.average is None:
        progress.average = {name: value.clone() for name, value in state.items()}
    share = 1 - min(decay, (1 + step) / (10 + step))
    for name, value in state.items():
        if value.is_floating_point():
            progress.average[name].lerp_(value, share)
        else:
            progress.average[name].copy_(value)


@contextmanager
def _averaged(model: nn.Module, progress: _Progress) -> Iterator[None]:
    """Let the model have the average weights, if there are any, and its own ones afterwards."""
    if progress.average is None:
        yield
        return
    own = {name: value.clone() for name, value in model.state_dict().items()}
    model.load_state_dict(progress.average)
    try:
        yield
    finally:
        model.load_state_dict(own)


def _snapshot(model: nn.Module, optimiser: torch.optim.Optimizer, progress: _Progress) -> Snapshot:
    """Return all that resuming the training needs."""
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        for key, value in optimiser.state[parameter].items():
            if isinstance(value, Tensor):
                tensors[f"{key}.{name}"] = value
    if progress.average is not None:
        tensors |= {f"average.{name}": value for name, value in progress.average.items()}
    values = {k: v for k, v in vars(progress).items() if k not in ("selected", "average")}
    # As text, because the state's JSON sorts keys and the history does not.
    values["history"] = [json.dumps(row) for row in progress.history]
    if progress.selected is not None:
        chosen = vars(progress.selected).copy()
        tensors |= {f"selected.{name}": value for name, value in chosen.pop("weights").items()}
        values["selected"] = chosen
    return Snapshot(tensors, values)


def _resume(
    model: nn.Module, optimiser: torch.optim.Optimizer, saved: TensorFile | None
) -> _Progress:
    """Restore model and optimiser from an earlier run, and return its progress."""
    if saved is None:
        return _Progress()
    device = next(model.parameters()).device
    parts: defaultdict[str, dict[str, Tensor]] = defaultdict(dict)
    for key, value in saved.tensors.items():
        part, name = key.split(".", 1)
        # Adam keeps its count of steps on the CPU.
        parts[part][name] = value if part == "step" else value.to(device)
    model.load_state_dict(parts.pop("model"))
    chosen_weights, average = parts.pop("selected", {}), parts.pop("average", None)
    parameters = dict(model.named_parameters())
    for part, values_of in parts.items():
        for name, value in values_of.items():
            optimiser.state[parameters[name]][OLD_NAMES.get(part, part)] = value
    values = dict(saved.description)
    values["history"] = [json.loads(row) for row in values["history"]]
    chosen = values.pop("selected", None)
    selected = None if chosen is None else Checkpoint(weights=chosen_weights, **chosen)
    return _Progress(**values, selected=selected, average=average)


def train(
    model: nn.Module,
    task: TrainingTask,
    report: Report,
    record: Record = discard,
    checkpointer: Checkpointer = NO_CHECKPOINT,
) -> TrainingResult:
    """Train `model` in place and keep its last and its selected checkpoint.

    Parameters
    ----------
    model
        Pixels in [0, 1] to logits, on the data's device.
    task
        Loss, data and recipe.
    report, record
        Called after every epoch, with its metrics as text and as a row.
    checkpointer
        Saves the state of an interrupted run, so that the resumed one ends with the same bytes.

    Raises
    ------
    UserError
        When the recipe names more training images to measure than there are.
    """
    entry, options = loss_entry(task.loss.name), task.options
    loss: Loss = load_reference(entry.function)
    optimiser = _optimiser(model, options)
    rule = options.selection
    images = len(task.data.train.labels)
    if "train_images" in rule.model_fields_set and rule.train_images > images:
        raise UserError(
            f"selection.train_images is {rule.train_images}, but there are {images} training "
            f"images: give {images} or fewer."
        )
    score = _score(entry.selects if rule.by == "loss" else rule.by)
    progress = _resume(model, optimiser, checkpointer.load())
    for row in progress.history:
        record(row)
    while progress.epoch < options.epochs and not _out_of_patience(progress, rule.patience):
        row = _train_epoch(model, loss, optimiser, task, progress, checkpointer)
        seen = LabelledImages(*(part[: rule.train_images] for part in task.data.train))
        with _averaged(model, progress):
            train_clean, train_robust = measure(model, seen, task, "train")
            clean, robust = measure(model, task.data.val, task, "selection")
        row = {
            "epoch": progress.epoch + 1,
            **row,
            "train_clean": train_clean,
            "train_robust": train_robust,
            "val_clean": clean,
            "val_robust": robust,
        }
        record(row)
        progress.next_epoch(row)
        last = _checkpoint(model, progress)
        competes = rule.first_epoch <= progress.epoch <= (rule.last_epoch or options.epochs)
        best = progress.selected
        if competes and (best is None or score(last) >= score(best)):
            progress.selected = last
        text = f"loss {row['train_loss']:.3f}, val clean {clean:.1f} robust {robust:.1f}"
        checkpointer.maybe_save(lambda: _snapshot(model, optimiser, progress), now=True)
        report(progress.epoch, options.epochs, text)
    assert progress.selected is not None
    return TrainingResult(_checkpoint(model, progress), progress.selected, progress.history)


def _out_of_patience(progress: _Progress, patience: int | None) -> bool:
    """Return whether the last so many epochs brought no better checkpoint."""
    best = progress.selected
    return best is not None and patience is not None and progress.epoch >= best.epoch + patience


def _score(by: Literal["robust", "clean"]) -> Callable[[Checkpoint], Pair]:
    """Return the key that ranks checkpoints: the accuracy that is named, then the other one."""

    def score(checkpoint: Checkpoint) -> Pair:
        pair = (checkpoint.val_robust, checkpoint.val_clean)
        return pair if by == "robust" else pair[::-1]

    return score


def _train_epoch(
    model: nn.Module,
    loss: Loss,
    optimiser: torch.optim.Optimizer,
    task: TrainingTask,
    progress: _Progress,
    checkpointer: Checkpointer,
) -> dict[str, float]:
    """Run one epoch, or what is left of it, and return its mean loss and accuracy (percent)."""
    model.train()
    data, options, epoch = task.data, task.options, progress.epoch
    steps = batches_per_epoch(len(data.train.labels), options.batch_size)
    parts = (*task.seed_parts, epoch)
    batches = epoch_batches(
        data.train, data.scale, options.batch_size, options.augment, (*parts, "order")
    )
    for step, batch in enumerate(batches):
        if step < progress.step:
            continue
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(epoch * steps + step, steps, options)
        extra = _clean_pass(model, batch, options)
        generator = make_generator(*parts, step, "attack")
        threat = training_threat(epoch * steps + step, steps, task)
        now = Step(model, batch, threat, options, generator, task.loss)
        optimiser.zero_grad()
        with perturbed_weights(now, loss, options.weight_perturbation) as now:
            value = loss(now)
            (value.loss + extra).backward()  # type: ignore[no-untyped-call]
        sum_gradients(model)
        nn.utils.clip_grad_norm_(model.parameters(), options.gradient_clip)
        optimiser.step()
        if options.average_decay:
            _update_average(model, progress, options.average_decay, epoch * steps + step)
        progress.losses += float(value.loss.detach()) * len(batch.y)
        progress.correct += int((value.logits.argmax(1) == batch.y).sum())
        progress.seen += len(batch.y)
        progress.step = step + 1
        checkpointer.maybe_save(lambda: _snapshot(model, optimiser, progress))
    if not math.isfinite(progress.losses):
        raise UserError(
            f"the training loss is {progress.losses} in epoch {epoch + 1}: lower the recipe's "
            "learning_rate or gradient_clip."
        )
    rate = learning_rate(epoch * steps + steps - 1, steps, options)
    return {
        "learning_rate": rate,
        "train_loss": progress.losses / progress.seen,
        "train_accuracy": 100 * progress.correct / progress.seen,
    }


def _clean_pass(model: nn.Module, batch: Batch, options: RetrainOptions) -> Tensor | float:
    """Send a clean batch through if the recipe wants it, and return its part of the loss.

    It comes before the attack, as in the released code, and moves the running statistics: a network
    with an auxiliary head, whose loss is that of the clean batch, therefore always makes it.
    """
    if options.auxiliary_weight and getattr(model, "auxiliary", None) is not None:
        assert isinstance(model, CellNetwork)
        _, logits = model.with_auxiliary(batch.x)
        return options.auxiliary_weight * F.cross_entropy(logits, batch.y)
    if options.clean_forward:
        with torch.no_grad():
            model(batch.x)
    return 0.0


def measure(
    model: nn.Module, part: LabelledImages, task: TrainingTask, name: str
) -> tuple[float, float]:
    """Return clean and PGD accuracy in percent on some images.

    The random starts follow from the part's `name` and are the same after every epoch, so that
    epochs are compared on equal terms.
    """
    options, threat = task.options.selection, task.threat
    count = len(part.labels)
    clean = robust = 0
    generator = make_generator(*task.seed_parts, name)
    for start in range(0, count, options.batch_size):
        images, y = (values[start : start + options.batch_size] for values in part)
        x = to_pixels(on_device(images, y.device), task.data.scale)
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
        right = predict(model, x, len(y)) == y
        clean += int(right.sum())
        robust += int((right & (predict(model, x_adv, len(y)) == y)).sum())
    return 100 * clean / count, 100 * robust / count
