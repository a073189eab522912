"""What is seen while a model is attacked: counted by hand on models and examples made for it."""

from __future__ import annotations

import math

import pytest
import torch
from checked_models import linear_model, normalised_model, pictures
from torch import Tensor

from arnas.attacks.threat import Threat
from arnas.evaluation.monitor import EvalMonitor

LINF, L2 = Threat("linf", 0.1), Threat("l2", 0.5)


def grey(count: int = 3) -> Tensor:
    return torch.full((count, 2, 3, 3), 0.5, dtype=torch.float64)


def moved(*places: tuple[int, int, float], count: int = 3) -> Tensor:
    """Return grey images of which some pixels, by image and place, are moved."""
    x = grey(count).flatten(1)
    for image, place, by in places:
        x[image, place] += by
    return x.view(count, 2, 3, 3)


# Examples


@pytest.mark.parametrize(
    ("threat", "moves", "excess"),
    [
        (LINF, [], -0.1),
        (LINF, [(0, 0, 0.1), (1, 7, -0.1)], 0.0),
        (LINF, [(2, 17, -0.25), (0, 3, 0.2)], 0.15),
        (LINF, [(0, place, 0.05) for place in range(18)], -0.05),
        (L2, [(1, 0, 0.3), (1, 17, -0.4)], 0.0),
        (L2, [(1, 0, 0.3), (2, 17, -0.4)], -0.1),
        (L2, [(0, place, 0.3) for place in range(16)], 0.7),
    ],
)
def test_the_largest_perturbation_counts_in_the_norm_of_the_threat(
    threat: Threat, moves: list[tuple[int, int, float]], excess: float
) -> None:
    """Each image by itself: 0.3 and 0.4 make 0.5 in one image, and 0.4 in two."""
    monitor = EvalMonitor()
    monitor.see(grey(), moved(*moves), threat)
    assert monitor.excess == pytest.approx(excess, abs=1e-12)
    assert monitor.examples == 3


def test_the_extremes_of_all_batches_are_kept() -> None:
    """Whatever the order; each excess is that over the budget of its own batch."""
    batches = [
        (moved((0, 0, 0.3), count=1), LINF, 0.2),
        (moved((1, 1, -0.4), count=2), Threat("linf", 0.35), 0.05),
        (moved((3, 2, 0.01), count=4), LINF, -0.09),
    ]
    for order in (batches, batches[::-1]):
        monitor = EvalMonitor()
        for x_adv, threat, _ in order:
            monitor.see(grey(len(x_adv)), x_adv, threat)
        assert monitor.examples == 1 + 2 + 4
        assert monitor.excess == pytest.approx(max(excess for *_, excess in batches), abs=1e-12)
        assert (monitor.low, monitor.high) == pytest.approx((0.1, 0.8), abs=1e-12)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_none_is_remembered(value: float) -> None:
    """An honest batch afterwards does not make up for it."""
    monitor = EvalMonitor()
    monitor.see(grey(), moved((1, 4, value)), LINF)
    assert not monitor.finite
    monitor.see(grey(), grey(), LINF)
    assert not monitor.finite


# Passes


def test_every_pass_of_the_model_is_counted_and_no_other() -> None:
    """Only inside the block, and neither those of its layers nor those of another model."""
    model, other, x = linear_model().eval(), linear_model(), pictures(2)
    monitor = EvalMonitor()
    model(x)
    with monitor.watching(model):
        model(x)
        model(x)
        model[1](x.flatten(1))
        other(x)
    model(x)
    with monitor.watching(model):
        model(x)
    assert (monitor.forwards, monitor.awake) == (3, 0)


@pytest.mark.parametrize("layer", [0, 1, 2, 3, 4])
def test_a_pass_counts_as_awake_if_one_layer_is(layer: int) -> None:
    model, x = normalised_model().eval(), pictures(2)
    monitor = EvalMonitor()
    with monitor.watching(model):
        model(x)
        model[layer].train()
        model(x)
        model[layer].eval()
        model(x)
    assert (monitor.forwards, monitor.awake) == (3, 1)


def test_several_models_are_watched_together_and_each_once() -> None:
    """As a model and the copy that examples are made on, which may be the model itself."""
    model, copy, x = normalised_model().eval(), normalised_model(), pictures(2)
    monitor = EvalMonitor()
    with monitor.watching(model, copy, model):
        model(x)
        model(x)
        copy.eval()(x)
    assert (monitor.forwards, monitor.awake, monitor.changed) == (3, 0, False)
    with monitor.watching(model, copy):
        copy.train()(x)
    assert (monitor.forwards, monitor.awake, monitor.changed) == (4, 1, True)


@pytest.mark.parametrize(
    "name", ["0.weight", "1.bias", "1.running_mean", "1.running_var", "1.num_batches_tracked"]
)
def test_weights_and_buffers_that_are_changed_are_noticed(name: str) -> None:
    """Once is enough, though nothing happens the next time."""
    model = normalised_model()
    monitor = EvalMonitor()
    with monitor.watching(model):
        pass
    assert not monitor.changed
    with monitor.watching(model):
        model.state_dict()[name].view(-1)[-1].add_(1)
    assert monitor.changed
    with monitor.watching(model):
        pass
    assert monitor.changed


def test_what_is_put_back_or_changed_outside_does_not_count() -> None:
    model = normalised_model()
    monitor = EvalMonitor()
    with monitor.watching(model):
        model[1].running_mean.add_(1)
        model[1].running_mean.sub_(1)
    model[1].running_mean.add_(1)
    with monitor.watching(model):
        pass
    assert not monitor.changed


def test_an_error_ends_the_watch_and_goes_on() -> None:
    model = normalised_model().eval()
    monitor = EvalMonitor()
    with pytest.raises(ZeroDivisionError), monitor.watching(model):
        model[1].running_mean.add_(1)
        raise ZeroDivisionError
    assert monitor.changed
    model(pictures(2))
    assert monitor.forwards == 0, "the model is no longer watched"
