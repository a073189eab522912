"""What every check of a model keeps to: it never raises, and it leaves everything as it was."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from arnas.attacks.eval_mode import frozen_eval
from arnas.evaluation.checks.context import CheckContext, CheckFn
from arnas.evaluation.checks.run import Check
from arnas.runtime.errors import Preempted, UserError, one_line
from arnas.runtime.seeds import derive_seed, seeded

TINY = 1e-30
ANSWERS, REPEATS = "answers", "repeats"
"""Keys of `CheckContext.notes` under which the functions of these names keep what they found."""
PASSES = 3
SAME_AGAIN, OTHER_AGAIN = 1e-6, 1e-4
"""Difference of the logits of equal passes, relative to their size, up to which they are the same,
and from which the model draws random numbers; between them sums run in any order."""
NEEDED = "the model must map images (n, C, H, W) in [0, 1] to logits (n, classes), for every n"


def guarded(name: str, look: Callable[[CheckContext], Check]) -> CheckFn:
    """Return a check that cannot raise and that leaves no trace.

    Modes, weights, buffers, `requires_grad`, gradients, the images and the global random numbers of
    PyTorch, NumPy and Python are afterwards what they were, whatever the model does to them.

    Parameters
    ----------
    name
        Its id, from which its random numbers follow.
    look
        The check. What it raises becomes FAIL with the first line of the exception.
    """

    def verdict(trial: CheckContext) -> Check:
        try:
            if not len(trial.x):
                return Check(name, "SKIP", "there are no images", "give at least one image")
            with (
                own_randomness(name, trial.seed),
                untouched(trial.model),
                warnings.catch_warnings(),
            ):
                warnings.simplefilter("ignore")
                # The notes are shared.
                found = look(replace(trial, x=trial.x.detach()))
                return found._replace(advice="") if found.status == "PASS" else found
        except Preempted:
            raise
        except Exception as error:
            figure = one_line(str(error).split("\n", 1)[0], 200)
            if not isinstance(error, UserError):
                figure = f"{type(error).__name__}: {figure}" if figure else type(error).__name__
            return Check(name, "FAIL", figure, NEEDED)

    return verdict


@contextmanager
def own_randomness(name: str, seed: int) -> Iterator[None]:
    """Seed the global random numbers inside the block and restore them afterwards."""
    of_python, of_numpy = random.getstate(), np.random.get_state()
    number = derive_seed("check", name, seed)
    try:
        with seeded("check", name, seed):
            random.seed(number)
            np.random.seed(number % 2**32)
            yield
    finally:
        random.setstate(of_python)
        np.random.set_state(of_numpy)


class _Kept(NamedTuple):
    """A weight or buffer of a module, and a copy of its value."""

    module: nn.Module
    name: str
    tensor: Tensor
    value: Tensor
    requires_grad: bool
    gradient: Tensor | None

    def changed(self) -> bool:
        """Return whether the module has another tensor now, or other values; NaN equals NaN."""
        now = getattr(self.module, self.name, None)
        return now is not self.tensor or not same_values(self.tensor, self.value)

    def restore(self) -> None:
        """Put tensor, values, gradient and whether it asks for one back."""
        if self.changed():
            if getattr(self.module, self.name, None) is not self.tensor:
                setattr(self.module, self.name, self.tensor)
            with torch.no_grad():
                if self.tensor.shape == self.value.shape:
                    self.tensor.copy_(self.value)
                else:
                    self.tensor.data = self.value
        if self.tensor.requires_grad != self.requires_grad:
            self.tensor.requires_grad_(self.requires_grad)
        if self.tensor.is_leaf:
            self.tensor.grad = self.gradient


@contextmanager
def untouched(model: nn.Module) -> Iterator[Callable[[], list[str]]]:
    """Restore modes, weights, buffers, gradients and `requires_grad` after the block.

    Yields a function that names the weights and buffers that differ now from before.
    """
    modes = [(module, module.training) for module in model.modules()]
    kept = {
        f"{path}.{name}".lstrip("."): _Kept(
            module, name, tensor, tensor.detach().clone(), tensor.requires_grad, tensor.grad
        )
        for path, module in model.named_modules()
        for held in (module.named_parameters, module.named_buffers)
        for name, tensor in held(recurse=False)
    }
    try:
        yield lambda: [path for path, one in kept.items() if one.changed()]
    finally:
        for module, mode in modes:
            module.training = mode
        for one in kept.values():
            one.restore()


def same_values(first: Tensor, second: Tensor) -> bool:
    """Return whether two tensors are equal in every value; NaN equals NaN."""
    if first.shape != second.shape or first.dtype != second.dtype:
        return False
    first, second = first.detach(), second.detach()
    return torch.equal(first, second) or (
        first.is_floating_point()
        and bool(((first == second) | (first.isnan() & second.isnan())).all())
    )


def forward(model: nn.Module, x: Tensor) -> Tensor:
    """Return the logits of a batch; the model gets a copy if it might write into the images.

    Raises
    ------
    UserError
        When it returns anything but a floating tensor of shape (N, classes).
    """
    logits = model(x if x.requires_grad else x.clone())
    if not isinstance(logits, Tensor):
        raise UserError(f"the model returns a {type(logits).__name__}: needed is a tensor")
    if not logits.is_floating_point():
        raise UserError(f"the model returns {logits.dtype}: needed are logits, floating numbers")
    if logits.ndim != 2 or len(logits) != len(x) or not logits.shape[1]:
        raise UserError(
            f"the model returns shape {tuple(logits.shape)} for {len(x)} images: needed is "
            f"({len(x)}, classes)"
        )
    return logits


def clean_logits(trial: CheckContext, x: Tensor, batch_size: int | None = None) -> Tensor:
    """Return the logits of images in evaluation mode, of shape (N, classes)."""
    with frozen_eval(trial.model), torch.no_grad():
        parts = torch.split(x, batch_size or trial.batch_size)
        return torch.cat([forward(trial.model, part) for part in parts])


def logit_size(logits: Tensor) -> float:
    """Return the size of logits: the median, over images, of the distance from their mean.

    What is common to the classes of an image changes no prediction and does not count.
    """
    centred = logits.double()
    if logits.shape[1] > 1:
        centred = centred - centred.mean(1, keepdim=True)
    median = centred.abs().amax(1).nanmedian().nan_to_num(0.0, 0.0, 0.0)
    return max(float(median), TINY)


class Answers(NamedTuple):
    """What a model says of all images, each tensor of shape (n,) and on their device."""

    classes: int
    """Number of logits."""
    dtype: torch.dtype
    """Of the logits."""
    correct: Tensor
    """bool; NaN counts as wrong."""
    gap: Tensor
    """Largest logit minus the second."""
    finite: Tensor
    """bool: whether all logits are."""
    low: Tensor
    """Smallest logit."""
    high: Tensor
    """Largest logit."""
    total: Tensor
    """Sum of the logits."""
    log_total: Tensor
    """Logarithm of the sum of their exponentials."""
    first: Tensor
    """Greatest distance of the logits from those of the first image."""


def answers(trial: CheckContext) -> Answers:
    """Return what the model says of all images, in evaluation mode; asked once a trial."""
    found: Answers | None = trial.notes.get(ANSWERS)
    if found is None:
        found = trial.notes[ANSWERS] = _ask(trial)
    return found


def _ask(trial: CheckContext) -> Answers:
    """Send all images through the model."""
    parts, first = [], None
    with frozen_eval(trial.model), torch.no_grad():
        for x, y in zip(
            torch.split(trial.x, trial.batch_size),
            torch.split(trial.y, trial.batch_size),
            strict=True,
        ):
            logits = forward(trial.model, x)
            first = logits[:1] if first is None else first
            top = logits.topk(min(2, logits.shape[1]), dim=1).values
            parts.append(
                (
                    (logits.argmax(1) == y) & ~logits.isnan().any(1),
                    top[:, 0] - top[:, -1],
                    logits.isfinite().all(1),
                    logits.amin(1),
                    logits.amax(1),
                    logits.sum(1),
                    logits.logsumexp(1),
                    (logits - first).abs().amax(1),
                )
            )
    columns = [torch.cat(column) for column in zip(*parts, strict=True)]
    return Answers(logits.shape[1], logits.dtype, *columns)


def repeats(trial: CheckContext) -> tuple[float, int, int]:
    """Return how far passes differ, how many predictions change, and the images looked at."""
    found: tuple[float, int, int] | None = trial.notes.get(REPEATS)
    if found is None:
        images = trial.x[: trial.batch_size]
        passes = [clean_logits(trial, images) for _ in range(PASSES)]
        worst = max(distance(one, passes[0]) for one in passes[1:]) / logit_size(passes[0])
        flipped = torch.stack([one.argmax(1) != passes[0].argmax(1) for one in passes[1:]])
        found = (worst, int(flipped.any(0).sum()), len(images))
        trial.notes[REPEATS] = found
    return found


def distance(first: Tensor, second: Tensor) -> float:
    """Return the largest difference; equal values have none, NaN and infinite ones included."""
    if first.shape != second.shape:
        return float("inf")
    same = (first == second) | (first.isnan() & second.isnan())
    gap = torch.where(same, 0, (first.double() - second.double()).abs())
    return float(gap.nan_to_num(torch.inf).max())


def tolerance(share: float, trial: CheckContext) -> float:
    """Return a tolerance in units of the logits' size, no finer than the types resolve."""
    return max(share, *(2 * torch.finfo(d).eps for d in (trial.x.dtype, answers(trial).dtype)))


def is_random(trial: CheckContext) -> bool:
    """Return whether equal passes differ by more than the order of sums can explain."""
    worst, flips, _ = repeats(trial)
    again = tolerance(SAME_AGAIN, trial)
    return not worst <= max(again, OTHER_AGAIN) or (flips > 0 and not worst <= again)
