"""APGD: its schedule, the contract, closed forms of linear models, and the reference package."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from arnas.attacks import Threat, apgd, pgd
from arnas.attacks.adaptive import checkpoints
from arnas.attacks.gradient import margin
from arnas.attacks.threat import parse_amount
from arnas.runtime.errors import UserError


def linear(classes: int, seed: int) -> nn.Sequential:
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, classes)).double()
    with torch.no_grad():
        model[1].weight.copy_(torch.randn(classes, 16, generator=generator).double())
        model[1].bias.zero_()
    return model


def images(count: int, seed: int = 3) -> Tensor:
    """Return images so far inside the box that no small ball leaves it."""
    generator = torch.Generator().manual_seed(seed)
    return 0.4 + 0.2 * torch.rand(count, 1, 4, 4, generator=generator, dtype=torch.float64)


def small_net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(128, 10),
    )


def trained_net() -> tuple[nn.Sequential, Tensor, Tensor]:
    """Return a small network fitted to blobs of eight by eight pixels, and images of them."""
    model = small_net()
    generator = torch.Generator().manual_seed(1)
    centres = torch.rand(10, 1, 8, 8, generator=generator)
    y = torch.arange(200) % 10
    x = (centres[y] + 0.25 * torch.randn(200, 1, 8, 8, generator=generator)).clamp(0, 1)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(30):
        optimiser.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimiser.step()
    return model.eval(), x, y


def test_the_schedule_is_the_papers() -> None:
    """Periods of 22, 19, 16, 13, 10, 7, 6 and then 6 per cent of the budget."""
    assert checkpoints(100) == [22, 41, 57, 70, 80, 87, 93, 99]


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("seed", range(3))
def test_two_classes_reach_the_closed_form(norm: str, seed: int) -> None:
    """The margin of a linear model shrinks by epsilon times the dual norm of the difference."""
    model, x = linear(2, seed), images(60)
    y = model(x).argmax(1)
    difference = (model[1].weight[0] - model[1].weight[1]).detach()
    dual = difference.abs().sum() if norm == "linf" else difference.norm()
    clean = -margin(model(x), y).detach()
    # No pixel moves by more than 0.4, so the box does not bind.
    largest = 0.4 if norm == "linf" else 0.4 * float(dual / difference.abs().max())
    epsilon = min(float(clean.median() / dual), largest)
    found = apgd(model, x, y, Threat(norm, epsilon), steps=50)
    robust = model(found).argmax(1) == y
    decided = (clean - epsilon * dual).abs() > 1e-6
    assert torch.equal(robust[decided], (clean > epsilon * dual)[decided])


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("epsilon", [0.0, 0.05, 0.5])
def test_stays_in_ball_and_box(norm: str, epsilon: float) -> None:
    model, x, y = trained_net()
    found = apgd(model, x, y, Threat(norm, epsilon), steps=10)
    order = torch.inf if norm == "linf" else 2
    assert (found - x).flatten(1).norm(p=order, dim=1).max() <= epsilon + 1e-6
    assert found.min() >= 0
    assert found.max() <= 1
    if epsilon == 0:
        assert torch.equal(found, x)


def test_not_weaker_than_pgd_of_the_same_budget() -> None:
    model, x, y = trained_net()
    threat = Threat("linf", 0.15)
    adaptive = model(apgd(model, x, y, threat, steps=20)).argmax(1) == y
    fixed = model(pgd(model, x, y, threat, steps=20, step_size=0.15 / 4)).argmax(1) == y
    assert 0 < int(fixed.sum()) < len(y)
    assert int(adaptive.sum()) <= int(fixed.sum()) + 1


@pytest.mark.parametrize("epsilon", [0.1, 0.13, 0.15])
def test_as_strong_as_the_reference_package(epsilon: float) -> None:
    """Random starts differ, and with them the counts by up to one image in a hundred."""
    package = pytest.importorskip("pyautoattack")
    model, x, y = trained_net()
    reference = package.AutoAttack(
        model, attacks=["apgd-ce"], version="custom", eps=epsilon, norm="Linf", seed=0
    )
    reference.apgd.n_restarts = 1
    theirs, _ = reference.run_standard_evaluation(x, y, batch_size=200)
    ours = apgd(model, x, y, Threat("linf", epsilon))
    counts = [int((model(found).argmax(1) == y).sum()) for found in (ours, theirs)]
    assert 0 < counts[1] < 200
    assert abs(counts[0] - counts[1]) <= 2


def test_each_image_walks_by_itself() -> None:
    """Outcomes do not depend on who else is in the batch."""
    model, x, y = trained_net()
    model, x = model.double(), x[:20].double()
    start = 0.2 * torch.rand(x.shape, dtype=torch.float64) - 0.1
    threat = Threat("linf", 0.1)
    whole = apgd(model, x, y[:20], threat, steps=20, start=start)
    for part in (slice(0, 7), slice(7, 20)):
        alone = apgd(model, x[part], y[:20][part], threat, steps=20, start=start[part])
        torch.testing.assert_close(alone, whole[part], rtol=0, atol=1e-12)


def test_the_model_is_untouched() -> None:
    model, x, y = trained_net()
    model.train()
    model[0].weight.requires_grad_(False)
    apgd(model, x[:4], y[:4], Threat("linf", 0.1), steps=3)
    assert model.training
    assert [p.requires_grad for p in model.parameters()] == [False, *[True] * 5]
    assert model[2].weight.grad is not None, "left over from training"


def test_the_margin_survives_large_logits() -> None:
    """Cross-entropy gradients of logits times 10,000 are zero in float32; the margin's are not."""

    class Scaled(nn.Module):
        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = 1e4 * self.model(x)
            return logits

    model, x, y = trained_net()
    threat = Threat("linf", parse_amount("0.15"))
    honest = model(pgd(model, x, y, threat, steps=20, objective=margin)).argmax(1) == y
    masked = Scaled(model)
    fooled = masked(pgd(masked, x, y, threat, steps=20)).argmax(1) == y
    found = masked(pgd(masked, x, y, threat, steps=20, objective=margin)).argmax(1) == y
    assert int(fooled.sum()) > int(honest.sum())
    assert int(found.sum()) <= int(honest.sum()) + 1


def test_the_margin_is_positive_where_misclassified() -> None:
    logits = torch.tensor([[2.0, 5.0, 1.0], [2.0, 5.0, 1.0], [1.0, 1.0, 1.0]])
    assert margin(logits, torch.tensor([1, 0, 2])).tolist() == [-3.0, 3.0, 0.0]


def test_mistakes_are_named() -> None:
    model, x = linear(2, 0), images(2)
    with pytest.raises(UserError, match="steps is -1"):
        apgd(model, x, torch.tensor([0, 1]), Threat("linf", 0.1), steps=-1)
    with pytest.raises(UserError, match="start has shape"):
        apgd(model, x, torch.tensor([0, 1]), Threat("linf", 0.1), start=x[:1])
