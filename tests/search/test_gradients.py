"""Architecture gradients in float64: autograd, a copy moved by hand, and the exact derivative."""

from __future__ import annotations

import copy
from typing import NamedTuple

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

from arnas.attacks.eval_mode import module_modes
from arnas.data.batches import Batch
from arnas.search import gradients
from arnas.search.gradients import ArchitectureGradient, architecture_gradients
from arnas.search.supernet import Supernet

TRAIN, NATURAL, ADVERSARIAL = random_batch(1), random_batch(2), random_batch(3)
VALIDATION = {"natural": NATURAL, "adversarial": ADVERSARIAL}
TABLE = 14 * 7


def searching(momentum: bool, cells: int = 4) -> tuple[Supernet, torch.optim.SGD]:
    """Return a supernet and its optimiser, whose momentum buffers exist or do not yet.

    Learning rate and weight decay are large, so that neither can be left out unnoticed. One layer
    is frozen and one gradient under way, as a user might have them.
    """
    supernet = tiny_supernet(cells)
    optimiser = torch.optim.SGD(supernet.weights(), lr=0.1, momentum=0.9, weight_decay=0.05)
    if momentum:
        weight_step(supernet, optimiser, random_batch(10))
    supernet.train()
    supernet.cells[0].eval()
    supernet.classifier.weight.grad = torch.ones_like(supernet.classifier.weight)
    return supernet, optimiser


class Case(NamedTuple):
    supernet: Supernet
    optimiser: torch.optim.SGD
    ahead: Supernet
    """A copy at the virtual weights, moved there by hand."""
    found: dict[str, ArchitectureGradient]
    """What the package says in second order."""
    untouched: bool
    """Whether everything was afterwards what it was before."""


@pytest.fixture(scope="module", params=[True, False], ids=["momentum", "no_momentum"])
def case(request: pytest.FixtureRequest) -> Case:
    supernet, optimiser = searching(request.param)
    ahead = moved(supernet, virtual_step(supernet, optimiser), 1.0)
    before = everything(supernet, optimiser)
    found = architecture_gradients(supernet, optimiser, TRAIN, VALIDATION, "second")
    return Case(supernet, optimiser, ahead, found, before == everything(supernet, optimiser))


def everything(supernet: Supernet, optimiser: torch.optim.SGD) -> tuple[object, object]:
    return module_bits(supernet), optimiser_bits(optimiser, supernet.weights())


def joined(values: dict[str, Tensor]) -> Tensor:
    return torch.cat([value.flatten() for value in values.values()])


def slopes_of(
    supernet: Supernet, batch: Batch, factor: float = 1.0
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the slopes of tables and weights by a plain backward pass of a copy in training."""
    other = copy.deepcopy(supernet).train()
    other.zero_grad()
    (factor * F.cross_entropy(other(batch.x), batch.y)).backward()
    return divided({name: p.grad for name, p in other.named_parameters() if p.grad is not None})


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
                parameter.add_(length * shift[name])
    return other


def virtual_step(supernet: Supernet, optimiser: torch.optim.SGD) -> dict[str, Tensor]:
    """Return the step of SGD on the training batch: slope, weight decay and momentum."""
    group = optimiser.param_groups[0]
    _, slopes = slopes_of(supernet, TRAIN)
    step = {}
    for name, parameter in divided(dict(supernet.named_parameters()))[1].items():
        buffer = optimiser.state.get(parameter, {}).get("momentum_buffer", 0.0)
        decayed = slopes[name] + group["weight_decay"] * parameter.detach()
        step[name] = -group["lr"] * (decayed + group["momentum"] * buffer)
    return step


def by_copies(case: Case, batch: Batch, factor: float = 1.0) -> Tensor:
    """Compute the second-order gradient with one copy for every place in weight space."""
    direct, slopes = slopes_of(case.ahead, batch, factor)
    radius = 0.01 / float(joined(slopes).norm())
    forward, _ = slopes_of(moved(case.supernet, slopes, radius), TRAIN)
    backward, _ = slopes_of(moved(case.supernet, slopes, -radius), TRAIN)
    product = (joined(forward) - joined(backward)) / (2 * radius)
    return joined(direct) - 0.1 * product


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
    before = everything(supernet, optimiser)
    found = architecture_gradients(supernet, optimiser, TRAIN, VALIDATION, "first")
    assert everything(supernet, optimiser) == before
    assert list(found) == list(VALIDATION)
    for name, batch in VALIDATION.items():
        slopes, _ = slopes_of(supernet, batch)
        assert found[name].gradient.shape == (3 * TABLE,)
        assert found[name].gradient.dtype == torch.float64
        assert not found[name].gradient.requires_grad
        for place, kind in enumerate(supernet.alphas):
            part = found[name].gradient[place * TABLE : (place + 1) * TABLE].view(14, 7)
            assert relative_error(part, slopes[f"alphas.{kind}"]) < 1e-12
        expected = F.cross_entropy(copy.deepcopy(supernet).train()(batch.x), batch.y).item()
        assert found[name].loss == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", VALIDATION)
def test_second_order_is_the_finite_difference_of_copies(case: Case, name: str) -> None:
    expected = by_copies(case, VALIDATION[name])
    assert relative_error(case.found[name].gradient, expected) < 1e-8


def test_the_loss_is_that_of_the_virtual_weights(case: Case) -> None:
    for name, batch in VALIDATION.items():
        expected = F.cross_entropy(copy.deepcopy(case.ahead).train()(batch.x), batch.y).item()
        assert case.found[name].loss == pytest.approx(expected, rel=1e-10)


def test_second_order_leaves_everything_as_it_was(case: Case) -> None:
    """Weights, statistics, modes, gradients and momentum, bit for bit."""
    assert case.untouched


def test_a_short_finite_difference_gives_the_exact_derivative(case: Case) -> None:
    """Short enough to cross no kink of a ReLU; a forgotten term would not shrink with it."""
    supernet, optimiser = case.supernet, case.optimiser
    found = architecture_gradients(supernet, optimiser, TRAIN, {"it": NATURAL}, "second", 1e-6)
    whole, direct = exact_parts(supernet, optimiser, NATURAL)
    assert relative_error(direct, whole) > 0.1, "without a correction to speak of, no test"
    assert relative_error(found["it"].gradient, whole) < 1e-6


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
def test_the_radius_in_use_is_close_to_the_exact_derivative() -> None:
    """A tenth of the radius leaves a hundredth of the error: the difference is central."""
    supernet, optimiser = searching(momentum=True)
    whole, direct = exact_parts(supernet, optimiser, NATURAL)
    errors = []
    for radius in (gradients.RADIUS, gradients.RADIUS / 10):
        found = architecture_gradients(
            supernet, optimiser, TRAIN, {"it": NATURAL}, "second", radius
        )
        errors.append(relative_error(found["it"].gradient, whole))
        assert cosine(found["it"].gradient, whole) > 0.9999
        assert cosine(found["it"].gradient - direct, whole - direct) > 0.9999
    assert errors[0] < 1e-2
    assert 50 < errors[0] / errors[1] < 200


def test_a_failure_at_the_virtual_weights_leaves_the_real_ones() -> None:
    supernet, optimiser = searching(momentum=True, cells=3)
    before = everything(supernet, optimiser)
    broken = Batch(NATURAL.x, NATURAL.y + CLASSES)
    with pytest.raises((IndexError, RuntimeError)):
        architecture_gradients(supernet, optimiser, TRAIN, {"it": broken}, "second")
    assert everything(supernet, optimiser) == before


@pytest.mark.parametrize("order", ["first", "second"])
def test_a_kind_without_cells_has_the_gradient_zero(order: str) -> None:
    """Of three cells none stands in the last stage."""
    supernet, optimiser = searching(momentum=False, cells=3)
    found = architecture_gradients(supernet, optimiser, TRAIN, {"it": NATURAL}, order)
    parts = dict(zip(supernet.alphas, found["it"].gradient.split(TABLE), strict=True))
    assert bool((parts["robust"] == 0).all())
    assert all(bool((parts[kind] != 0).any()) for kind in ("accurate", "reduction"))
