"""The small attacks of the checks: against PGD, and against what is known exactly."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from broken_models import context_of
from check_cases import attacked_context
from torch import Tensor, nn

from arnas.attacks.objectives import cross_entropy, margin
from arnas.attacks.oracle import misclassified
from arnas.attacks.pgd import pgd
from arnas.attacks.threat import Threat
from arnas.evaluation.checks.base import CheckContext
from arnas.evaluation.checks.linear_control import exact_robustness, nearest_mean
from arnas.evaluation.checks.probes import (
    OFTEN,
    margin_of_known,
    numeric_ascent,
    perturbation,
    pgd_trace,
    probe_of,
    suite_robust,
)
from arnas.evaluation.checks.strength import STEPS, pgd_entropy
from arnas.evaluation.result import ROBUST


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("objective", [cross_entropy, margin])
def test_a_walk_takes_the_steps_of_pgd(norm: str, objective: Any) -> None:
    """In float64 it breaks the same images, and the others end at the same best iterate."""
    context = context_of(
        "cnn", count=40, threat=Threat(norm, {"linf": 0.1, "l2": 0.6, "l1": 2}[norm])
    )
    context.model, context.x = context.model.double(), context.x.double()
    probe, start = probe_of(context), perturbation(context, "start")
    options = {"start": start, "objective": objective, "steps": 7}
    found = pgd_trace(context, probe.images, full_steps=7, **options)
    best = pgd(context.model, probe.x, probe.y, context.threat, **options)
    last = pgd(context.model, probe.x, probe.y, context.threat, keep="last", **options)
    broken = misclassified(context.logits(best), probe.y)
    assert 0 < broken.sum() < len(broken)
    assert torch.equal(found.broken(), broken)
    torch.testing.assert_close(found.best[~broken], best[~broken], rtol=0, atol=1e-12)
    assert torch.equal(misclassified(context.logits(found.best), probe.y), broken)
    assert torch.equal(found.wrong[-1], misclassified(context.logits(last), probe.y))
    torch.testing.assert_close(found.values[-1], objective(context.logits(last), probe.y))


def test_the_first_steps_of_a_walk_are_a_shorter_walk() -> None:
    context = context_of("cnn", count=40)
    probe, start = probe_of(context), perturbation(context, "start")
    size = 2.5 * context.threat.epsilon / STEPS
    options = {"objective": cross_entropy, "size": size}
    short = pgd_trace(context, probe.images, start, full_steps=STEPS, **options)
    assert torch.equal(pgd_entropy(context).wrong[: STEPS + 1], short.wrong)
    assert torch.equal(pgd_trace(context, probe.images, start, **options).broken(), short.broken())


def test_a_walk_averages_over_random_passes() -> None:
    """Whose mean gradient does not depend on how the images are batched."""
    context = context_of("cnn", count=8, expectation=3, batch_size=3)
    seen: list[int] = []
    context.model.register_forward_hook(lambda model, given, out: seen.append(len(given[0])))
    probe = probe_of(context)
    seen.clear()
    start = torch.zeros_like(probe.x)
    pgd_trace(context, probe.images, start, objective=margin, steps=2, full_steps=2)
    assert sum(seen) == 3 * 3 * len(probe.x)
    assert max(seen) == 3


def test_half_of_the_probe_is_robust_if_there_are_so_many() -> None:
    context = attacked_context("cnn", epsilon=0.12)
    known, stood = context.outcomes["clean"] == ROBUST, suite_robust(context)
    for robust, size in ((stood, 32), (stood & (stood.cumsum(0) <= 5), 5), (known, 64)):
        context.notes.clear()
        context.outcomes = {"clean": known.to(torch.uint8), "pgd": robust.to(torch.uint8)}
        probe = probe_of(context)
        assert len(probe.y) == 64
        assert int(probe.robust.sum()) == size
        assert bool(known[probe.images].all())
        assert torch.equal(robust[probe.images], probe.robust)
        assert torch.equal(context.x[probe.images], probe.x)
        assert int(probe.images[-1]) > 300, "spread over all images"


def test_outputs_that_never_win_do_not_hide_the_rivals() -> None:
    context = context_of("cnn", count=40)
    logits = context.all_logits()
    decoys = logits.max(1, keepdim=True).values.expand(-1, 20) - 0.01
    context.notes["answers"] = torch.cat([logits, decoys], 1)
    found = margin_of_known(context)(context.notes["answers"], context.y)
    torch.testing.assert_close(found, margin(logits, context.y))


def test_draws_belong_to_the_image() -> None:
    """The same ones for every model, in whatever order the checks are made."""
    first, second = context_of("cnn", count=60), context_of("mlp", count=60)
    one, other = (perturbation(context, "start") for context in (first, second))
    common = [place for place in probe_of(first).images if place in probe_of(second).images]
    assert len(common) > 50
    for place in common:
        rows = [(probe_of(context).images == place).nonzero().item() for context in (first, second)]
        assert torch.equal(one[rows[0]], other[rows[1]])


@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 0.12), ("l2", 0.6), ("l1", 2.0)])
def test_numeric_ascent_breaks_what_can_be_broken_without_a_gradient(
    norm: str, epsilon: float
) -> None:
    """On a linear model, of which it is known; and nothing else. Its gradient says nothing."""
    data = context_of("cnn", threat=Threat(norm, epsilon))
    model, classes = nearest_mean(data.x, data.y)
    label = torch.searchsorted(classes, data.y)
    context = CheckContext(Hidden(model), data.x.double(), label, data.threat, "by hand", 0, 64)
    probe = probe_of(context)
    exact = exact_robustness(model, probe.x, probe.y, context.threat)
    broken = numeric_ascent(context, probe.images)
    start = perturbation(context, "start")
    context.model = model
    seen = pgd_trace(context, probe.images, start, objective=margin).broken()
    assert not (broken & exact.robust).any()
    assert int(broken.sum()) >= 0.7 * int(seen.sum()) > 5


def test_images_with_honest_gradients_are_left_alone() -> None:
    """A linear model has the same gradient everywhere, which a few steps show."""
    data = context_of("cnn", count=60, threat=Threat("linf", 1e-3))
    model, classes = nearest_mean(data.x, data.y)
    label = torch.searchsorted(classes, data.y)
    context = CheckContext(model, data.x.double(), label, data.threat, "by hand", 0, 64)
    gradients: list[object] = []
    model.register_full_backward_hook(lambda *given: gradients.append(given))
    images, start = probe_of(context).images, torch.zeros_like(probe_of(context).x)
    assert not numeric_ascent(context, images).any()
    assert len(gradients) == OFTEN
    trace = pgd_trace(context, images, start, objective=margin, smoothing=2)
    assert (~trace.values.isnan()).sum(0).tolist() == [OFTEN] * len(images)


class Hidden(nn.Module):
    """A model that hides its gradient."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x.detach()) + 0 * x.sum()
