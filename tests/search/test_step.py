"""One whole step of a search against the papers' formulas on a plain supernet, in float64."""

from __future__ import annotations

import copy
from typing import NamedTuple

import pytest
import torch
from search_cases import CLASSES, random_batch, relative_error, tiny_supernet, weight_step

from arnas.attacks.pgd import pgd
from arnas.attacks.threat import Threat
from arnas.data.batches import Batch
from arnas.search import step as package
from arnas.search.options import SupernetOptions
from arnas.search.state import SearchState
from benchmarks.reference.search import PlainSearch, Rates
from benchmarks.reference.supernet import PlainSupernet, copy_into

RATES = Rates(
    rate=0.1, decay=0.05, clip=0.5, alpha_rate=0.02, alpha_decay=0.3, radius=0.01, weight=0.6
)
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


def pair() -> tuple[SearchState, PlainSearch]:
    """Return a search that has a momentum already, and its oracle in the same place."""
    supernet = tiny_supernet()
    sgd = torch.optim.SGD(
        supernet.weights(), lr=RATES.rate, momentum=RATES.momentum, weight_decay=RATES.decay
    )
    weight_step(supernet, sgd, random_batch(99))
    adam = torch.optim.Adam(
        list(supernet.alphas.values()),
        lr=RATES.alpha_rate,
        betas=RATES.betas,
        weight_decay=RATES.alpha_decay,
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
    return SearchState(supernet, sgd, adam), PlainSearch(net, RATES, momentum)


class SuiteState(NamedTuple):
    found: SearchState
    figures: list[dict[str, float]]
    expected: PlainSearch
    gammas: list[float]


@pytest.fixture(scope="module")
def course() -> SuiteState:
    state, oracle = pair()
    plan = package.StagePlan(
        "multiobjective", 1, "second", "min_norm", RATES.radius, adversarial_weight=RATES.weight
    )
    options = SupernetOptions.model_validate({"weights": {"gradient_clip": RATES.clip}})
    figures, gammas = [], []
    state.supernet.train()
    for number in range(STEPS):
        batch = batches(number, oracle.net)
        validation = {"natural": batch.natural, "adversarial": batch.adversarial}
        figures.append(package.architecture_step(state, plan, batch.train, validation))
        package.weight_step(state, batch.train, options)
        gammas.append(oracle.architecture_step(*batch))
        length = oracle.weight_step(batch.train)
        assert length > RATES.clip, "without clipping to speak of, no test"
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
