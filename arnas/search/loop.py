"""The loop of both search stages: adversarial examples, architecture step, weight step."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch

from arnas.attacks.pgd import pgd
from arnas.attacks.threat import Threat, parse_amount
from arnas.data.batches import Batch, augment, epoch_batches
from arnas.data.placement import gather
from arnas.data.splits import LabelledImages, to_pixels
from arnas.runtime.errors import UserError
from arnas.runtime.files import TensorFile
from arnas.runtime.history import Record, discard
from arnas.runtime.progress import Report
from arnas.runtime.resume import NO_CHECKPOINT, Checkpointer, Snapshot
from arnas.runtime.seeds import make_generator
from arnas.search.derive import collapsed, count_skips, derive_genotype
from arnas.search.options import SupernetOptions
from arnas.search.state import SearchState, fill_state, state_tensors
from arnas.search.step import COMBINATIONS, StagePlan, architecture_step, weight_step


class SearchData(NamedTuple):
    """What a search reads, on its device."""

    train: LabelledImages
    """Weight batches."""
    validation: LabelledImages
    """Architecture batches; disjoint from `train`."""
    scale: int
    """The stored value that means 1.0."""


@dataclass(frozen=True)
class SearchTask:
    """One stage of one search."""

    plan: StagePlan
    data: SearchData
    options: SupernetOptions
    threat: Threat
    """Norm and budget of the attacks."""
    seed: int
    """The replicate's seed."""


def cosine_rate(epoch: int, options: SupernetOptions) -> float:
    """Return the weights' learning rate in `epoch` (from 0), a half cosine over the schedule.

    Epoch 0 has the full rate, unless `schedule_lead` puts the cosine ahead.
    """
    weights = options.weights
    share = min((epoch + weights.schedule_lead) / weights.schedule_epochs, 1.0)
    span = weights.learning_rate - weights.final_learning_rate
    return weights.final_learning_rate + 0.5 * span * (1 + math.cos(math.pi * share))


@dataclass
class _Progress:
    """Progress of a stage; its snapshot is what a resumed run begins with."""

    done: int = 0
    """Epochs of this stage that are done."""
    step: int = 0
    """Steps done of the present epoch."""
    metrics: dict[str, list[float]] = field(default_factory=dict)
    """Name to its values in these steps."""
    history: list[dict[str, Any]] = field(default_factory=list)


def _snapshot(state: SearchState, progress: _Progress) -> Snapshot:
    """Return all that resuming the stage needs."""
    # As text, because the state's JSON sorts keys and the history does not.
    values = {**vars(progress), "history": [json.dumps(row) for row in progress.history]}
    return Snapshot(state_tensors(state), values)


def _resume(state: SearchState, saved: TensorFile | None) -> _Progress:
    """Restore `state` from an earlier run, and return its progress."""
    if saved is None:
        return _Progress()
    fill_state(state, saved.tensors, Path("the saved state"))
    values = dict(saved.description)
    values["history"] = [json.loads(row) for row in values["history"]]
    return _Progress(**values)


def run_stage(
    state: SearchState,
    task: SearchTask,
    report: Report,
    record: Record = discard,
    checkpointer: Checkpointer = NO_CHECKPOINT,
) -> list[dict[str, Any]]:
    """Run the epochs of one stage and return one row of metrics for each.

    Parameters
    ----------
    state
        Continued in place: weights, tables, optimisers, trajectory and gammas.
    task
        The stage, its data and its settings.
    report, record
        Called after every epoch, with its metrics as text and as a row.
    checkpointer
        Saves the state of an interrupted run, so that the resumed one ends with the same bytes.
    """
    progress = _resume(state, checkpointer.load())
    for row in progress.history:
        record(row)
    while progress.done < task.plan.epochs:
        row = _run_epoch(state, task, progress, checkpointer)
        progress.history.append(row)
        progress.done, progress.step, progress.metrics = progress.done + 1, 0, {}
        record(row)
        checkpointer.maybe_save(lambda: _snapshot(state, progress), now=True)
        report(progress.done, task.plan.epochs, _describe_epoch(row))
    return progress.history


def _describe_epoch(row: dict[str, Any]) -> str:
    """Return an epoch's metrics in words."""
    skips = "+".join(str(count) for kind, count in row["skips"].items() if kind != "reduction")
    text = f"adversarial loss {row['train_loss']:.3f}, skips {skips}"
    if row["gamma"] is not None:
        text += f", gamma {row['gamma']:.2f}"
    if row["collapsed"]:
        text += f", WARNING: {' and '.join(row['collapsed'])} cell collapses to skip connections"
    return text


def _run_epoch(
    state: SearchState, task: SearchTask, progress: _Progress, checkpointer: Checkpointer
) -> dict[str, Any]:
    """Run one epoch, or what is left of it, and return its metrics."""
    warmup = progress.done < task.plan.warmup_epochs
    epoch, data, options = state.epochs, task.data, task.options
    rate = cosine_rate(epoch, options)
    for group in state.weight_optimiser.param_groups:
        group["lr"] = rate
    state.supernet.train()
    parts = ("search", task.seed, epoch)
    batches = epoch_batches(
        data.train, data.scale, options.batch_size, options.augment, (*parts, "order")
    )
    for step, batch in enumerate(batches):
        if step < progress.step:
            continue
        purpose = (*parts, step)
        train = _attack(state, task, batch, (*purpose, "train"))
        measured: dict[str, float] = {}
        if not warmup:
            validation = _validation_batches(state, task, purpose)
            measured = architecture_step(state, task.plan, train, validation)
            state.gammas.append(measured["gamma"])
        measured["train_loss"], measured["train_accuracy"] = weight_step(state, train, options)
        if not math.isfinite(measured["train_loss"]):
            raise UserError(
                f"the supernet's loss is {measured['train_loss']} in epoch {epoch + 1}: lower "
                "supernet.weights.learning_rate or gradient_clip."
            )
        for name, value in measured.items():
            progress.metrics.setdefault(name, []).append(value)
        progress.step = step + 1
        checkpointer.maybe_save(lambda: _snapshot(state, progress))
    tables = {kind: table.cpu() for kind, table in state.supernet.tables().items()}
    state.trajectory.append(tables)
    return _summarise(state, task.plan, rate, progress.metrics)


def _summarise(
    state: SearchState, plan: StagePlan, rate: float, metrics: dict[str, list[float]]
) -> dict[str, Any]:
    """Return the row of the epoch just done: means over its steps, and its genotype."""
    tables = state.trajectory[-1]
    genotype = derive_genotype(tables, "an epoch of a search", state.supernet.primitives)
    names = ("train_loss", "train_accuracy", "natural_loss", "adversarial_loss", "gamma", "cosine")
    entropy = {
        kind: float(-(table.softmax(1) * table.log_softmax(1)).sum(1).mean())
        for kind, table in tables.items()
    }
    return {
        "stage": plan.name,
        "epoch": state.epochs,
        "learning_rate": rate,
        **{name: _mean(metrics.get(name, [])) for name in names},
        "skips": count_skips(genotype),
        "entropy": entropy,
        "collapsed": collapsed(genotype),
        "genotype": genotype.to_json()["cells"],
    }


def _mean(values: list[float]) -> float | None:
    """Return the mean of the numbers that are not NaN, None if there are none."""
    numbers = [value for value in values if not math.isnan(value)]
    return sum(numbers) / len(numbers) if numbers else None


def _attack(
    state: SearchState, task: SearchTask, batch: Batch, purpose: tuple[object, ...]
) -> Batch:
    """Return the batch's adversarial examples for the present supernet."""
    attack = task.options.attack
    x = pgd(
        state.supernet,
        batch.x,
        batch.y,
        task.threat,
        steps=attack.steps,
        step_size=parse_amount(attack.step_size),
        generator=make_generator(*purpose),
        keep="last",
        batch_norm=attack.batch_norm,
        clip=attack.clip,
    )
    return Batch(x, batch.y)


def _validation_batch(task: SearchTask, purpose: tuple[object, ...]) -> Batch:
    """Return a fresh random batch of architecture images."""
    data, options = task.data, task.options
    generator = make_generator(*purpose, "validation batch")
    order = torch.randperm(len(data.validation.labels), generator=generator)
    images, labels = gather(data.validation, order[: options.batch_size])
    return Batch(to_pixels(augment(images, options.augment, generator), data.scale), labels)


def _validation_batches(
    state: SearchState, task: SearchTask, purpose: tuple[object, ...]
) -> dict[str, Batch]:
    """Return the batch of each objective of the stage, all made from the same images."""
    natural = _validation_batch(task, purpose)
    return {
        objective: natural
        if objective == "natural"
        else _attack(state, task, natural, (*purpose, "validation"))
        for objective in COMBINATIONS[task.plan.combine].objectives
    }
