"""Running a suite: tries are put together into full batches, and what is found is kept.

An image leaves when it has fallen. Its tries, restarts or targets, come one after the other, and
several at once where too few images stand to fill a batch. Each try's random numbers depend on the
seed, the attack, the image's index and the try only, so neither the batch size nor the order of
images, nor a kill between, changes what becomes of an image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from arnas.attacks.eval_mode import frozen_eval
from arnas.attacks.oracle import Oracle, misclassified
from arnas.attacks.square import per_image_numbers
from arnas.attacks.suites import Component, RandomStreams, Suite, targets_of
from arnas.attacks.threat import Threat
from arnas.evaluation.result import BROKEN, ROBUST, SKIPPED, withstood
from arnas.runtime.progress import Report
from arnas.runtime.resume import Checkpointer, Snapshot
from arnas.runtime.seeds import per_image_normal, per_image_uniform

PerImage = Callable[[Iterable[object], Tensor, Sequence[int]], Tensor]
BATCHES = 4
"""Batches whose images are attacked in step: as images leave, those that stand are put together
again, and only the last of the batches is not full."""


@dataclass
class SuiteState:
    """How far a suite has come; all that a later process needs to go on."""

    tensors: dict[str, Tensor]
    """``x_adv``: as `arnas.evaluation.result.EvalResult`; ``clean`` and each attack's name:
    the outcomes so far; ``tries``: int64 of shape (n,), those done of the present attack."""
    finished: list[str] = field(default_factory=list)
    passes: dict[str, list[int]] = field(default_factory=dict)
    """Attack to the images that went through the model for it, and to its gradients."""

    def standing(self, *present: str) -> Tensor:
        """Return which images withstood the finished attacks, and those at work that are named."""
        names = dict.fromkeys(["clean", *self.finished, *present])
        return withstood({name: self.tensors[name] for name in names})

    def snapshot(self) -> Snapshot:
        """Return what is kept."""
        values = {"finished": self.finished, "passes": self.passes}
        return Snapshot(dict(self.tensors), values)


@dataclass
class _Tally:
    """Images that went through a model, and to gradients, since the last look."""

    forwards: int = 0
    backwards: int = 0

    def take(self) -> tuple[int, int]:
        """Return both and begin anew."""
        seen = self.forwards, self.backwards
        self.forwards = self.backwards = 0
        return seen


@dataclass(frozen=True)
class SuiteRun:
    """A suite on its way over the images of one model."""

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
    expectation: int
    device: torch.device
    checkpointer: Checkpointer
    report: Report
    tally: _Tally = field(default_factory=_Tally)

    def finish(self) -> SuiteState:
        """Run what is left of the suite and return what became of the images."""
        kept = self.checkpointer.load()
        course = (
            SuiteState({}) if kept is None else SuiteState(dict(kept.tensors), **kept.description)
        )
        with frozen_eval(self.model), self._watched(course):
            if "clean" not in course.tensors:
                course.tensors = {"x_adv": self.x.clone(), "clean": self._clean()}
                course.passes["clean"] = [*self.tally.take()]
                self._tell(course, "clean")
            for name, component in self.suite.components.items():
                if name not in course.finished:
                    self._run(name, component, course)
        return course

    def _clean(self) -> Tensor:
        """Return the outcomes before any attack."""
        oracle = Oracle(self.model, self.batch_size)
        wrong = [
            oracle.is_wrong(x.to(self.device), y.to(self.device)).cpu()
            for x, y in zip(
                torch.split(self.x, self.batch_size),
                torch.split(self.y, self.batch_size),
                strict=True,
            )
        ]
        return torch.where(torch.cat(wrong), BROKEN, ROBUST).to(torch.uint8)

    def _run(self, name: str, component: Component, course: SuiteState) -> None:
        """Try one attack at every image that stands, as often as it says."""
        tensors = course.tensors
        if name not in tensors:
            standing = course.standing()
            tensors[name] = torch.where(standing, ROBUST, SKIPPED).to(torch.uint8)
            tensors["tries"] = torch.zeros(len(self.y), dtype=torch.int64)
            course.passes[name] = [0, 0]
        outcome, tries = tensors[name], tensors["tries"]
        while bool((open_ := (outcome == ROBUST) & (tries < component.tries)).any()):
            first = int(tries[open_].min())
            images = (open_ & (tries == first)).nonzero().flatten()
            images = images[: BATCHES * self.batch_size]
            together = min(component.tries - first, max(1, self.batch_size // len(images)))
            broken, x_adv = self._try(name, component, images, range(first, first + together))
            outcome[images[broken]] = BROKEN
            tensors["x_adv"][images[broken]] = x_adv[broken]
            tries[images] += together
            for place, seen in enumerate(self.tally.take()):
                course.passes[name][place] += seen
            self._tell(course, name)
            self.checkpointer.maybe_save(course.snapshot)
        del tensors["tries"]
        course.finished.append(name)
        self.checkpointer.maybe_save(course.snapshot)

    def _try(
        self, name: str, component: Component, images: Tensor, tries: range
    ) -> tuple[Tensor, Tensor]:
        """Return which of the images fall to any of these tries, and to which example.

        Of several the earliest try's is taken.
        """
        jobs = images.repeat(len(tries))
        x, y = self.x[jobs].to(self.device), self.y[jobs].to(self.device)
        labels = y
        oracle = Oracle(self.model, self.batch_size, self.expectation)
        if component.targeted:
            order = targets_of(oracle.logits(x[: len(images)]), y[: len(images)], tries.stop)
            labels = torch.stack([y, order[:, tries.start :].T.flatten()], dim=1)
        found = component.run(oracle, x, labels, self.threat, self._draws(name, images, tries))
        broken = found.broken.clone()
        # Judged anew on the example itself, whatever the attack believes.
        if bool(broken.any()):
            broken[found.broken] = misclassified(
                oracle.logits(found.x_adv[found.broken]), y[found.broken]
            )
        by_try = broken.view(len(tries), -1)
        which = by_try.int().argmax(0)
        examples = found.x_adv.view(len(tries), len(images), *x.shape[1:])
        chosen = examples[which, torch.arange(len(images), device=which.device)]
        return by_try.any(0).cpu(), chosen.cpu()

    def _draws(self, name: str, images: Tensor, tries: range) -> RandomStreams:
        """Return the random numbers of all tries at some images."""
        purposes = [("attack", self.seed, name, number) for number in tries]
        indices = self.indices[images]

        def numbers(draw: PerImage, shape: tuple[int, ...]) -> Tensor:
            return torch.cat([draw(purpose, indices, shape) for purpose in purposes])

        return RandomStreams(
            partial(numbers, per_image_uniform),
            partial(numbers, per_image_normal),
            per_image_numbers(purposes[0], indices),
        )

    def _tell(self, course: SuiteState, name: str) -> None:
        """Report the robust accuracy so far and how much of the work is done."""
        standing = course.standing(name)
        share = 100 * float(standing.float().mean())
        ahead = sum(part.cost * part.tries for part in self.suite.components.values())
        done = 0.0
        if name in self.suite.components:
            place = list(self.suite.components).index(name)
            before = list(self.suite.components.values())[:place]
            now = self.suite.components[name]
            tries = float(course.tensors["tries"][standing].float().mean()) if share else 1.0
            done = sum(part.cost * part.tries for part in before) + now.cost * tries
        what = "accuracy" if name == "clean" else "robust so far"
        text = f"{name}: {what} {share:.2f} %"
        self.report(round(100 * done / max(ahead, 1)), 100, text)

    @contextmanager
    def _watched(self, course: SuiteState) -> Iterator[None]:
        """Count what goes through the model, and stop between two passes when a signal asks to."""

        def look(module: nn.Module, inputs: Any) -> None:
            self.tally.forwards += len(inputs[0])
            self.tally.backwards += len(inputs[0]) * bool(inputs[0].requires_grad)
            if self.checkpointer.stopping and course.tensors:
                self.checkpointer.maybe_save(course.snapshot)

        # Before the hook by which ranks share a batch: all of them count the same.
        handle = self.model.register_forward_pre_hook(look, prepend=True)
        try:
            yield
        finally:
            handle.remove()
