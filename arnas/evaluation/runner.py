"""Running a suite of attacks on the images of one model, in steps that survive a kill.

An image's tries at an attack, restarts or targets, end with the first that breaks it. Each try's
random numbers depend on the seed, the attack, the image's index and the try only, so neither the
batch size nor the order of images, nor a kill between, changes the outcome of an image.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from traceback import walk_tb
from typing import Any

import torch
from torch import Tensor, nn

from arnas.attacks.eval_mode import frozen_eval, home
from arnas.attacks.folding import attacked
from arnas.attacks.oracle import Oracle, RandomStreams, misclassified
from arnas.attacks.square import per_image_numbers
from arnas.attacks.suites import Component, Suite, targets_of
from arnas.attacks.threat import Threat
from arnas.evaluation.monitor import EvalMonitor
from arnas.evaluation.predict import logits
from arnas.evaluation.result import BROKEN, FURTHER, ROBUST, SKIPPED, Combine, robust_images
from arnas.runtime.errors import Preempted, UserError, one_line
from arnas.runtime.progress import Report, silent
from arnas.runtime.resume import NO_CHECKPOINT, Checkpointer, Snapshot
from arnas.runtime.seeds import per_image_normal, per_image_uniform

PerImage = Callable[[Iterable[object], Tensor, Sequence[int]], Tensor]
BATCHES = 4
"""Batches whose images are attacked together: as images leave, the others are regrouped, and only
the last of the batches is not full."""
JUDGING_PASSES = 400
"""Passes over an adversarial example by which a model that draws random numbers is judged. A batch
may share what is drawn, so that its images have the error of a share, 0.025 at most, in common."""
GOLDEN = (5**0.5 - 1) / 2
"""Multiples of it, modulo 1, are spread evenly."""


@dataclass
class SuiteState:
    """How far an evaluation has come: all that a later process needs to resume it."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    """``x_adv``, ``clean`` and each attack's outcomes, see `arnas.evaluation.result.EvalResult`;
    ``share``: float of shape (n,), in which share of passes ``x_adv`` is misclassified, 0 or 1
    unless the model draws random numbers; ``tries``: int64 of shape (n,), those done of the present
    attack; ``curve``, ``curve_delta``."""
    finished: list[str] = field(default_factory=list)
    passes: dict[str, list[int]] = field(default_factory=dict)
    """Attack to the images that went through the model for it, and to its gradients."""
    monitor: EvalMonitor = field(default_factory=EvalMonitor)
    checks: list[dict[str, str]] = field(default_factory=list)
    """The finished checks, `Check._asdict()`."""

    @classmethod
    def load(cls, checkpointer: Checkpointer) -> SuiteState:
        """Return the state of a run that was killed, or an empty one."""
        kept = checkpointer.load()
        if kept is None:
            return cls()
        values = dict(kept.description)
        return cls(dict(kept.tensors), monitor=EvalMonitor(**values.pop("monitor")), **values)

    def snapshot(self) -> Snapshot:
        """Return what is saved."""
        values = {name: value for name, value in vars(self).items() if name != "tensors"}
        return Snapshot(dict(self.tensors), values | {"monitor": vars(self.monitor)})

    def count(self, name: str, live: EvalMonitor) -> None:
        """Add the passes since the last call to those of an attack."""
        forwards, backwards = self.passes.get(name, [0, 0])
        forwards += live.images - self.monitor.images
        backwards += live.gradients - self.monitor.gradients
        self.passes[name] = [forwards, backwards]
        self.monitor = replace(live)

    @property
    def outcomes(self) -> dict[str, Tensor]:
        """Return the outcomes of ``clean`` and of every attack that was begun."""
        return {name: self.tensors[name] for name in self.passes}


@dataclass(frozen=True)
class SuiteRun:
    """A suite that is run on the images of one model."""

    model: nn.Module
    """On its device, in any mode."""
    x: Tensor
    """float of shape (n, C, H, W), on the CPU."""
    y: Tensor
    """int64 of shape (n,), on the CPU."""
    indices: Tensor
    """int64 of shape (n,), on the CPU: what the random numbers of an image depend on."""
    threat: Threat
    suite: Suite
    seed: int
    batch_size: int
    combine: Combine = "union"
    expectation: int = 1
    checkpointer: Checkpointer = NO_CHECKPOINT
    report: Report = silent

    def reproduces(self, state: SuiteState) -> bool:
        """Return whether what an earlier process found holds when it is classified again."""
        if "clean" not in state.finished or self.expectation > 1:
            return True
        tensors = state.tensors
        with frozen_eval(self.model):
            found = [self._misclassified(x, self.y) for x in (tensors["x_adv"], self.x)]
        said = [tensors["share"], (tensors["clean"] == BROKEN).float()]
        # An image more or less may be rounded differently in another batch.
        most = max(1, len(self.y) // 100)
        return all(int((a != b).sum()) <= most for a, b in zip(found, said, strict=True))

    def finish(self, state: SuiteState) -> None:
        """Run what is left of the suite."""
        if {"clean", *self.suite.components} <= {*state.finished}:
            return
        device, _ = home(self.model)
        live = replace(state.monitor)
        with (
            attacked(self.model, self.x[: self.batch_size].to(device)) as copy,
            self._stoppable(state, copy),
            live.watching(self.model, copy),
        ):
            if copy is not self.model:
                self.report(0, 100, "examples are made on a copy with folded normalisations")
            if "clean" not in state.finished:
                share = self._misclassified(self.x, self.y)
                clean = torch.where(self._broken(share), BROKEN, ROBUST).to(torch.uint8)
                state.tensors |= {"x_adv": self.x.clone(), "clean": clean, "share": share}
                state.count("clean", live)
                state.finished.append("clean")
                self._tell(state, "clean")
            for name, component in self.suite.components.items():
                if name not in state.finished:
                    self._run(name, component, state, live, copy)
        state.monitor = live
        self.checkpointer.maybe_save(state.snapshot, now=True)

    def add(self, state: SuiteState, images: Tensor, x_adv: Tensor) -> None:
        """Count what was found besides the suite, by checks or the accuracy curve.

        Parameters
        ----------
        images
            int64 of shape (N,): positions in `x`.
        x_adv
            float of shape (N, C, H, W): examples within the threat.
        """
        images, x_adv = images.cpu(), x_adv.to(self.x)
        left = robust_images(state.outcomes)[images]
        images, x_adv = images[left], x_adv[left]
        if not len(images):
            return
        skipped = torch.full_like(self.y, SKIPPED, dtype=torch.uint8)
        outcome = state.tensors.setdefault(FURTHER, skipped)
        state.passes.setdefault(FURTHER, [0, 0])[0] += len(images)
        with frozen_eval(self.model):
            share = self._misclassified(x_adv, self.y[images])
        broken = self._broken(share, images)
        outcome[images] = torch.where(broken, BROKEN, ROBUST).to(torch.uint8)
        self._keep(state, images, share, x_adv)

    @staticmethod
    def _keep(state: SuiteState, images: Tensor, share: Tensor, x_adv: Tensor) -> None:
        """Keep the examples that are misclassified more often than the present ones."""
        better = share > state.tensors["share"][images]  # of equals the first example is kept
        state.tensors["x_adv"][images[better]] = x_adv[better]
        state.tensors["share"][images[better]] = share[better]

    def _run(
        self, name: str, component: Component, state: SuiteState, live: EvalMonitor, copy: nn.Module
    ) -> None:
        """Run one attack on every image that it has to attack."""
        tensors = state.tensors
        if name not in tensors:
            before = state.outcomes if self.combine == "union" else {"clean": tensors["clean"]}
            tensors[name] = torch.where(robust_images(before), ROBUST, SKIPPED).to(torch.uint8)
            tensors["tries"] = torch.zeros(len(self.y), dtype=torch.int64)
            state.passes[name] = [0, 0]
        outcome, tries = tensors[name], tensors["tries"]
        while bool((open_ := (outcome == ROBUST) & (tries < component.tries)).any()):
            first = int(tries[open_].min())
            images = (open_ & (tries == first)).nonzero().flatten()
            images = images[: BATCHES * self.batch_size]
            together = min(component.tries - first, max(1, self.batch_size // len(images)))
            some = range(first, first + together)
            try:
                share, x_adv = self._try(name, component, images, some, live, copy)
            except (UserError, Preempted, torch.OutOfMemoryError):
                raise
            except Exception as error:
                if not _raised_in_model(error):
                    raise
                self.checkpointer.maybe_save(state.snapshot, now=True)
                places = self.indices[images]
                raise UserError(
                    f"the model raises {type(error).__name__} ({one_line(error, 200)}) under "
                    f"{name}, on {len(places)} images between {int(places.min())} and "
                    f"{int(places.max())}: mend the model, then run the same command again."
                ) from error
            outcome[images[self._broken(share, images)]] = BROKEN
            self._keep(state, images, share, x_adv)
            tries[images] += together
            state.count(name, live)
            self._tell(state, name)
            self.checkpointer.maybe_save(state.snapshot)
        del tensors["tries"]
        state.finished.append(name)
        self.checkpointer.maybe_save(state.snapshot)

    def _try(
        self,
        name: str,
        component: Component,
        images: Tensor,
        tries: range,
        monitor: EvalMonitor,
        copy: nn.Module,
    ) -> tuple[Tensor, Tensor]:
        """Return each image's example that is misclassified most often, and in which share.

        Of equal tries the earliest counts.
        """
        jobs = images.repeat(len(tries))
        device, _ = home(self.model)
        x, y = self.x[jobs].to(device), self.y[jobs].to(device)
        labels = y
        oracle = Oracle(copy, self.batch_size, self.expectation)
        if component.targeted:
            order = targets_of(oracle.logits(x[: len(images)]), y[: len(images)], tries.stop)
            labels = torch.stack([y, order[:, tries.start :].T.flatten()], dim=1)
        output = component.run(oracle, x, labels, self.threat, self._streams(name, images, tries))
        monitor.see(x, output.x_adv, self.threat)
        # Classified again by the model itself, whatever the attack believes.
        judged = output.broken | (self.expectation > 1)
        share = torch.zeros(len(jobs), device=device)
        if bool(judged.any()):
            share[judged] = self._misclassified(output.x_adv[judged], y[judged])
        most, which = share.view(len(tries), -1).max(0)
        examples = output.x_adv.view(len(tries), len(images), *x.shape[1:])
        chosen = examples[which, torch.arange(len(images), device=which.device)]
        return most.cpu(), chosen.cpu()

    def _misclassified(self, x: Tensor, y: Tensor) -> Tensor:
        """Return in which share of fresh passes images are misclassified, float of shape (N,)."""
        passes = 1 if self.expectation == 1 else JUDGING_PASSES
        found = (misclassified(logits(self.model, x, self.batch_size), y) for _ in range(passes))
        return torch.stack([wrong.float() for wrong in found]).mean(0)

    def _broken(self, share: Tensor, images: Tensor | slice = slice(None)) -> Tensor:
        """Return which images count as broken, given in which share of passes they are.

        Each has a threshold of its own. The thresholds of the images are spread evenly over [0, 1)
        and are the same for every attack, so that the count of a random model is the expected
        number of its misclassified images up to rounding.
        """
        thresholds = (self.indices[images].double() + 0.5) * GOLDEN % 1
        return share > 1 - thresholds.to(share)

    def _streams(self, name: str, images: Tensor, tries: range) -> RandomStreams:
        """Return the random numbers of all tries at some images.

        PGD starts at the same point whatever its number of steps, so that more are never weaker.
        """
        name = re.sub(r"^pgd\d+$", "pgd", name)
        purposes = [("attack", self.seed, name, number) for number in tries]
        indices = self.indices[images]

        def numbers(draw: PerImage, shape: tuple[int, ...]) -> Tensor:
            return torch.cat([draw(purpose, indices, shape) for purpose in purposes])

        return RandomStreams(
            partial(numbers, per_image_uniform),
            partial(numbers, per_image_normal),
            per_image_numbers(purposes[0], indices),
        )

    def _tell(self, state: SuiteState, name: str) -> None:
        """Report the accuracy so far and how much of the work is done."""
        parts, robust = self.suite.components, robust_images(state.outcomes)
        costs = {part: one.cost * one.tries for part, one in parts.items()}
        done = sum(costs[part] for part in state.finished if part in parts)
        if "tries" in state.tensors:
            attacked = state.tensors[name] == ROBUST
            share = state.tensors["tries"][attacked].float().mean() / parts[name].tries
            done += round(costs[name] * float(share.nan_to_num(1.0)))
        what = "accuracy" if name == "clean" else "robust so far"
        text = f"{name}: {what} {100 * float(robust.float().mean()):.2f} %"
        self.report(round(100 * done / max(sum(costs.values()), 1)), 100, text)

    @contextmanager
    def _stoppable(self, state: SuiteState, copy: nn.Module) -> Iterator[None]:
        """Save and stop between two passes after a signal."""

        def look(module: nn.Module, inputs: Any) -> None:
            if self.checkpointer.stopping and "clean" in state.finished:
                self.checkpointer.maybe_save(state.snapshot)

        with ExitStack() as hooks:
            for model in {id(model): model for model in (self.model, copy)}.values():
                hooks.enter_context(model.register_forward_pre_hook(look, prepend=True))
            yield


def _raised_in_model(error: Exception) -> bool:
    """Return whether an exception passed through the forward pass of a module."""
    frames = (frame for frame, _ in walk_tb(error.__traceback__))
    return any(isinstance(frame.f_locals.get("self"), nn.Module) for frame in frames)
