"""The small attacks of the checks: against PGD, and against what is known exactly."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from attacked_trials import SMALL_SUITE, attacked_trial
from broken_models import THREAT, images_of, trial_of
from torch import Tensor, nn

from arnas.attacks.objectives import cross_entropy, margin
from arnas.attacks.oracle import misclassified
from arnas.attacks.pgd import pgd
from arnas.attacks.threat import Threat
from arnas.evaluation.checks.context import CheckContext
from arnas.evaluation.checks.linear_control import exact_robustness, nearest_mean
from arnas.evaluation.checks.probes import (
    numeric_ascent,
    perturbation,
    probe_of,
    walk,
)
from arnas.evaluation.checks.strength import STEPS, entropy_walk, margin_walk
from arnas.evaluation.result import ROBUST


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("objective", [cross_entropy, margin])
def test_a_walk_takes_the_steps_of_pgd(norm: str, objective: Any) -> None:
    """In float64 it breaks the same images, and the others end at the same best iterate."""
    trial = trial_of("cnn", count=40, threat=Threat(norm, {"linf": 0.1, "l2": 0.6, "l1": 2}[norm]))
    trial.model, trial.x = trial.model.double(), trial.x.double()
    probe, start = probe_of(trial), perturbation(trial, "start")
    found = walk(trial, probe.x, probe.y, start, objective=objective, steps=7)
    options = {"start": start, "objective": objective, "steps": 7}
    best = pgd(trial.model, probe.x, probe.y, trial.threat, **options)
    last = pgd(trial.model, probe.x, probe.y, trial.threat, keep="last", **options)
    broken = misclassified(trial.logits(best), probe.y)
    assert 0 < broken.sum() < len(broken)
    assert torch.equal(found.broken(), broken)
    torch.testing.assert_close(found.best[~broken], best[~broken], rtol=0, atol=1e-12)
    assert torch.equal(misclassified(trial.logits(found.best), probe.y), broken)
    assert torch.equal(found.wrong[-1], misclassified(trial.logits(last), probe.y))
    torch.testing.assert_close(found.values[-1], objective(trial.logits(last), probe.y))


def test_the_first_steps_of_a_walk_are_a_shorter_walk() -> None:
    trial = trial_of("cnn", count=40)
    probe, start = probe_of(trial), perturbation(trial, "start")
    size = 2.5 * trial.threat.epsilon / STEPS
    short = walk(trial, probe.x, probe.y, start, objective=cross_entropy, size=size)
    assert torch.equal(entropy_walk(trial).wrong[: STEPS + 1], short.wrong)
    assert torch.equal(entropy_walk(trial).broken(STEPS), short.broken())


def test_a_walk_averages_over_random_passes() -> None:
    """Whose mean gradient does not depend on how the images are batched."""
    trial = trial_of("cnn", count=8, expectation=3, batch_size=3)
    seen: list[int] = []
    trial.model.register_forward_hook(lambda model, given, out: seen.append(len(given[0])))
    probe = probe_of(trial)
    seen.clear()
    walk(trial, probe.x, probe.y, torch.zeros_like(probe.x), objective=margin, steps=2)
    assert sum(seen) == 3 * 3 * len(probe.x)
    assert max(seen) == 3


def test_the_probe_is_what_the_model_knows_of_the_first_images() -> None:
    trial = attacked_trial("cnn")
    probe = probe_of(trial)
    known = trial.outcomes["clean"][:64] == ROBUST
    assert torch.equal(probe.x, trial.x[:64][known])
    assert torch.equal(probe.labels, trial.y[:64])
    stood = (trial.outcomes["pgd"] == ROBUST) & (trial.outcomes["pgd_margin"] == ROBUST)
    assert torch.equal(probe.stood, stood[:64][known])
    assert 0 < probe.stood.sum() < len(probe.y) < 64


def test_draws_belong_to_the_image() -> None:
    """The same ones for every model, in whatever order the checks are made."""
    first, second = trial_of("cnn"), trial_of("mlp")
    one, other = (perturbation(trial, "start") for trial in (first, second))
    common = [place for place in probe_of(first).places if place in probe_of(second).places]
    assert len(common) > 50
    for place in common:
        rows = [(probe_of(trial).places == place).nonzero().item() for trial in (first, second)]
        assert torch.equal(one[rows[0]], other[rows[1]])


def test_margin_walks_start_where_the_others_do() -> None:
    trial = trial_of("mlp", count=30)
    assert torch.equal(entropy_walk(trial).wrong[0], margin_walk(trial).wrong[0])
    assert len(entropy_walk(trial).values) == 2 * STEPS + 1


@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 0.12), ("l2", 0.6), ("l1", 2.0)])
def test_numeric_ascent_breaks_what_can_be_broken_without_a_gradient(
    norm: str, epsilon: float
) -> None:
    """On a linear model, of which it is known; and nothing else. Its gradient says nothing."""
    data = trial_of("cnn", threat=Threat(norm, epsilon))
    model, classes = nearest_mean(data.x, data.y)
    label = torch.searchsorted(classes, data.y)
    trial = CheckContext(Hidden(model), data.x.double(), label, data.threat, "by hand", 0, 64)
    probe = probe_of(trial)
    exact = exact_robustness(model, probe.x, probe.y, trial.threat)
    broken = numeric_ascent(trial, probe.x, probe.y)
    start = perturbation(trial, "start")
    trial.model = model
    seen = walk(trial, probe.x, probe.y, start, objective=margin).broken()
    assert not (broken & exact.robust).any()
    assert int(broken.sum()) >= 0.7 * int(seen.sum()) > 5


class Hidden(nn.Module):
    """A model that hides its gradient."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x.detach()) + 0 * x.sum()


def test_the_small_suite_leaves_what_its_attacks_leave() -> None:
    """The helper of these tests is right: flags by hand against two plain attacks."""
    trial = attacked_trial("mlp", count=50)
    x, y = images_of("mlp", 50)
    stood = ~misclassified(trial.logits(x), y)
    for options in ({}, {"objective": margin}):
        left = stood.nonzero().flatten()
        x_adv = pgd(trial.model, x[left], y[left], THREAT, **options)
        stood[left] = ~misclassified(trial.logits(x_adv), y[left])
    found = torch.stack([value == ROBUST for value in trial.outcomes.values()]).all(0)
    assert torch.equal(found, stood)
    assert list(trial.attacks) == list(SMALL_SUITE)
