"""A suite's run: who is attacked by what, what it costs, and that a kill changes nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import arnas
from arnas.attacks.oracle import AttackOutput, Oracle, RandomStreams
from arnas.attacks.suites import Component, Suite, build_suite, targets_of
from arnas.attacks.threat import Threat
from arnas.evaluation.result import BROKEN, ROBUST, SKIPPED, robust_images
from arnas.evaluation.runner import SuiteRun, SuiteState
from arnas.runtime.errors import UserError
from arnas.runtime.files import TensorFile
from arnas.runtime.resume import FolderCheckpointer, Snapshot

THREAT = Threat("linf", 0.1)


def network() -> nn.Sequential:
    """Return a fixed non-linear network in float64, its classes spread over the images below."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return nn.Sequential(
            nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(216, 5)
        ).double()


def images(count: int = 24) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    x = torch.rand(count, 1, 6, 6, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        y = network()(x).argmax(1)
    y[::6] = (y[::6] + 1) % 5  # some are wrong from the start
    return x, y


def run_of(suite: Suite, **changed: Any) -> SuiteRun:
    x, y = images()
    run = SuiteRun(network(), x, y, torch.arange(len(y)), THREAT, suite, seed=0, batch_size=8)
    return replace(run, **changed)


def finish(run: SuiteRun) -> SuiteState:
    state = SuiteState.load(run.checkpointer)
    run.finish(state)
    return state


def outcomes(state: SuiteState) -> dict[str, list[int]]:
    return {k: v.tolist() for k, v in state.outcomes.items()}


class Recorder:
    """A component that breaks what it is told to, and remembers whom it was tried at."""

    def __init__(self, breaks: Callable[[int, int], bool] = lambda image, label: False) -> None:
        self.breaks = breaks
        self.tried: list[tuple[int, int]] = []
        x, _ = images()
        self.known = x

    def __call__(
        self, oracle: Oracle, x: Tensor, labels: Tensor, threat: Threat, draws: RandomStreams
    ) -> AttackOutput:
        who = [int((self.known == one).flatten(1).all(1).nonzero()) for one in x]
        aims = labels[:, 1].tolist() if labels.ndim == 2 else [-1] * len(x)
        self.tried += list(zip(who, aims, strict=True))
        broken = torch.tensor([self.breaks(*pair) for pair in zip(who, aims, strict=True)])
        x_adv = x.clone()
        # An example that the network misclassifies: an image of another class.
        with torch.no_grad():
            said = oracle.model(self.known).argmax(1)
        truth = labels[:, 0] if labels.ndim == 2 else labels
        for row in broken.nonzero().flatten().tolist():
            x_adv[row] = self.known[(said != truth[row]).nonzero()[0]]
        return AttackOutput(broken, x_adv)


def component(run: Recorder, tries: int = 1, targeted: bool = False) -> Component:
    return Component(run, "fixed", "none", tries, targeted)


def test_an_image_that_was_broken_is_skipped_by_the_rest() -> None:
    first, second = Recorder(lambda image, _: image in {1, 2}), Recorder()
    suite = Suite({"first": component(first), "second": component(second)})
    state = finish(run_of(suite))
    wrong = {0, 6, 12, 18}
    assert {image for image, _ in first.tried} == set(range(24)) - wrong
    assert {image for image, _ in second.tried} == set(range(24)) - wrong - {1, 2}
    assert [state.tensors["first"][i].item() for i in (0, 1, 3)] == [SKIPPED, BROKEN, ROBUST]
    assert state.tensors["second"][1] == SKIPPED


def test_each_attack_may_attack_every_image() -> None:
    """The first example that broke an image is kept, and the union is the same."""
    first, second = Recorder(lambda image, _: image in {1, 2}), Recorder(lambda image, _: image < 4)
    suite = Suite({"first": component(first), "second": component(second)})
    each, union = (finish(run_of(suite, combine=combine)) for combine in ("each", "union"))
    assert {image for image, _ in second.tried} == set(range(24)) - {0, 6, 12, 18}
    assert each.tensors["second"].tolist()[:5] == [SKIPPED, BROKEN, BROKEN, BROKEN, ROBUST]
    assert torch.equal(robust_images(each.outcomes), robust_images(union.outcomes))
    assert torch.equal(each.tensors["x_adv"], union.tensors["x_adv"])


def test_pgd_starts_at_the_same_point_whatever_its_steps() -> None:
    """So more steps are never weaker, image by image."""
    suite = build_suite("pgd3,pgd9", "linf", 5)
    state = finish(run_of(suite, combine="each", threat=Threat("linf", 0.06)))
    three, nine = (state.tensors[name] == BROKEN for name in ("pgd3", "pgd9"))
    assert bool((nine >= three).all())
    assert int(nine.sum()) > int(three.sum())


def test_targets_are_tried_until_one_breaks_and_each_once() -> None:
    recorder = Recorder()
    finish(run_of(Suite({"t": component(recorder, 4, targeted=True)})))
    x, y = images()
    with torch.no_grad():
        order = network()(x).argsort(1, descending=True)
    for image in (1, 5, 23):
        aims = [aim for who, aim in recorder.tried if who == image]
        assert aims == [c for c in order[image].tolist() if c != y[image]]
    assert len(recorder.tried) == 20 * 4


def test_several_targets_share_a_batch_when_few_images_stand() -> None:
    """Three images and four targets fill a batch of eight with two targets each at once."""
    recorder = Recorder(lambda image, aim: False)
    x, y = images()
    calls: list[int] = []

    def counted(*arguments: Any) -> AttackOutput:
        calls.append(len(arguments[1]))
        return recorder(*arguments)

    suite = Suite({"t": Component(counted, "fixed", "none", 4, targeted=True)})
    finish(run_of(suite, x=x[1:4], y=y[1:4], indices=torch.arange(1, 4)))
    assert calls == [6, 6]


def test_what_an_attack_only_believes_does_not_count() -> None:
    def liar(
        oracle: Oracle, x: Tensor, y: Tensor, threat: Threat, draws: RandomStreams
    ) -> AttackOutput:
        return AttackOutput(torch.ones(len(x), dtype=torch.bool), x)

    state = finish(run_of(Suite({"liar": Component(liar, "fixed", "none")})))
    assert BROKEN not in state.tensors["liar"].tolist()


@pytest.mark.parametrize("batch_size", [1, 64])
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_neither_batches_nor_order_change_an_outcome(norm: str, batch_size: int) -> None:
    """With budgets at which some images fall to each attack and some stand."""
    threat = Threat(norm, {"linf": 0.06, "l2": 0.25, "l1": 1.0}[norm])
    suite = build_suite("pgd20,apgd_ce,fab_t", norm, 5)
    x, y = (values[:9] for values in images())
    indices = torch.arange(len(y))
    plain = finish(run_of(suite, threat=threat, x=x, y=y, indices=indices))
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(1))
    shuffled = finish(
        run_of(suite, threat=threat, x=x[order], y=y[order], indices=order, batch_size=batch_size)
    )
    back = order.argsort()
    fallen = 0
    for name in ("clean", *suite.components):
        assert torch.equal(shuffled.tensors[name][back], plain.tensors[name])
        fallen += int((plain.tensors[name] == BROKEN).sum())
    assert 2 < fallen < len(y)


class Dying:
    """A checkpointer that keeps everything it is offered, and dies at one offer."""

    stopping = False

    def __init__(self, dies_at: int) -> None:
        self.left = dies_at
        self.kept: Snapshot | None = None

    def load(self) -> TensorFile | None:
        if self.kept is None:
            return None
        tensors = {name: value.clone() for name, value in self.kept.tensors.items()}
        return TensorFile(tensors, dict(self.kept.values))

    def maybe_save(self, snapshot: Callable[[], Snapshot], now: bool = False) -> None:
        tensors, values = snapshot()
        copies = {name: value.clone() for name, value in tensors.items()}
        self.kept = Snapshot(copies, json.loads(json.dumps(values)))
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize("dies_at", range(1, 8))
def test_a_run_that_dies_goes_on_to_the_same_end(dies_at: int) -> None:
    """Outcomes, examples and even the counted passes are those of an undisturbed run."""
    suite = build_suite("apgd_ce,apgd_t,fab_t", "linf", 5)
    whole = finish(run_of(suite))
    checkpointer = Dying(dies_at)
    with pytest.raises(KeyboardInterrupt):
        finish(run_of(suite, checkpointer=checkpointer))
    state = finish(run_of(suite, checkpointer=checkpointer))
    assert outcomes(state) == outcomes(whole)
    assert torch.equal(state.tensors["x_adv"], whole.tensors["x_adv"])
    assert state.passes == whole.passes
    assert state.monitor == whole.monitor


def test_a_signal_stops_between_two_passes() -> None:
    """And what is kept then is the end of the last batches, so nothing is counted twice."""
    suite = build_suite("pgd20,apgd_ce", "linf", 5)
    whole = finish(run_of(suite))
    checkpointer = Dying(-1)
    passes = 0

    class Asked(Dying):
        @property
        def stopping(self) -> bool:  # type: ignore[override]
            nonlocal passes
            passes += 1
            return passes == 60

    checkpointer = Asked(-1)
    model = network()

    def maybe_save(snapshot: Callable[[], Snapshot], now: bool = False) -> None:
        Dying.maybe_save(checkpointer, snapshot, now)
        if passes == 60:
            raise KeyboardInterrupt

    checkpointer.maybe_save = maybe_save  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        finish(run_of(suite, model=model, checkpointer=checkpointer))
    passes = 1000
    state = finish(run_of(suite, checkpointer=checkpointer))
    assert outcomes(state) == outcomes(whole)
    assert state.passes == whole.passes


def test_passes_are_those_of_the_model() -> None:
    seen = [0, 0]

    def count(module: nn.Module, inputs: tuple[Tensor]) -> None:
        seen[0] += len(inputs[0])
        seen[1] += len(inputs[0]) * inputs[0].requires_grad

    model = network()
    model.register_forward_pre_hook(count)
    state = finish(run_of(build_suite("apgd_ce,square", "linf", 5), model=model))
    assert [sum(values) for values in zip(*state.passes.values(), strict=True)] == seen
    assert state.passes["square"][1] == 0


def test_the_most_likely_other_classes_come_first() -> None:
    logits = torch.tensor([[3.0, 1.0, 2.0, 0.0], [0.0, 0.0, 5.0, 1.0]])
    found = targets_of(logits, torch.tensor([0, 2]), 3)
    assert found[0].tolist() == [2, 1, 3]
    assert found[1, 0] == 3
    assert sorted(found[1].tolist()) == [0, 1, 3]
    # Also where the true class is not the largest.
    assert targets_of(logits, torch.tensor([1, 0]), 1).tolist() == [[0], [2]]


# Models that draw random numbers


class Pick(nn.Module):
    """One of several networks, drawn for each batch."""

    def __init__(self, *nets: nn.Module) -> None:
        super().__init__()
        self.nets = nn.ModuleList(nets)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.nets[int(torch.randint(len(self.nets), (1,)))](x)
        return found


@pytest.mark.parametrize("seed", range(3))
def test_a_random_model_is_judged_by_its_expected_accuracy(seed: int) -> None:
    """A robust network or one without a robust image, drawn with equal chances."""
    count, threat = 60, Threat("linf", 0.1)
    generator = torch.Generator().manual_seed(0)
    x = 0.3 + 0.4 * torch.rand(count, 1, 4, 4, generator=generator)
    y = torch.arange(count) % 2
    x[y == 1, :, 0, 0], x[y == 0, :, 0, 0] = 0.9, 0.1  # 0.4 away from the boundary
    x[:, :, 0, 1] = 0.5 + 0.02 * (2 * y - 1)[:, None]  # 0.02 away from it

    class Pixel(nn.Module):
        def __init__(self, place: int) -> None:
            super().__init__()
            self.place = place

        def forward(self, x: Tensor) -> Tensor:
            z = 20 * (x[:, 0, 0, self.place] - 0.5)
            return torch.stack([-z, z], 1)

    model = Pick(Pixel(0), Pixel(1)).eval()
    found = arnas.evaluate(model, x, y, threat, "rand", checks="cheap", seed=seed)
    assert found.clean_accuracy.correct == count
    assert abs(found.robust_accuracy.correct - count / 2) <= 4
    statuses = {check.id: check.status for check in found.checks}
    assert (statuses["determinism"], statuses["examples_reproduce"]) == ("WARN", "PASS")


def test_what_was_found_of_another_model_is_not_gone_on_from() -> None:
    run = run_of(build_suite("fgsm", "linf", 5))
    state = finish(run)
    assert run.reproduces(state)
    other = network()
    with torch.no_grad():
        other[3].bias.copy_(torch.linspace(-1, 1, 5))
    assert not replace(run, model=other).reproduces(state)
    assert run.reproduces(SuiteState())


class Fails(nn.Module):
    """Raises in one pass, as a model does whose memory or file is gone for a moment."""

    def __init__(self, model: nn.Module, at: int) -> None:
        super().__init__()
        self.model, self.left = model, at

    def forward(self, x: Tensor) -> Any:
        self.left -= 1
        if not self.left:
            raise ValueError("the file\nis gone")
        return self.model(x)


def test_a_model_that_raises_is_named_and_what_was_done_is_kept(tmp_path: Path) -> None:
    checkpointer = FolderCheckpointer(tmp_path, interval=1e9)
    run = run_of(build_suite("fgsm,pgd20", "linf", 5))
    whole = finish(run).tensors
    broken = replace(run, model=Fails(run.model, at=20), checkpointer=checkpointer)
    match = r"the model raises ValueError \(the file is gone\) under pgd20, on \d+ images between"
    with pytest.raises(UserError, match=match):
        finish(broken)
    state = SuiteState.load(checkpointer)
    assert "fgsm" in state.finished
    run.finish(state)
    assert all(torch.equal(state.tensors[name], value) for name, value in whole.items())
