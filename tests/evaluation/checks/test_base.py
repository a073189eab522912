"""Checks after the attacks leave everything alone, repeat themselves and never raise."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from broken_models import BROKEN
from check_cases import ATTACK_CHECKS, STRENGTH, attacked_context, finish
from torch import Tensor, nn

from arnas.attacks.threat import Threat
from arnas.evaluation.checks import run_check
from arnas.evaluation.checks.base import NEEDED, CheckContext
from arnas.evaluation.result import ROBUST


def state(context: CheckContext) -> str:
    """Return a digest of everything that a check must leave alone."""
    digest = hashlib.sha256()
    values = [*context.model.state_dict().values(), context.x, context.y, torch.get_rng_state()]
    values += [*context.outcomes.values()] + ([] if context.x_adv is None else [context.x_adv])
    for value in values:
        digest.update(value.numpy().tobytes())
    parameters = [(p.requires_grad, p.grad is None) for p in context.model.parameters()]
    modes = [module.training for module in context.model.modules()]
    digest.update(repr((parameters, modes)).encode())
    return digest.hexdigest()


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("name", ["cnn_bn", "dropout"])
def test_model_images_and_random_numbers_are_left_alone(name: str) -> None:
    context = attacked_context(name, count=12)
    context.model.train()
    if name == "cnn_bn":
        next(context.model.parameters()).requires_grad_(False)
    before = state(context)
    for check in ATTACK_CHECKS:
        run_check(check, context)
        assert state(context) == before, check


@pytest.mark.usefixtures("quick")
def test_a_check_says_the_same_alone_and_after_the_others() -> None:
    together, again = (attacked_context("cnn", count=12) for _ in range(2))
    forward = {name: run_check(name, together) for name in STRENGTH}
    backward = {name: run_check(name, again) for name in reversed(STRENGTH)}
    assert forward == backward
    for name in ("blackbox", "unbounded_attack"):
        assert run_check(name, attacked_context("cnn", count=12)) == forward[name]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("batch_size", [1, 7])
def test_the_batch_size_does_not_matter(batch_size: int) -> None:
    usual = attacked_context("mlp", count=10)
    other = attacked_context("mlp", count=10, batch_size=batch_size)
    for context in (usual, other):
        context.model, context.x = context.model.double(), context.x.double()
    for name in STRENGTH:
        assert run_check(name, usual) == run_check(name, other)


class Raises(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError("no such kernel\nsecond line")


class Flat(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten()


class Pair(nn.Module):
    def forward(self, x: Tensor) -> Any:
        return x.flatten(1), x


class Greedy(nn.Module):
    """Writes into its input."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mul_(0.5).flatten(1)


class OneClass(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1).sum(1, keepdim=True)


class Nan(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) * torch.nan


class Infinite(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([1 / (x.flatten(1).sum(1) * 0), x.flatten(1).sum(1)], 1)


class NoGraph(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.detach().flatten(1)


class Counter(nn.Module):
    """Counts its passes in a buffer, asleep or not."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("passes", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        return x.flatten(1)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    "make", [Raises, Flat, Pair, Greedy, OneClass, Nan, Infinite, NoGraph, Counter]
)
@pytest.mark.parametrize("n", [0, 1, 5])
def test_hostile_models_end_in_a_verdict(make: Callable[[], nn.Module], n: int) -> None:
    x = torch.rand(n, 1, 2, 2, generator=torch.Generator().manual_seed(1))
    y = torch.zeros(n, dtype=torch.int64)
    context = CheckContext(make(), x, y, Threat("linf", 0.1), "by hand", 0, 4)
    context.outcomes = {
        "clean": torch.full((n,), ROBUST, dtype=torch.uint8),
        "pgd": torch.full((n,), ROBUST, dtype=torch.uint8),
    }
    context.x_adv = x.clone()
    before = (x.clone(), [buffer.clone() for buffer in context.model.buffers()])
    for name in ATTACK_CHECKS:
        check = run_check(name, context)
        assert check.status in ("PASS", "WARN", "FAIL", "SKIP")
        assert check.evidence
        assert "\n" not in check.evidence
    assert torch.equal(context.x, before[0])
    for buffer, old in zip(context.model.buffers(), before[1], strict=True):
        assert torch.equal(buffer, old)
    if make is Raises and n:
        check = run_check("attack_converged", context)
        assert check.status == "FAIL"
        assert check.evidence == "RuntimeError: no such kernel"


def test_a_model_that_knows_nothing_is_skipped() -> None:
    context = attacked_context("cnn", count=20)
    context.y = (context.y + 1) % 10
    for name in STRENGTH:
        assert run_check(name, finish(context)).status in ("SKIP",)


@pytest.mark.usefixtures("quick")
@pytest.mark.long
def test_the_broken_models_of_the_house_raise_no_exception() -> None:
    """Whatever their verdicts, which other tests look at."""
    for name in BROKEN:
        context = attacked_context(name, count=12)
        for check in STRENGTH:
            assert run_check(check, context).advice != NEEDED, (name, check)
