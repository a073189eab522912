"""Training losses against torch and against closed forms of a linear model."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from training_cases import (
    ENOUGH,
    EPSILON,
    THREAT,
    batch,
    by_hand,
    draws,
    linear_model,
    small_net,
    step,
)

from arnas.attacks.threat import Threat
from arnas.data.batches import Batch
from arnas.runtime.references import load_reference
from arnas.training import losses
from arnas.training.losses import (
    divergence,
    mart_loss,
    natural_loss,
    pgd_loss,
    trades_loss,
    training_examples,
)
from arnas.training.options import TrainingAttackOptions
from arnas.training.registry import LOSSES, LossOptions, loss_options


def smallest_margins(model: nn.Sequential, data: Batch, epsilon: float) -> Tensor:
    """Return each image's margin at the worst point of ball and box, pixel by pixel."""
    weight, bias = model[1].weight.detach(), model[1].bias.detach()
    towards = weight[data.y] - weight[1 - data.y]
    x = data.x.flatten(1)
    down = torch.minimum(torch.full_like(x, epsilon), x)
    up = torch.minimum(torch.full_like(x, epsilon), 1 - x)
    loss_of_margin = torch.where(towards > 0, towards * down, -towards * up).sum(1)
    return (towards * x).sum(1) + bias[data.y] - bias[1 - data.y] - loss_of_margin


def test_the_natural_loss_is_the_cross_entropy() -> None:
    model, data = small_net(), Batch(torch.rand(6, 1, 4, 4), torch.arange(6) % 3)
    logits = model(data.x)
    found = natural_loss(step(model, data, THREAT, ENOUGH, draws()))
    assert torch.equal(found.loss, F.cross_entropy(logits, data.y))
    assert torch.equal(found.logits, logits)
    assert not found.logits.requires_grad


@pytest.mark.parametrize("start", ["normal", "uniform"])
@pytest.mark.parametrize(("low", "high"), [(0.2, 0.8), (0.0, 1.0)], ids=["inside", "at_the_box"])
def test_the_pgd_loss_of_a_linear_model_is_that_of_the_worst_corner(
    start: str, low: float, high: float
) -> None:
    """Inside the box the margin shrinks by epsilon times the weights' L1 distance."""
    model, data = linear_model(), batch(low, high)
    attack = ENOUGH.model_copy(update={"start": start})
    found = pgd_loss(step(model, data, Threat("linf", EPSILON), attack, draws()))
    margins = smallest_margins(model, data, EPSILON)
    assert found.loss.item() == pytest.approx(F.softplus(-margins).mean().item(), rel=1e-12)
    assert torch.equal(found.logits.argmax(1) == data.y, margins > 0)
    if low > EPSILON:
        shift = EPSILON * (model[1].weight[0] - model[1].weight[1]).abs().sum()
        clean = smallest_margins(model, data, 0.0)
        torch.testing.assert_close(margins, clean - shift.detach(), rtol=1e-12, atol=0)


def test_the_pgd_loss_has_the_slope_at_its_examples() -> None:
    """The examples are constants: no gradient runs through the attack."""
    model, data = small_net().train(), Batch(torch.rand(6, 1, 4, 4), torch.arange(6) % 3)
    x = training_examples(step(model, data, THREAT, ENOUGH, draws(5)))
    other = copy.deepcopy(model)
    pgd_loss(step(model, data, THREAT, ENOUGH, draws(5))).loss.backward()
    F.cross_entropy(other(x), data.y).backward()
    for found, expected in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(found.grad, expected.grad)


def test_the_pgd_loss_counts_one_batch() -> None:
    """The attack leaves the statistics alone, the pass that trains uses the examples."""
    model, data = small_net().train(), Batch(torch.rand(6, 1, 4, 4), torch.arange(6) % 3)
    x = training_examples(step(model, data, THREAT, ENOUGH, draws()))
    assert int(model[1].num_batches_tracked) == 0
    pgd_loss(step(model, data, THREAT, ENOUGH, draws()))
    assert int(model[1].num_batches_tracked) == 1
    with torch.no_grad():
        mean = model[0](x).mean((0, 2, 3))
    torch.testing.assert_close(model[1].running_mean, 0.1 * mean)
    assert model.training
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def noise(attack: TrainingAttackOptions, level: float = 0.5, seed: int = 0) -> Tensor:
    """Return the starting perturbation of 64,000 equal pixels, in units of epsilon."""
    data = Batch(torch.full((1000, 1, 8, 8), level), torch.zeros(1000, dtype=torch.int64))
    none = attack.model_copy(update={"steps": 0})
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    x = training_examples(step(model, data, Threat("linf", EPSILON), none, draws(seed)))
    return (x - data.x) / EPSILON


def test_a_normal_start_is_narrow_and_normal() -> None:
    """68.3 and 95.4 percent within one and two deviations; of a uniform noise 57.7 and 100."""
    found = noise(TrainingAttackOptions(start="normal", start_scale=0.01))
    assert found.std().item() == pytest.approx(0.1, rel=0.02)
    assert (found.abs() < 0.1).float().mean().item() == pytest.approx(0.683, abs=0.01)
    assert (found.abs() < 0.2).float().mean().item() == pytest.approx(0.954, abs=0.01)


def test_a_uniform_start_fills_the_ball() -> None:
    found = noise(TrainingAttackOptions(start="uniform", start_scale=0.01))
    assert found.abs().max().item() <= 1 + 1e-5
    quarters = torch.quantile(found[:500].flatten(), torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0]))
    torch.testing.assert_close(quarters, torch.linspace(-1, 1, 5), rtol=0, atol=0.02)


@pytest.mark.parametrize("start", ["normal", "uniform"])
def test_a_start_stays_in_the_box_and_follows_its_generator(start: str) -> None:
    attack = TrainingAttackOptions(start=start, start_scale=0.05)
    assert noise(attack, level=0.0).min().item() >= 0
    assert noise(attack, level=1.0).max().item() <= 0
    assert torch.equal(noise(attack, seed=3), noise(attack, seed=3))
    assert not torch.equal(noise(attack, seed=3), noise(attack, seed=4))


def test_the_attack_is_the_one_that_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}

    def spy(model: nn.Module, x: Tensor, y: Tensor, threat: Threat, **settings: Any) -> Tensor:
        given.update(settings, threat=threat)
        return x

    monkeypatch.setattr(losses, "pgd", spy)
    attack = TrainingAttackOptions(steps=9, step_size="2/255", batch_norm="batch", start="uniform")
    training_examples(step(small_net(), batch(), THREAT, attack, draws()))
    assert given["threat"] == THREAT
    assert given["steps"] == 9
    assert given["step_size"] == pytest.approx(2 / 255)
    assert given["batch_norm"] == "batch"
    assert given["keep"] == "last"
    assert given["start"] is None


@pytest.mark.parametrize("batch_norm", ["eval", "batch"])
def test_the_attack_uses_the_statistics_that_are_set(batch_norm: str) -> None:
    """Running statistics of another scale turn some steps of the attack around."""
    attack = TrainingAttackOptions(steps=3, step_size=0.03, batch_norm=batch_norm)
    data = Batch(torch.rand(6, 1, 4, 4, generator=draws(4)), torch.arange(6) % 3)
    found = []
    for mean in (0.0, 5.0):
        model = small_net().train()
        model[1].running_mean.fill_(mean)
        found.append(training_examples(step(model, data, THREAT, attack, draws())))
    assert torch.equal(*found) == (batch_norm == "batch")


def test_every_loss_says_what_it_is() -> None:
    assert [name for name, entry in LOSSES.items() if not entry.defended] == ["natural"]
    assert [name for name, entry in LOSSES.items() if entry.selects == "clean"] == ["natural"]
    assert all(entry.citation for entry in LOSSES.values())
    assert len({entry.label for entry in LOSSES.values()}) == len(LOSSES)


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_reaches_every_weight_in_as_many_passes_as_it_says(name: str) -> None:
    """Those of the attack apart; and the mode is left alone."""
    model, calls = small_net().train(), []
    data = Batch(torch.rand(6, 1, 4, 4), torch.arange(6) % 3)
    loss = load_reference(LOSSES[name].function)
    loss(step(model, data, THREAT, ENOUGH, draws(), loss_options(name))).loss.backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())
    assert model.training
    model.register_forward_hook(lambda *_: calls.append(1))
    none = ENOUGH.model_copy(update={"steps": 0})
    loss(step(model, data, THREAT, none, draws(), loss_options(name)))
    assert len(calls) == LOSSES[name].passes


def test_the_divergence_is_the_textbook_sum() -> None:
    first, second = torch.randn(2, 5, 3, generator=draws(7), dtype=torch.float64)
    expected = [
        sum(p * math.log(p / q) for p, q in zip(ps, qs, strict=True))
        for ps, qs in zip(by_hand(first), by_hand(second), strict=True)
    ]
    torch.testing.assert_close(divergence(first, second), torch.tensor(expected).double())


def trades(beta: float) -> LossOptions:
    return loss_options({"name": "trades", "beta": beta})


@pytest.mark.parametrize("beta", [0.0, 1.0, 6.0])
def test_trades_is_clean_loss_plus_beta_times_divergence(beta: float) -> None:
    model, data = linear_model(), batch(0.2, 0.8)
    threat = Threat("linf", EPSILON)
    found = trades_loss(step(model, data, threat, ENOUGH, draws(), trades(beta)))
    clean = model(data.x)
    target = clean.detach()
    x = training_examples(
        step(model, data, threat, ENOUGH, draws()),
        lambda logits, _: divergence(target, logits),
    )
    ps, qs = by_hand(clean), by_hand(model(x))
    penalty = sum(
        p * math.log(p / q) for a, b in zip(ps, qs, strict=True) for p, q in zip(a, b, strict=True)
    ) / len(data.y)
    expected = F.cross_entropy(clean, data.y).item() + beta * penalty
    assert found.loss.item() == pytest.approx(expected, rel=1e-9)
    assert penalty > 0.01, "the attack found nothing"


def test_trades_attacks_the_divergence_and_not_the_label() -> None:
    """With wrong labels the cross-entropy would lead back to the true class."""
    model, data = linear_model(), batch(0.3, 0.7)
    threat = Threat("linf", EPSILON)
    values = []
    for y in (data.y, 1 - data.y):
        here = step(model, Batch(data.x, y), threat, ENOUGH, draws(), trades(1e6))
        values.append(trades_loss(here).loss.item())
    assert values[0] == pytest.approx(values[1], rel=1e-3)


@pytest.mark.parametrize("weight", [0.0, 5.0])
def test_mart_is_boosted_loss_plus_doubted_divergence(weight: float) -> None:
    model, data = linear_model(), batch(0.2, 0.8)
    threat = Threat("linf", EPSILON)
    found = mart_loss(
        step(model, data, threat, ENOUGH, draws(), loss_options({"name": "mart", "weight": weight}))
    )
    x = training_examples(step(model, data, threat, ENOUGH, draws()))
    clean, adversarial = by_hand(model(data.x)), by_hand(model(x))
    total = 0.0
    for ps, qs, y in zip(clean, adversarial, data.y.tolist(), strict=True):
        others = max(q for k, q in enumerate(qs) if k != y)
        kl = sum(p * math.log(p / q) for p, q in zip(ps, qs, strict=True))
        total += -math.log(qs[y]) - math.log(1 - others) + weight * kl * (1 - ps[y])
    assert found.loss.item() == pytest.approx(total / len(data.y), rel=1e-9)
