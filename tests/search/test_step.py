"""One whole step of a search against the papers' formulas on a plain supernet, in float64."""

from __future__ import annotations

import copy
from typing import NamedTuple

import pytest
import torch
from plain_supernet import PlainSupernet, copy_into
from search_cases import CLASSES, random_batch, relative_error, tiny_supernet, weight_step
from torch import Tensor
from torch.nn import functional as F

from arnas.attacks.pgd import pgd
from arnas.attacks.threat import Threat
from arnas.data.batches import Batch
from arnas.search import step as package
from arnas.search.options import SupernetOptions
from arnas.search.state import SearchState

RATE, MOMENTUM, DECAY, CLIP = 0.1, 0.9, 0.05, 0.5
ALPHA_RATE, BETAS, ALPHA_DECAY, EPSILON = 0.02, (0.5, 0.999), 0.3, 1e-8
RADIUS, WEIGHT = 0.01, 0.6
STEPS = 2
KINDS = ("accurate", "accurate", "robust")


class Batches(NamedTuple):
    train: Batch
    natural: Batch
    adversarial: Batch


def batches(number: int, supernet: torch.nn.Module) -> Batches:
    """Return the batches of a step; adversarial ones are made on one of both supernets for both."""
    clean, natural = random_batch(10 * number), random_batch(10 * number + 1)

    def attacked(batch: Batch) -> Batch:
        threat = Threat("linf", 0.1)
        x = pgd(supernet, batch.x, batch.y, threat, steps=2, step_size=0.05, batch_norm="batch")
        return Batch(x, batch.y)

    return Batches(attacked(clean), natural, attacked(natural))


class Oracle:
    """Weights, tables, SGD and Adam by hand, on the supernet that is built edge by edge."""

    def __init__(self, net: PlainSupernet, momentum: dict[str, Tensor]) -> None:
        self.net = net.train()
        self.momentum = momentum
        tables = self.tables()
        self.first = {name: torch.zeros_like(table) for name, table in tables.items()}
        self.second = {name: torch.zeros_like(table) for name, table in tables.items()}
        self.steps = 0

    def tables(self) -> dict[str, Tensor]:
        return {n: p for n, p in self.net.named_parameters() if n.startswith("alphas.")}

    def weights(self) -> dict[str, Tensor]:
        return {n: p for n, p in self.net.named_parameters() if not n.startswith("alphas.")}

    def slopes(self, batch: Batch, shift: dict[str, Tensor], factor: float = 1.0) -> dict:
        """Return d(factor * cross-entropy) / d(everything) with the weights shifted."""
        net = copy.deepcopy(self.net)
        with torch.no_grad():
            for name, parameter in net.named_parameters():
                parameter.add_(shift.get(name, torch.zeros(())))
        loss = factor * F.nll_loss(net(batch.x).log_softmax(1), batch.y)
        loss.backward()
        return {
            name: torch.zeros_like(p) if p.grad is None else p.grad
            for name, p in net.named_parameters()
        }

    def sgd(self, slopes: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return what SGD would add to its velocity's place: velocity after this gradient."""
        return {
            name: MOMENTUM * self.momentum[name] + slopes[name] + DECAY * weight.detach()
            for name, weight in self.weights().items()
        }

    def corrected(self, train: Batch, batch: Batch, factor: float) -> dict[str, Tensor]:
        """Return DARTS's equation 7 with the finite difference of equation 8."""
        virtual = {n: -RATE * v for n, v in self.sgd(self.slopes(train, {})).items()}
        ahead = self.slopes(batch, virtual, factor)
        length = torch.sqrt(sum((ahead[name] ** 2).sum() for name in self.weights()))
        share = RADIUS / length
        sides = [
            self.slopes(train, {name: sign * share * ahead[name] for name in self.weights()})
            for sign in (1, -1)
        ]
        return {
            name: ahead[name] - RATE * (sides[0][name] - sides[1][name]) / (2 * share)
            for name in self.tables()
        }

    def architecture_step(self, batch: Batches) -> float:
        natural = self.corrected(batch.train, batch.natural, 1.0)
        adversarial = self.corrected(batch.train, batch.adversarial, WEIGHT)
        one, two = (
            torch.cat([found[name].flatten() for name in self.tables()])
            for found in (natural, adversarial)
        )
        gamma = min(max(float((two - one) @ two / ((two - one) @ (two - one))), 0.0), 1.0)
        self.steps += 1
        with torch.no_grad():
            for name, table in self.tables().items():
                slope = gamma * natural[name] + (1 - gamma) * adversarial[name]
                slope = slope + ALPHA_DECAY * table
                self.first[name] = BETAS[0] * self.first[name] + (1 - BETAS[0]) * slope
                self.second[name] = BETAS[1] * self.second[name] + (1 - BETAS[1]) * slope**2
                mean = self.first[name] / (1 - BETAS[0] ** self.steps)
                spread = self.second[name] / (1 - BETAS[1] ** self.steps)
                table.sub_(ALPHA_RATE * mean / (spread.sqrt() + EPSILON))
        return gamma

    def weight_step(self, batch: Batch) -> None:
        slopes = self.slopes(batch, {})
        length = torch.sqrt(sum((slopes[name] ** 2).sum() for name in self.weights()))
        assert length > CLIP, "without clipping to speak of, no test"
        # PyTorch's clipping, which the papers use, adds 1e-6 to the length.
        clipped = {name: CLIP / (length + 1e-6) * slopes[name] for name in self.weights()}
        self.momentum = self.sgd(clipped)
        with torch.no_grad():
            for name, weight in self.weights().items():
                weight.sub_(RATE * self.momentum[name])


def pair() -> tuple[SearchState, Oracle]:
    """Return a search that has a momentum already, and its oracle in the same place."""
    supernet = tiny_supernet()
    sgd = torch.optim.SGD(supernet.weights(), lr=RATE, momentum=MOMENTUM, weight_decay=DECAY)
    weight_step(supernet, sgd, random_batch(99))
    adam = torch.optim.Adam(
        list(supernet.alphas.values()), lr=ALPHA_RATE, betas=BETAS, weight_decay=ALPHA_DECAY
    )
    net, velocity = (
        PlainSupernet(KINDS, (1, 2, 2), 4, 2, in_channels=1, num_classes=CLASSES).double()
        for _ in range(2)
    )
    copy_into(supernet, net)
    # The momentum goes the way of the weights: through a supernet whose weights it is.
    carrier = copy.deepcopy(supernet)
    with torch.no_grad():
        for own, weight in zip(carrier.weights(), supernet.weights(), strict=True):
            own.copy_(sgd.state[weight]["momentum_buffer"])
    copy_into(carrier, velocity)
    momentum = {name: p.detach().clone() for name, p in velocity.named_parameters()}
    return SearchState(supernet, sgd, adam), Oracle(net, momentum)


class SuiteState(NamedTuple):
    found: SearchState
    figures: list[dict[str, float]]
    expected: Oracle
    gammas: list[float]


@pytest.fixture(scope="module")
def course() -> SuiteState:
    state, oracle = pair()
    plan = package.StagePlan(
        "multiobjective", 1, "second", "min_norm", RADIUS, adversarial_weight=WEIGHT
    )
    options = SupernetOptions.model_validate({"weights": {"gradient_clip": CLIP}})
    figures, gammas = [], []
    state.supernet.train()
    for number in range(STEPS):
        batch = batches(number, oracle.net)
        validation = {"natural": batch.natural, "adversarial": batch.adversarial}
        figures.append(package.architecture_step(state, plan, batch.train, validation))
        package.weight_step(state, batch.train, options)
        gammas.append(oracle.architecture_step(batch))
        oracle.weight_step(batch.train)
    return SuiteState(state, figures, oracle, gammas)


def test_the_tables_are_those_of_the_formulas(course: SuiteState) -> None:
    for kind, table in course.found.supernet.alphas.items():
        expected = course.expected.tables()[f"alphas.{kind}"]
        assert (table - expected).abs().max() < 1e-10
        assert relative_error(table.detach(), expected.detach()) < 1e-10


def test_the_weights_are_those_of_the_formulas(course: SuiteState) -> None:
    oracle = copy.deepcopy(course.expected.net)
    copy_into(course.found.supernet, oracle)
    found, expected = dict(oracle.named_parameters()), course.expected.weights()
    for name, weight in expected.items():
        assert (found[name] - weight).abs().max() < 1e-10, name


def test_gamma_is_shared_and_inside(course: SuiteState) -> None:
    found = [figures["gamma"] for figures in course.figures]
    assert found == pytest.approx(course.gammas, abs=1e-10)
    assert any(0 < gamma < 1 for gamma in found), "a gamma at an end would hide the mixture"
