"""Per-image outcomes: closed forms of linear models, invariants, and attacks that cheat."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from rugged import uneven_model
from torch import Tensor, nn

from arnas.attacks.registry import ATTACKS, AttackEntry
from arnas.attacks.threat import Threat
from arnas.evaluation.checks.run import box_and_ball
from arnas.evaluation.whitebox import Evaluation, evaluate, predict
from arnas.runtime.progress import silent

Run = Callable[..., Tensor]
SIDE = 4
THREAT = Threat("linf", 0.05)


def draws(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(count: int, low: float = 0.2, high: float = 0.8, seed: int = 0) -> Tensor:
    """Return images in float64; by default no budget used here reaches the box."""
    unit = torch.rand(count, 1, SIDE, SIDE, generator=draws(seed), dtype=torch.float64)
    return low + (high - low) * unit


def linear_model(classes: int = 2) -> nn.Sequential:
    """Return a linear model in float64 that splits the images about evenly."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(SIDE**2, classes)).double()
    with torch.no_grad():
        weight = torch.randn(classes, SIDE**2, generator=draws(1), dtype=torch.float64)
        model[1].weight.copy_(weight)
        model[1].bias.copy_(-weight.sum(1) / 2)
    return model.train()


def rugged_case(count: int) -> tuple[nn.Sequential, Tensor, Tensor]:
    """Return the model, images and labels of which every fifth is wrong."""
    model, x = uneven_model(SIDE**2), pictures(count)
    y = predict(model, x, count)
    y[::5] = (y[::5] + 1) % 3
    return model, x, y


def evaluation(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *attacks: str,
    threat: Threat = THREAT,
    limit: int = 1000,
    batch_size: int = 64,
    seed: int = 0,
) -> Evaluation:
    return evaluate(
        model, x, y, threat, attacks, limit=limit, batch_size=batch_size, seed=seed, report=silent
    )


def outcomes(
    model: nn.Module, x: Tensor, y: Tensor, *attacks: str, **settings: Any
) -> dict[str, Tensor]:
    return evaluation(model, x, y, *attacks, **settings).outcomes


def plug(monkeypatch: pytest.MonkeyPatch, run: Run, name: str = "fgsm", limited: bool = False):
    """Put another attack under a name of the registry."""
    monkeypatch.setitem(ATTACKS, name, AttackEntry(run, "a test", "a test", limited))


def unharmed(model: nn.Module, x: Tensor, y: Tensor, threat: Threat, unit: Tensor) -> Tensor:
    return x.clone()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_linear_model_stands_where_its_margin_is_wide_enough(norm: str) -> None:
    """The worst point costs epsilon times the dual norm of the difference of both rows."""
    model, x = linear_model(), pictures(200)
    y = torch.arange(200) % 2
    threat = Threat(norm, 0.02 if norm == "linf" else 0.08)
    with torch.no_grad():
        logits = model(x)
        margin = (logits.gather(1, y[:, None]) - logits.gather(1, 1 - y[:, None])).flatten()
        towards = model[1].weight[0] - model[1].weight[1]
        cost = threat.epsilon * towards.norm(p=1 if norm == "linf" else 2)
    clean, robust = margin > 0, margin - cost > 0
    assert 20 < int(robust.sum()) < int(clean.sum()) - 20
    assert (margin - cost).abs().min() > 1e-6, "no image may hang on rounding"
    found = outcomes(model, x, y, "fgsm", "pgd20", "pgd100", threat=threat)
    assert list(found) == ["clean", "fgsm", "pgd20", "pgd100"]
    assert torch.equal(found["clean"].bool(), clean)
    for name in ("fgsm", "pgd20", "pgd100"):
        assert torch.equal(found[name].bool(), robust)


def test_outcomes_are_flags_in_the_order_of_the_attacks() -> None:
    found = outcomes(linear_model(), pictures(5), torch.zeros(5).long(), "pgd20", "fgsm")
    assert list(found) == ["clean", "pgd20", "fgsm"]
    assert all(flags.dtype == torch.uint8 and flags.shape == (5,) for flags in found.values())
    assert all(set(flags.tolist()) <= {0, 1} for flags in found.values())


def test_clean_outcomes_are_plain_predictions() -> None:
    model, x = uneven_model(SIDE**2), pictures(50)
    y = torch.arange(50) % 3
    with torch.no_grad():
        expected = model.eval()(x).argmax(1)
    assert torch.equal(predict(model, x, 7), expected)
    assert torch.equal(outcomes(model, x, y)["clean"].bool(), expected == y)


def test_no_image_stands_that_is_wrong_when_clean_or_fell_to_fewer_steps() -> None:
    """PGD-100 goes on where PGD-20 stopped, so it breaks the same images and more."""
    model, x, y = rugged_case(60)
    found = outcomes(model, x, y, "fgsm", "pgd20", "pgd100", threat=Threat("linf", 0.1))
    for name in ("fgsm", "pgd20", "pgd100"):
        assert bool((found[name] <= found["clean"]).all())
    assert bool((found["pgd100"] <= found["pgd20"]).all())
    counts = [int(found[name].sum()) for name in ("pgd100", "pgd20", "clean")]
    assert 0 < counts[0] < counts[1] < counts[2], "the case must be one where steps matter"


def test_outcomes_do_not_depend_on_the_batch() -> None:
    """Nor on the images that stand beside: the first 40 have the same outcomes alone."""
    model, x, y = rugged_case(60)
    threat = Threat("linf", 0.1)
    whole = outcomes(model, x, y, "fgsm", "pgd20", threat=threat, batch_size=1000)
    for size in (1, 7):
        parts = outcomes(model, x, y, "fgsm", "pgd20", threat=threat, batch_size=size)
        assert all(torch.equal(parts[name], whole[name]) for name in whole)
    first = outcomes(model, x[:40], y[:40], "fgsm", "pgd20", threat=threat)
    assert all(torch.equal(first[name], whole[name][:40]) for name in whole)
    other = outcomes(model, x, y, "pgd20", threat=threat, seed=1)
    assert not torch.equal(other["pgd20"], whole["pgd20"]), "the case must depend on the start"


def test_random_numbers_belong_to_the_image_and_the_seed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not to the batch, the attack or the other images attacked."""
    x, y = pictures(9), torch.zeros(9).long()
    first = linear_model()
    with torch.no_grad():
        first[1].bias.copy_(torch.tensor([100.0, 0.0]))
    drawn: dict[object, Tensor] = {}

    def record(key: object) -> Run:
        def run(model: nn.Module, part: Tensor, *rest: object) -> Tensor:
            units = rest[-1]
            assert units.shape == part.shape
            assert units.dtype == part.dtype
            for image, unit in zip(part, units, strict=True):
                drawn[key, int((x == image).flatten(1).all(1).nonzero())] = unit
            return part

        return run

    for key, name, size, seed in (
        ("a", "fgsm", 9, 0),
        ("b", "pgd20", 2, 0),
        ("c", "fgsm", 9, 1),
    ):
        plug(monkeypatch, record(key), name)
        outcomes(first, x, y, name, batch_size=size, seed=seed)
    for image in range(9):
        assert torch.equal(drawn["a", image], drawn["b", image])
        assert not torch.equal(drawn["a", image], drawn["c", image])
        assert not torch.equal(drawn["a", image], drawn["a", (image + 1) % 9])


def test_only_images_that_stand_are_attacked(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = linear_model(), pictures(30)
    y = torch.arange(30) % 2
    seen: list[Tensor] = []

    def run(model: nn.Module, x: Tensor, *rest: object) -> Tensor:
        seen.append(x)
        return x

    plug(monkeypatch, run)
    found = outcomes(model, x, y, "fgsm", batch_size=4)
    assert torch.equal(torch.cat(seen), x[found["clean"].bool()])
    assert all(len(part) <= 4 for part in seen)
    assert torch.equal(found["fgsm"], found["clean"])


@pytest.mark.parametrize(("limit", "expected"), [(7, 7), (20, 20), (1000, 20)])
def test_a_limited_attack_runs_on_the_first_images(
    limit: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, x = linear_model(), pictures(20)
    y = predict(model, x, 20)
    seen: list[Tensor] = []

    def run(model: nn.Module, x: Tensor, *rest: object) -> Tensor:
        seen.append(x)
        return x

    plug(monkeypatch, run, "autoattack", limited=True)
    found = outcomes(model, x, y, "autoattack", "fgsm", limit=limit)
    assert torch.equal(torch.cat(seen), x[:expected])
    assert found["autoattack"].shape == (expected,)
    assert found["clean"].shape == found["fgsm"].shape == (20,)


def test_the_expensive_attack_is_the_limited_one() -> None:
    assert {name for name, entry in ATTACKS.items() if entry.limited} == {"autoattack"}


def beyond(factor: float) -> Run:
    """Return an attack that moves every pixel by a multiple of epsilon."""

    def run(model: nn.Module, x: Tensor, y: Tensor, threat: Threat, unit: Tensor) -> Tensor:
        return x + factor * threat.epsilon

    return run


def one_pixel(factor: float) -> Run:
    """Return an attack that moves one pixel of one image."""

    def run(model: nn.Module, x: Tensor, y: Tensor, threat: Threat, unit: Tensor) -> Tensor:
        x_adv = x.clone()
        x_adv[-1, 0, 0, 0] -= factor * threat.epsilon
        return x_adv

    return run


def not_a_number(model: nn.Module, x: Tensor, *rest: object) -> Tensor:
    x_adv = x.clone()
    x_adv[0, 0, 0, 0] = torch.nan
    return x_adv


@pytest.mark.parametrize(
    ("run", "norm", "low", "high"),
    [
        (beyond(1.001), "linf", 0.2, 0.8),
        (one_pixel(1.001), "linf", 0.2, 0.8),
        (one_pixel(1.001), "l2", 0.2, 0.8),
        (beyond(0.3), "l2", 0.2, 0.8),
        (beyond(0.5), "linf", 0.99, 1.0),
        (one_pixel(0.5), "linf", 0.0, 0.01),
        (not_a_number, "linf", 0.2, 0.8),
    ],
    ids=["ball", "pixel", "pixel_l2", "ball_l2", "above_1", "below_0", "nan"],
)
def test_an_attack_that_cheats_fails_its_check(
    run: Run, norm: str, low: float, high: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when it comes first and an honest attack after it, batch by batch."""
    plug(monkeypatch, run)
    model, x = linear_model(), pictures(6, low, high)
    y = predict(model, x, 6)
    threat = Threat(norm, 0.05)
    found = evaluation(model, x, y, "fgsm", "pgd20", threat=threat, batch_size=2)
    assert box_and_ball(found.witness).status == "FAIL"
    assert box_and_ball(evaluation(model, x, y, "pgd20", threat=threat).witness).status == "PASS"


@pytest.mark.parametrize(
    ("run", "norm"),
    [(beyond(1.0), "linf"), (one_pixel(1.0), "l2"), (beyond(0.25), "l2")],
    ids=["ball", "pixel_l2", "ball_l2"],
)
def test_an_attack_on_the_edge_of_the_ball_is_none(
    run: Run, norm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of sixteen pixels each may move by a quarter of an L2 budget."""
    plug(monkeypatch, run)
    model, x = linear_model(), pictures(6)
    found = evaluation(model, x, predict(model, x, 6), "fgsm", threat=Threat(norm, 0.05))
    assert found.witness.examples == 6
    assert abs(found.witness.excess) < 1e-9, "the case must be one on the edge"
    assert box_and_ball(found.witness).status == "PASS"


def test_an_example_is_judged_by_a_forward_pass_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What the attack believes does not matter; on a linear model half the moves do no harm."""
    plug(monkeypatch, beyond(0.9))
    model, x = linear_model(), pictures(100)
    y = torch.arange(100) % 2
    found = outcomes(model, x, y, "fgsm")
    expected = (predict(model, x, 100) == y) & (predict(model, x + 0.9 * 0.05, 100) == y)
    assert torch.equal(found["fgsm"].bool(), expected)
    assert 0 < int(expected.sum()) < int(found["clean"].sum())


def test_the_model_is_left_as_it_was() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout(), nn.Flatten(), nn.Linear(8, 3)
    ).double()
    model.train()
    model[2].eval()
    model[0].weight.requires_grad_(False)
    model[4].weight.grad = torch.ones_like(model[4].weight)

    def everything() -> object:
        return (
            {name: value.numpy().tobytes() for name, value in model.state_dict().items()},
            [module.training for module in model.modules()],
            [p.requires_grad for p in model.parameters()],
            [None if p.grad is None else p.grad.numpy().tobytes() for p in model.parameters()],
        )

    before = everything()
    outcomes(model, pictures(12), torch.arange(12) % 3, "fgsm", "pgd20")
    assert everything() == before


def test_a_report_is_made_after_every_attack(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = linear_model(), pictures(8)
    y = predict(model, x, 8)
    y[0] = 1 - y[0]
    plug(monkeypatch, unharmed)
    plug(monkeypatch, unharmed, "autoattack", limited=True)
    said: list[tuple[int, int, str]] = []
    evaluate(
        model,
        x,
        y,
        THREAT,
        ["fgsm", "autoattack"],
        limit=4,
        batch_size=3,
        seed=0,
        report=lambda *words: said.append(words),
    )
    assert said == [
        (1, 3, "clean 87.5 % of 8"),
        (2, 3, "fgsm 87.5 % of 8"),
        (3, 3, "autoattack 75.0 % of 4"),
    ]


@pytest.mark.parametrize("name", ["fgsm", "pgd20"])
def test_a_model_that_is_always_wrong_has_no_image_to_attack(name: str) -> None:
    model, x = linear_model(), pictures(5)
    found = outcomes(model, x, 1 - predict(model, x, 5), "fgsm", name)
    assert all(int(flags.sum()) == 0 and len(flags) == 5 for flags in found.values())


def test_entries_of_the_registry_say_what_they_do() -> None:
    for entry in ATTACKS.values():
        assert entry.settings
        assert entry.citation
        assert dataclasses.is_dataclass(entry)
