"""Checks after the attacks leave everything alone, repeat themselves and never raise."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from attacked_trials import STRENGTH, attacked_trial, finish, verdict
from broken_models import BROKEN
from torch import Tensor, nn

from arnas.attacks.threat import Threat
from arnas.evaluation.checks.context import CheckContext
from arnas.evaluation.checks.examples import ATTACK_CHECKS
from arnas.evaluation.result import ROBUST


def state(trial: CheckContext) -> str:
    """Return a digest of everything that a check must leave alone."""
    digest = hashlib.sha256()
    values = [*trial.model.state_dict().values(), trial.x, trial.y, torch.get_rng_state()]
    values += [*trial.outcomes.values()] + ([] if trial.x_adv is None else [trial.x_adv])
    for value in values:
        digest.update(value.numpy().tobytes())
    parameters = [(p.requires_grad, p.grad is None) for p in trial.model.parameters()]
    modes = [module.training for module in trial.model.modules()]
    digest.update(repr((parameters, modes)).encode())
    return digest.hexdigest()


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("name", ["cnn_bn", "dropout"])
def test_model_images_and_random_numbers_are_left_alone(name: str) -> None:
    trial = attacked_trial(name, count=12)
    trial.model.train()
    if name == "cnn_bn":
        next(trial.model.parameters()).requires_grad_(False)
    before = state(trial)
    for check in ATTACK_CHECKS:
        verdict(check, trial)
        assert state(trial) == before, check


@pytest.mark.usefixtures("quick")
def test_a_check_says_the_same_alone_and_after_the_others() -> None:
    together, again = (attacked_trial("cnn", count=12) for _ in range(2))
    forward = {name: verdict(name, together) for name in STRENGTH}
    backward = {name: verdict(name, again) for name in reversed(STRENGTH)}
    assert forward == backward
    for name in ("blackbox", "unbounded_attack"):
        assert verdict(name, attacked_trial("cnn", count=12)) == forward[name]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("batch_size", [1, 7])
def test_the_batch_size_does_not_matter(batch_size: int) -> None:
    usual = attacked_trial("mlp", count=10)
    other = attacked_trial("mlp", count=10, batch_size=batch_size)
    for trial in (usual, other):
        trial.model, trial.x = trial.model.double(), trial.x.double()
    for name in STRENGTH:
        assert verdict(name, usual) == verdict(name, other)


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
    trial = CheckContext(make(), x, y, Threat("linf", 0.1), "by hand", 0, 4)
    trial.outcomes = {
        "clean": torch.full((n,), ROBUST, dtype=torch.uint8),
        "pgd": torch.full((n,), ROBUST, dtype=torch.uint8),
    }
    trial.x_adv = x.clone()
    before = (x.clone(), [buffer.clone() for buffer in trial.model.buffers()])
    for name in ATTACK_CHECKS:
        check = verdict(name, trial)
        assert check.status in ("PASS", "WARN", "FAIL", "SKIP")
        assert check.figure
        assert "\n" not in check.figure
    assert torch.equal(trial.x, before[0])
    for buffer, old in zip(trial.model.buffers(), before[1], strict=True):
        assert torch.equal(buffer, old)
    if make is Raises and n:
        check = verdict("attack_converged", trial)
        assert check.status == "FAIL"
        assert check.figure == "the check ended in RuntimeError: no such kernel"


def test_a_model_that_knows_nothing_is_skipped() -> None:
    trial = attacked_trial("cnn", count=20)
    trial.y = (trial.y + 1) % 10
    for name in STRENGTH:
        assert verdict(name, finish(trial)).status in ("SKIP",)


@pytest.mark.usefixtures("quick")
@pytest.mark.long
def test_the_broken_models_of_the_house_raise_no_exception() -> None:
    """Whatever their verdicts, which other tests look at."""
    for name in BROKEN:
        trial = attacked_trial(name, count=12)
        for check in STRENGTH:
            assert "the check ended in" not in verdict(check, trial).figure, (name, check)
