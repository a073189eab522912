"""Architecture gradients in float64: autograd, a copy moved by hand, and the exact derivative."""

from __future__ import annotations

import copy

import pytest
import torch
from search_cases import (
    CLASSES,
    cosine,
    module_bits,
    optimiser_bits,
    random_batch,
    relative_error,
    tiny_supernet,
    weight_step,
)
from torch import Tensor
from torch.nn import functional as F

from arnas.attacks.modes import module_modes
from arnas.data.batches import Batch
from arnas.search import gradients
from arnas.search.gradients import architecture_gradients, virtual_weights
from arnas.search.supernet import Supernet

TRAIN, NATURAL, ADVERSARIAL = random_batch(1), random_batch(2), random_batch(3)
VALIDATION = {"natural": NATURAL, "adversarial": ADVERSARIAL}
TABLE = 14 * 7
with_and_without_momentum = pytest.mark.parametrize("momentum", [True, False])


def searching(momentum: bool, decay: float = 0.05) -> tuple[Supernet, torch.optim.SGD]:
    """Return a supernet and its optimiser, whose momentum buffers exist or do not yet.

    Learning rate and weight decay are large, so that neither can be left out unnoticed.
    """
    supernet = tiny_supernet()
    optimiser = torch.optim.SGD(supernet.weights(), lr=0.1, momentum=0.9, weight_decay=decay)
    if momentum:
        for seed in (10, 11):
            weight_step(supernet, optimiser, random_batch(seed))
    supernet.train()
    return supernet, optimiser


def joined(values: dict[str, Tensor]) -> Tensor:
    return torch.cat([value.flatten() for value in values.values()])


def slopes_of(supernet: Supernet, batch: Batch, factor: float = 1.0) -> dict[str, Tensor]:
    """Return the gradient of each parameter by a plain backward pass in training mode."""
    supernet.train()
    supernet.zero_grad()
    (factor * F.cross_entropy(supernet(batch.x), batch.y)).backward()
    return {
        name: torch.zeros_like(p) if p.grad is None else p.grad.clone()
        for name, p in supernet.named_parameters()
    }


def divided(values: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the tables' entries and the weights' entries."""
    tables = {name: v for name, v in values.items() if name.startswith("alphas.")}
    return tables, {name: v for name, v in values.items() if name not in tables}


def moved(supernet: Supernet, shift: dict[str, Tensor], length: float) -> Supernet:
    """Return a copy whose weights lie `length * shift` away."""
    other = copy.deepcopy(supernet)
    with torch.no_grad():
        for name, parameter in other.named_parameters():
            if name in shift:
                parameter += length * shift[name]
    return other


def virtual_step(supernet: Supernet, optimiser: torch.optim.SGD) -> dict[str, Tensor]:
    """Return the step of SGD on the training batch: slope, weight decay and momentum."""
    group = optimiser.param_groups[0]
    _, slopes = divided(slopes_of(copy.deepcopy(supernet), TRAIN))
    step = {}
    for name, parameter in supernet.named_parameters():
        if name in slopes:
            buffer = optimiser.state.get(parameter, {}).get("momentum_buffer", 0.0)
            decayed = slopes[name] + group["weight_decay"] * parameter.detach()
            step[name] = -group["lr"] * (decayed + group["momentum"] * buffer)
    return step


def second_order_oracle(
    supernet: Supernet, optimiser: torch.optim.SGD, batch: Batch, factor: float = 1.0
) -> Tensor:
    """Compute the second-order gradient with copies, one for every place in weight space."""
    ahead = moved(supernet, virtual_step(supernet, optimiser), 1.0)
    direct, slopes = divided(slopes_of(ahead, batch, factor))
    radius = 0.01 / float(joined(slopes).norm())
    forward, _ = divided(slopes_of(moved(supernet, slopes, radius), TRAIN))
    backward, _ = divided(slopes_of(moved(supernet, slopes, -radius), TRAIN))
    product = (joined(forward) - joined(backward)) / (2 * radius)
    return joined(direct) - optimiser.param_groups[0]["lr"] * product


def exact_parts(
    supernet: Supernet, optimiser: torch.optim.SGD, batch: Batch
) -> tuple[Tensor, Tensor]:
    """Differentiate through the virtual step; return the whole gradient and its direct part."""
    group = optimiser.param_groups[0]
    tables, weights = divided(dict(supernet.named_parameters()))

    def loss(values: dict[str, Tensor], data: Batch) -> Tensor:
        logits = torch.func.functional_call(supernet, {**tables, **values}, (data.x,))
        return F.cross_entropy(logits, data.y)

    with module_modes(supernet, "batch"):
        slopes = torch.autograd.grad(
            loss(weights, TRAIN), list(weights.values()), create_graph=True
        )
        ahead = {}
        for (name, weight), slope in zip(weights.items(), slopes, strict=True):
            buffer = optimiser.state.get(weight, {}).get("momentum_buffer", 0.0)
            step = slope + group["weight_decay"] * weight + group["momentum"] * buffer
            ahead[name] = weight - group["lr"] * step
        constant = {name: value.detach() for name, value in ahead.items()}
        whole = torch.autograd.grad(loss(ahead, batch), list(tables.values()))
        direct = torch.autograd.grad(loss(constant, batch), list(tables.values()))
    return tuple(torch.cat([g.flatten() for g in found]) for found in (whole, direct))


def test_first_order_is_the_plain_gradient() -> None:
    supernet, optimiser = searching(momentum=True)
    found = architecture_gradients(supernet, optimiser, TRAIN, VALIDATION, "first")
    assert list(found) == list(VALIDATION)
    for name, batch in VALIDATION.items():
        tables, _ = divided(slopes_of(copy.deepcopy(supernet), batch))
        assert found[name].gradient.shape == (3 * TABLE,)
        assert found[name].gradient.dtype == torch.float64
        assert not found[name].gradient.requires_grad
        assert relative_error(found[name].gradient, joined(tables)) < 1e-12


def test_the_tables_follow_each_other_in_their_own_order() -> None:
    supernet, optimiser = searching(momentum=False)
    found = architecture_gradients(supernet, optimiser, TRAIN, VALIDATION, "first")
    slopes = slopes_of(copy.deepcopy(supernet), NATURAL)
    for place, kind in enumerate(supernet.alphas):
        part = found["natural"].gradient[place * TABLE : (place + 1) * TABLE]
        assert relative_error(part.view(14, 7), slopes[f"alphas.{kind}"]) < 1e-12


@with_and_without_momentum
def test_second_order_is_the_finite_difference_of_copies(momentum: bool) -> None:
    supernet, optimiser = searching(momentum)
    found = architecture_gradients(supernet, optimiser, TRAIN, VALIDATION, "second")
    for name, batch in VALIDATION.items():
        expected = second_order_oracle(supernet, optimiser, batch)
        assert relative_error(found[name].gradient, expected) < 1e-8


def test_the_correction_is_not_small_here() -> None:
    """Otherwise the comparisons of second order would pass without it."""
    supernet, optimiser = searching(momentum=True)
    whole, direct = exact_parts(supernet, optimiser, NATURAL)
    assert relative_error(direct, whole) > 0.1


@with_and_without_momentum
def test_a_short_finite_difference_gives_the_exact_derivative(
    momentum: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Short enough to cross no kink of a ReLU; a forgotten term would not shrink with it."""
    monkeypatch.setattr(gradients, "RADIUS", 1e-6)
    supernet, optimiser = searching(momentum)
    found = architecture_gradients(supernet, optimiser, TRAIN, {"it": NATURAL}, "second")
    whole, direct = exact_parts(supernet, optimiser, NATURAL)
    assert relative_error(found["it"].gradient, whole) < 1e-6
    assert relative_error(found["it"].gradient - direct, whole - direct) < 1e-6


@pytest.fixture
def without_kinks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace ReLU and max pooling by smooth functions, also inside `nn.ReLU`."""

    def smooth_relu(x: Tensor, inplace: bool = False) -> Tensor:
        return torch.logaddexp(x, torch.zeros_like(x))

    def smooth_pool(x: Tensor, *sizes: int) -> Tensor:
        return F.avg_pool2d(x, *sizes).square()

    monkeypatch.setattr(F, "relu", smooth_relu)
    monkeypatch.setattr(F, "max_pool2d", smooth_pool)


@pytest.mark.usefixtures("without_kinks")
def test_the_radius_in_use_is_close_to_the_exact_derivative(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A tenth of the radius leaves a hundredth of the error: the difference is central."""
    supernet, optimiser = searching(momentum=True)
    whole, direct = exact_parts(supernet, optimiser, NATURAL)
    errors = []
    for radius in (gradients.RADIUS, gradients.RADIUS / 10):
        monkeypatch.setattr(gradients, "RADIUS", radius)
        found = architecture_gradients(supernet, optimiser, TRAIN, {"it": NATURAL}, "second")
        errors.append(relative_error(found["it"].gradient, whole))
        assert cosine(found["it"].gradient, whole) > 0.9999
        assert cosine(found["it"].gradient - direct, whole - direct) > 0.9999
    assert errors[0] < 1e-2
    assert 50 < errors[0] / errors[1] < 200


@pytest.mark.parametrize("factor", [0.1, 7.0])
def test_a_factor_on_the_loss_is_a_factor_on_the_gradient(factor: float) -> None:
    """The weight of an objective may therefore be applied after the gradients are known."""
    supernet, optimiser = searching(momentum=True)
    found = architecture_gradients(supernet, optimiser, TRAIN, {"it": ADVERSARIAL}, "second")
    expected = second_order_oracle(supernet, optimiser, ADVERSARIAL, factor)
    assert relative_error(factor * found["it"].gradient, expected) < 1e-8


def test_objectives_do_not_touch_each_other() -> None:
    supernet, optimiser = searching(momentum=True)
    both = architecture_gradients(supernet, optimiser, TRAIN, VALIDATION, "second")
    alone = architecture_gradients(
        supernet, optimiser, TRAIN, {"adversarial": ADVERSARIAL}, "second"
    )
    assert torch.equal(both["adversarial"].gradient, alone["adversarial"].gradient)
    assert both["adversarial"].loss == alone["adversarial"].loss


def test_first_order_does_not_look_at_the_training_batch() -> None:
    supernet, optimiser = searching(momentum=True)
    found = [
        architecture_gradients(supernet, optimiser, train, {"it": NATURAL}, "first")["it"].gradient
        for train in (TRAIN, random_batch(9))
    ]
    assert torch.equal(*found)


@pytest.mark.parametrize("order", ["first", "second"])
def test_the_loss_is_that_of_the_weights_in_use(order: str) -> None:
    supernet, optimiser = searching(momentum=True)
    found = architecture_gradients(supernet, optimiser, TRAIN, {"it": NATURAL}, order)
    place = copy.deepcopy(supernet)
    if order == "second":
        place = moved(supernet, virtual_step(supernet, optimiser), 1.0)
    expected = F.cross_entropy(place.train()(NATURAL.x), NATURAL.y).item()
    assert found["it"].loss == pytest.approx(expected, rel=1e-10)


@with_and_without_momentum
def test_virtual_weights_are_those_after_a_real_step(momentum: bool) -> None:
    supernet, optimiser = searching(momentum)
    _, slopes = divided(slopes_of(copy.deepcopy(supernet), TRAIN))
    weights = supernet.weights()
    virtual = virtual_weights(weights, list(slopes.values()), optimiser)
    for weight, slope in zip(weights, slopes.values(), strict=True):
        weight.grad = slope
    optimiser.step()
    for weight, value in zip(weights, virtual, strict=True):
        torch.testing.assert_close(value, weight.detach(), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("order", ["first", "second"])
@with_and_without_momentum
def test_everything_is_left_as_it_was(order: str, momentum: bool) -> None:
    """A layer that was frozen on purpose stays frozen, and a gradient under way stays too."""
    supernet, optimiser = searching(momentum)
    supernet.cells[0].eval()
    supernet.classifier.weight.grad = torch.ones_like(supernet.classifier.weight)
    before = module_bits(supernet), optimiser_bits(optimiser, supernet.weights())
    architecture_gradients(supernet, optimiser, TRAIN, VALIDATION, order)
    assert (module_bits(supernet), optimiser_bits(optimiser, supernet.weights())) == before


def test_a_failure_at_the_virtual_weights_leaves_the_real_ones() -> None:
    supernet, optimiser = searching(momentum=True)
    before = module_bits(supernet)
    broken = Batch(NATURAL.x, NATURAL.y + CLASSES)
    with pytest.raises((IndexError, RuntimeError)):
        architecture_gradients(supernet, optimiser, TRAIN, {"it": broken}, "second")
    assert module_bits(supernet) == before


@pytest.mark.parametrize("order", ["first", "second"])
def test_a_kind_without_cells_has_the_gradient_zero(order: str) -> None:
    """Of three cells none stands in the last stage."""
    supernet = tiny_supernet(cells=3)
    optimiser = torch.optim.SGD(supernet.weights(), lr=0.1, momentum=0.9)
    found = architecture_gradients(supernet, optimiser, TRAIN, {"it": NATURAL}, order)
    parts = dict(zip(supernet.alphas, found["it"].gradient.split(TABLE), strict=True))
    assert bool((parts["robust"] == 0).all())
    assert all(bool((parts[kind] != 0).any()) for kind in ("accurate", "reduction"))
