"""What is seen while a model is attacked: counted by hand on models and examples made for it."""

from __future__ import annotations

import math

import pytest
import torch
from checked_models import linear_model, normalised_model, pictures
from torch import Tensor, nn

from arnas.attacks.threat import Threat
from arnas.evaluation.whitebox import accuracy_curve, evaluate, predict
from arnas.evaluation.witness import EvalMonitor
from arnas.runtime.progress import silent

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


def test_a_new_witness_has_seen_nothing() -> None:
    witness = EvalMonitor()
    assert (witness.forwards, witness.awake, witness.examples) == (0, 0, 0)
    assert not witness.changed
    assert witness.finite
    assert witness.excess < 0


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
    witness = EvalMonitor()
    witness.see(grey(), moved(*moves), threat)
    assert witness.excess == pytest.approx(excess, abs=1e-12)
    assert witness.examples == 3


def test_the_extremes_of_all_batches_are_kept() -> None:
    """Whatever the order; each excess is that over the budget of its own batch."""
    batches = [
        (moved((0, 0, 0.3), count=1), LINF, 0.2),
        (moved((1, 1, -0.4), count=2), Threat("linf", 0.35), 0.05),
        (moved((3, 2, 0.01), count=4), LINF, -0.09),
    ]
    for order in (batches, batches[::-1]):
        witness = EvalMonitor()
        for x_adv, threat, _ in order:
            witness.see(grey(len(x_adv)), x_adv, threat)
        assert witness.examples == 1 + 2 + 4
        assert witness.excess == pytest.approx(max(excess for *_, excess in batches), abs=1e-12)
        assert (witness.low, witness.high) == pytest.approx((0.1, 0.8), abs=1e-12)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_none_is_remembered(value: float) -> None:
    """An honest batch afterwards does not make up for it."""
    witness = EvalMonitor()
    witness.see(grey(), moved((1, 4, value)), LINF)
    assert not witness.finite
    witness.see(grey(), grey(), LINF)
    assert not witness.finite


# Passes


def test_every_pass_of_the_model_is_counted_and_no_other() -> None:
    """Only inside the block, and neither those of its layers nor those of another model."""
    model, other, x = linear_model().eval(), linear_model(), pictures(2)
    witness = EvalMonitor()
    model(x)
    with witness.watching(model):
        model(x)
        model(x)
        model[1](x.flatten(1))
        other(x)
    model(x)
    with witness.watching(model):
        model(x)
    assert (witness.forwards, witness.awake) == (3, 0)


@pytest.mark.parametrize("layer", [0, 1, 2, 3, 4])
def test_a_pass_counts_as_awake_if_one_layer_is(layer: int) -> None:
    model, x = normalised_model().eval(), pictures(2)
    witness = EvalMonitor()
    with witness.watching(model):
        model(x)
        model[layer].train()
        model(x)
        model[layer].eval()
        model(x)
    assert (witness.forwards, witness.awake) == (3, 1)


def test_several_models_are_watched_together_and_each_once() -> None:
    """As a model and the copy that examples are made on, which may be the model itself."""
    model, copy, x = normalised_model().eval(), normalised_model(), pictures(2)
    witness = EvalMonitor()
    with witness.watching(model, copy, model):
        model(x)
        model(x)
        copy.eval()(x)
    assert (witness.forwards, witness.awake, witness.changed) == (3, 0, False)
    with witness.watching(model, copy):
        copy.train()(x)
    assert (witness.forwards, witness.awake, witness.changed) == (4, 1, True)


def test_a_model_that_only_stands_awake_is_not_blamed() -> None:
    model = normalised_model().eval()
    witness = EvalMonitor()
    with witness.watching(model):
        model.train()
        model.eval()
        model(pictures(2))
        model.train()
    assert (witness.awake, witness.changed) == (0, False)


@pytest.mark.parametrize(
    "name", ["0.weight", "1.bias", "1.running_mean", "1.running_var", "1.num_batches_tracked"]
)
def test_weights_and_buffers_that_are_changed_are_noticed(name: str) -> None:
    """Once is enough, though nothing happens the next time."""
    model = normalised_model()
    witness = EvalMonitor()
    with witness.watching(model):
        pass
    assert not witness.changed
    with witness.watching(model):
        model.state_dict()[name].view(-1)[-1].add_(1)
    assert witness.changed
    with witness.watching(model):
        pass
    assert witness.changed


def test_what_is_put_back_or_changed_outside_does_not_count() -> None:
    model = normalised_model()
    witness = EvalMonitor()
    with witness.watching(model):
        model[1].running_mean.add_(1)
        model[1].running_mean.sub_(1)
    model[1].running_mean.add_(1)
    with witness.watching(model):
        pass
    assert not witness.changed


def test_two_weights_that_swap_places_are_a_change() -> None:
    model = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})
    witness = EvalMonitor()
    with witness.watching(model):
        model["a"].weight.data, model["b"].weight.data = (
            model["b"].weight.data,
            model["a"].weight.data,
        )
    assert witness.changed


def test_an_error_ends_the_watch_and_goes_on() -> None:
    model = normalised_model().eval()
    witness = EvalMonitor()
    with pytest.raises(ZeroDivisionError), witness.watching(model):
        model[1].running_mean.add_(1)
        raise ZeroDivisionError
    assert witness.changed
    model(pictures(2))
    assert witness.forwards == 0, "the model is no longer watched"


# Of an evaluation


def test_an_evaluation_is_seen_from_its_first_example_to_its_last() -> None:
    """FGSM passes a batch forward twice, for the gradient and for the best, and is judged once."""
    model, x = linear_model(), pictures(10)
    y = predict(model, x, 10)
    y[:3] = (y[:3] + 1) % 3
    settings = {"limit": 10, "batch_size": 4, "seed": 0, "report": silent}
    witness = evaluate(model, x, y, Threat("linf", 0.01), ["fgsm"], **settings).witness
    assert witness.examples == 7, "those that are wrong when clean are not attacked"
    assert witness.forwards == 2 * 3, "two batches of seven images, not the clean images"
    assert witness.excess == pytest.approx(0, abs=1e-7)
    both = evaluate(model, x, y, Threat("linf", 0.01), ["fgsm", "pgd20"], **settings).witness
    assert both.examples == 14
    assert both.forwards > 12


def test_a_curve_is_seen_at_every_budget() -> None:
    """An attack that uses each budget up exceeds none, and the last images fall before the end."""
    model, x = linear_model(), pictures(10)
    y = predict(model, x, 10)
    threats = [Threat("linf", epsilon) for epsilon in (0, 0.001, 0.5, 1)]
    rows, witness = accuracy_curve(
        model, x, y, threats, attack="fgsm", batch_size=4, seed=0, report=silent
    )
    standing = [10, *rows.sum(1).tolist()]
    assert standing[1] == 10
    assert standing[3:] == [0, 0]
    assert witness.examples == sum(standing[:-1])
    batches = sum(-(-count // 4) for count in standing[:-1])
    assert witness.forwards == 3 * batches, "the gradient, the best, and the verdict"
    assert witness.excess == pytest.approx(0, abs=1e-7)
    assert (witness.awake, witness.changed) == (0, False)
