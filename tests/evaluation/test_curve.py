"""Accuracy against epsilon: closed forms of linear models, and a curve that never rises."""

from __future__ import annotations

import pytest
import torch
from rugged import uneven_model
from torch import Tensor, nn

from arnas.attacks.registry import ATTACKS, AttackEntry
from arnas.attacks.threat import Threat
from arnas.evaluation.checks.run import box_and_ball
from arnas.evaluation.whitebox import accuracy_curve, evaluate, predict
from arnas.runtime.progress import silent

SIDE = 4


def draws(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(count: int, low: float = 0.2, high: float = 0.8) -> Tensor:
    unit = torch.rand(count, 1, SIDE, SIDE, generator=draws(0), dtype=torch.float64)
    return low + (high - low) * unit


def linear_model() -> nn.Sequential:
    """Return a linear model of two classes in float64 that splits the images about evenly."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(SIDE**2, 2)).double()
    with torch.no_grad():
        weight = torch.randn(2, SIDE**2, generator=draws(1), dtype=torch.float64)
        model[1].weight.copy_(weight)
        model[1].bias.copy_(-weight.sum(1) / 2)
    return model


def threats(norm: str, *budgets: float) -> list[Threat]:
    return [Threat(norm, budget) for budget in budgets]


def curve(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    along: list[Threat],
    attack: str = "pgd20",
    batch_size: int = 64,
    seed: int = 0,
) -> Tensor:
    rows, _ = accuracy_curve(
        model, x, y, along, attack=attack, batch_size=batch_size, seed=seed, report=silent
    )
    return rows


def standing_in_theory(model: nn.Sequential, x: Tensor, y: Tensor, along: list[Threat]) -> Tensor:
    """Return who withstands the worst point of the ball and the box, in closed form.

    For linf the worst pixel is as far as ball and box let it go; for L2 the images must be so far
    from the box that it does not matter.
    """
    with torch.no_grad():
        logits = model(x)
        margin = (logits.gather(1, y[:, None]) - logits.gather(1, 1 - y[:, None])).flatten()
        towards = (model[1].weight[1 - y] - model[1].weight[y]).view_as(x)
        rows = []
        for threat in along:
            if threat.norm == "linf":
                up, down = (1 - x).clamp_max(threat.epsilon), x.clamp_max(threat.epsilon)
                gain = torch.where(towards > 0, up, down) * towards.abs()
                cost = gain.flatten(1).sum(1)
            else:
                cost = threat.epsilon * towards.flatten(1).norm(dim=1)
            assert (margin - cost).abs().min() > 1e-6, "no image may hang on rounding"
            rows.append(margin > cost)
    return torch.stack(rows)


@pytest.mark.parametrize(
    ("norm", "budgets", "low"),
    [
        ("linf", (0, 0.01, 0.02, 0.04, 0.08), 0.2),
        ("linf", (0.005, 0.03, 0.15, 0.6, 1), 0.0),
        ("l2", (0, 0.02, 0.05, 0.1), 0.2),
    ],
    ids=["linf", "linf_at_the_box", "l2"],
)
def test_a_linear_model_stands_where_its_margin_is_wide_enough(
    norm: str, budgets: tuple[float, ...], low: float
) -> None:
    """Budget by budget, image by image."""
    model, x = linear_model(), pictures(150, low, 1 - low)
    y = torch.arange(150) % 2
    along = threats(norm, *budgets)
    expected = standing_in_theory(model, x, y, along)
    found = curve(model, x, y, along)
    assert found.dtype == torch.uint8
    assert torch.equal(found.bool(), expected)
    counts = expected.sum(1).tolist()
    assert len(set(counts)) >= 4, "the budgets must tell images apart"


def test_without_a_budget_the_curve_starts_at_the_clean_accuracy() -> None:
    model, x = uneven_model(SIDE**2), pictures(40)
    y = torch.arange(40) % 3
    clean = predict(model, x, 40) == y
    assert 0 < int(clean.sum()) < 40
    assert torch.equal(curve(model, x, y, threats("linf", 0))[0].bool(), clean)
    assert torch.equal(curve(model, x, y, threats("l2", 0, 0.01))[0].bool(), clean)


def test_where_every_image_is_allowed_none_stands() -> None:
    model, x = linear_model(), pictures(40, 0.0, 1.0)
    y = predict(model, x, 40)
    assert curve(model, x, y, threats("linf", 1)).tolist() == [[0] * 40]


def test_no_curve_rises_even_where_the_attack_gets_weaker() -> None:
    """FGSM by itself is weaker at some larger budgets: there its one step jumps over the hills."""
    model, x = uneven_model(SIDE**2), pictures(60)
    y = predict(model, x, 60)
    along = threats("linf", 0, 0.01, 0.03, 0.05, 0.1, 0.2, 0.3, 0.5, 1)
    alone = torch.stack(
        [
            evaluate(
                model, x, y, t, ["fgsm"], limit=60, batch_size=60, seed=0, report=silent
            ).outcomes["fgsm"]
            for t in along
        ]
    )
    assert bool((alone.diff(dim=0) == 1).any()), "the case must be one where a larger ball misleads"
    for attack in ("fgsm", "pgd20"):
        rows = curve(model, x, y, along, attack)
        assert bool((rows[1:] <= rows[:-1]).all())
    rows = curve(model, x, y, along, "fgsm")
    assert torch.equal(rows, alone.cummin(dim=0).values), "an image that has fallen stays down"


def test_only_images_that_still_stand_are_attacked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[float, Tensor] = {}
    real = ATTACKS["fgsm"].run

    def spy(model: nn.Module, x: Tensor, y: Tensor, threat: Threat, unit: Tensor) -> Tensor:
        seen[threat.epsilon] = x
        return real(model, x, y, threat, unit)

    monkeypatch.setitem(ATTACKS, "fgsm", AttackEntry(spy, "a test", "a test"))
    model, x = linear_model(), pictures(50)
    y = torch.arange(50) % 2
    rows = curve(model, x, y, threats("linf", 0.01, 0.03, 0.4, 0.5), "fgsm").bool()
    assert torch.equal(seen[0.01], x[predict(model, x, 50) == y])
    assert torch.equal(seen[0.03], x[rows[0]])
    assert torch.equal(seen[0.4], x[rows[1]])
    assert 0.5 not in seen, "all have fallen"
    assert int(rows[3].sum()) == 0


def test_the_curve_does_not_depend_on_the_batch() -> None:
    """Nor on how many images stand beside."""
    model, x = uneven_model(SIDE**2), pictures(40)
    y = predict(model, x, 40)
    along = threats("linf", 0.02, 0.05, 0.1)
    whole = curve(model, x, y, along, batch_size=1000)
    for size in (1, 7):
        assert torch.equal(curve(model, x, y, along, batch_size=size), whole)
    assert torch.equal(curve(model, x[:15], y[:15], along), whole[:, :15])
    assert not torch.equal(curve(model, x, y, along, seed=1), whole), "the start must matter"


def test_a_budget_s_attack_is_that_of_the_evaluation() -> None:
    """With the same random starts: the curve's value at epsilon is the table's accuracy."""
    model, x = uneven_model(SIDE**2), pictures(40)
    y = torch.arange(40) % 3
    threat = Threat("linf", 0.05)
    found = evaluate(
        model, x, y, threat, ["pgd20"], limit=40, batch_size=64, seed=3, report=silent
    ).outcomes["pgd20"]
    assert torch.equal(curve(model, x, y, [threat], seed=3)[0], found)


def test_an_attack_that_cheats_at_one_budget_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(model: nn.Module, x: Tensor, y: Tensor, threat: Threat, unit: Tensor) -> Tensor:
        return x + (0.011 if threat.epsilon == 0.01 else 0)

    monkeypatch.setitem(ATTACKS, "fgsm", AttackEntry(run, "a test", "a test"))
    model, x = linear_model(), pictures(20)
    y = predict(model, x, 20)
    for budgets, status in (((0.02, 0.03), "PASS"), ((0, 0.01, 0.03), "FAIL")):
        _, witness = accuracy_curve(
            model,
            x,
            y,
            threats("linf", *budgets),
            attack="fgsm",
            batch_size=8,
            seed=0,
            report=silent,
        )
        assert box_and_ball(witness).status == status


def test_every_budget_is_reported() -> None:
    model, x = linear_model(), pictures(8)
    y = predict(model, x, 8)
    y[0] = 1 - y[0]
    said: list[tuple[int, int, str]] = []
    accuracy_curve(
        model,
        x,
        y,
        threats("linf", 0, 1),
        attack="fgsm",
        batch_size=3,
        seed=0,
        report=lambda *words: said.append(words),
    )
    assert said == [
        (1, 2, "fgsm at epsilon 0: 87.5 % of 8"),
        (2, 2, "fgsm at epsilon 1: 0.0 % of 8"),
    ]
