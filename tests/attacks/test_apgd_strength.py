"""The strength of APGD: restarts, targets, the package, and models that are hard to climb."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from apgd_cases import NORMS, draw, images, trained_net
from attack_cases import fixed, rugged_net
from torch import Tensor, nn

from arnas import Threat, apgd
from arnas.attacks.apgd import apgd_batch
from arnas.attacks.objectives import (
    cross_entropy,
    dlr,
    margin,
    targeted_cross_entropy,
    targeted_dlr,
    targeted_margin,
)
from arnas.attacks.oracle import Oracle, misclassified

PACKAGE_NAMES = {"linf": "Linf", "l2": "L2", "l1": "L1"}


def test_another_class_than_the_target_counts_too() -> None:
    """Away from class 0 the second class is nearer than the target, which stays out of reach."""

    class Bent(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            away = (x.flatten(1)[:, 0] - 0.5)[:, None]
            return torch.cat([0.1 - away, 2 * away, away - 5], 1)

    x = torch.full((1, 1, 2, 2), 0.5)
    y, target = torch.tensor([0]), torch.tensor([2])
    found = apgd(Bent(), x, y, Threat("linf", 0.1), targets=target, objective=margin)
    assert Bent()(found).argmax(1).tolist() == [1]


def test_what_is_returned_is_what_was_seen_misclassified() -> None:
    """On the way to a target an image may fall to another class where the objective is low."""
    model = rugged_net()
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(100, 1, 6, 6, generator=generator, dtype=torch.float64)
    y = model(x).argmax(1)
    pairs = torch.stack([y, (y + 1) % 10], 1)
    noise = draw(x, "linf")
    for objective in (targeted_margin, targeted_cross_entropy):
        found = apgd_batch(
            Oracle(model, 100), x, pairs, Threat("linf", 0.003), fixed(noise), objective=objective
        )
        assert 0 < int(found.broken.sum()) < 100
        assert torch.equal(misclassified(model(found.x_adv), y), found.broken)


def test_objectives_take_their_targeted_form() -> None:
    """With targets, the plain names and the targeted ones climb the same."""
    model, x, y = trained_net()
    x, y = x[:30], y[:30]
    targets = (y + 3) % 10
    for plain, aimed in (
        (cross_entropy, targeted_cross_entropy),
        (margin, targeted_margin),
        (dlr, targeted_dlr),
    ):
        first, second = (
            apgd(model, x, y, Threat("linf", 0.1), steps=5, targets=targets, objective=objective)
            for objective in (plain, aimed)
        )
        assert torch.equal(first, second)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:there are .* points with zero gradient")
@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 0.1), ("l2", 0.6), ("l1", 4.0)])
@pytest.mark.parametrize(("loss", "objective"), [("ce", cross_entropy), ("dlr", dlr)])
def test_ten_seeds_are_as_strong_as_the_packages(
    norm: str, epsilon: float, loss: str, objective: Any
) -> None:
    """Of 200 images no more stand than after the package's attack, but one; mean of ten seeds."""
    base = pytest.importorskip("pyautoattack.autopgd_base")
    model, x, y = trained_net()
    ours = theirs = 0
    for seed in range(10):
        attack = base.APGDAttack(
            model,
            norm=PACKAGE_NAMES[norm],
            eps=epsilon,
            loss=loss,
            seed=seed,
            use_largereps=norm == "l1",
        )
        theirs += int((~misclassified(model(attack.perturb(x, y)), y)).sum())
        generator = torch.Generator().manual_seed(77 + seed)
        x_adv = apgd(model, x, y, Threat(norm, epsilon), generator=generator, objective=objective)
        ours += int((~misclassified(model(x_adv), y)).sum())
    assert 0 < theirs < 2000
    assert ours <= theirs + 10


# Models that are hard to apgd_batch


def test_a_gradient_that_is_no_number_breaks_nothing() -> None:
    """A step along NaN would make an image of NaNs, which no model classifies."""

    class Cusp(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            root = (0 * x).sum((1, 2, 3)).sqrt()
            return torch.stack([1 + root, root], 1)

    x = torch.full((3, 1, 2, 2), 0.5)
    for norm in NORMS:
        found = apgd(Cusp(), x, torch.zeros(3, dtype=torch.int64), Threat(norm, 0.1), steps=5)
        assert found.isfinite().all()
        assert not misclassified(Cusp()(found), torch.zeros(3, dtype=torch.int64)).any()


def test_a_random_model_is_averaged_over() -> None:
    """The gradient of a wave is lost in the noise of one pass, not in that of many."""

    class Noisy(nn.Module):
        passes = 0

        def forward(self, x: Tensor) -> Tensor:
            self.passes += len(x)
            shift = 0.1 * torch.randn(len(x), 1, generator=generator).to(x)
            height = x.flatten(1).mean(1, keepdim=True) + shift
            return torch.cat([torch.ones_like(height), height], 1)

    generator = torch.Generator().manual_seed(0)
    model, x = Noisy(), images(4)
    oracle = Oracle(model, 2, expectation=5)
    y = torch.zeros(4, dtype=torch.int64)
    found = apgd_batch(oracle, x, y, Threat("linf", 0.05), fixed(draw(x, "linf")), steps=6)
    assert not found.broken.any()
    assert model.passes == oracle.forwards == 4 * (5 * 6 + 1)
    assert oracle.backwards == 4 * 5 * 6


def test_the_margin_is_positive_where_misclassified() -> None:
    logits = torch.tensor([[2.0, 5.0, 1.0], [2.0, 5.0, 1.0], [1.0, 1.0, 1.0]])
    assert margin(logits, torch.tensor([1, 0, 2])).tolist() == [-3.0, 3.0, 0.0]
