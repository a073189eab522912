"""Both stages of the search on a handful of images."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any, NamedTuple, get_args

import pytest
import torch
from loop_cases import (
    ADVERSARIAL,
    BATCH,
    DATA,
    MULTIOBJECTIVE,
    ONE_STEP,
    OPTIONS,
    SCALE,
    STEPS,
    THREAT,
    fresh,
    images,
    search,
    state_bits,
    table_bits,
    task,
    weight_bits,
)
from torch import Tensor
from torch.nn import functional as F

from arnas.data.batches import Batch
from arnas.runtime.progress import silent
from arnas.search import loop, step
from arnas.search.derive import count_skips, derive_genotype
from arnas.search.gradients import ArchitectureGradient
from arnas.search.loop import cosine_rate, run_stage
from arnas.search.options import AlphaOptions, Combine, SupernetOptions, WeightOptions
from arnas.search.state import SearchState
from arnas.search.step import COMBINATIONS, StagePlan
from arnas.spaces.genotype import genotype_from_json

FIRST_ORDER = StagePlan("multiobjective", 1, "first", "min_norm")
WARMUP = StagePlan("adversarial", 1, "first", "adversarial", warmup_epochs=1)
PLAIN_WEIGHTS = WeightOptions(
    learning_rate=0.1, momentum=0.0, weight_decay=0.0, gradient_clip=1e9, schedule_epochs=4
)


class Searched(NamedTuple):
    state: SearchState
    rows: list[dict[str, Any]]
    said: list[tuple[int, int, str]]


@pytest.fixture(scope="module")
def searched() -> Searched:
    """Both stages of one epoch each, one after the other."""
    state, said = fresh(), []
    rows = []
    for plan in (ADVERSARIAL, MULTIOBJECTIVE):
        rows += run_stage(state, task(plan), lambda *words: said.append(words))
    return Searched(state, rows, said)


class AttackCall(NamedTuple):
    x: Tensor
    y: Tensor
    x_adv: Tensor
    settings: dict[str, Any]


@pytest.fixture
def attacks(monkeypatch: pytest.MonkeyPatch) -> list[AttackCall]:
    """Record every attack of a search."""
    calls: list[AttackCall] = []
    real = loop.pgd

    def spy(model: Any, x: Tensor, y: Tensor, threat: Any, **settings: Any) -> Tensor:
        assert threat == THREAT
        x_adv = real(model, x, y, threat, **settings)
        calls.append(AttackCall(x, y, x_adv, settings))
        return x_adv

    monkeypatch.setattr(loop, "pgd", spy)
    return calls


class GradientCall(NamedTuple):
    train: Batch
    validation: dict[str, Batch]
    order: str


def fake_gradient(name: str, kinds: int = 3) -> Tensor:
    """Return a gradient in which every entry of every table is another number."""
    numbers = torch.arange(1.0, kinds * 98 + 1)
    return numbers.cos() if name == "natural" else numbers.sin() + 0.5


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[GradientCall]:
    """Replace the architecture gradients by known ones and record what was asked for."""
    calls: list[GradientCall] = []

    def fake(
        supernet: Any,
        optimiser: Any,
        train: Batch,
        validation: dict[str, Batch],
        order: str,
        radius: float,
    ) -> dict[str, ArchitectureGradient]:
        assert radius == 0.01
        calls.append(GradientCall(train, validation, order))
        return {name: ArchitectureGradient(fake_gradient(name), 1.5) for name in validation}

    monkeypatch.setattr(step, "architecture_gradients", fake)
    return calls


def test_the_trajectory_has_the_tables_before_and_after_every_epoch(searched: Searched) -> None:
    trajectory = searched.state.trajectory
    assert len(trajectory) == 3
    assert searched.state.epochs == 2
    for tables in trajectory:
        assert {kind: tuple(t.shape) for kind, t in tables.items()} == dict.fromkeys(
            ("accurate", "reduction", "robust"), (14, 7)
        )
    for kind, table in searched.state.supernet.tables().items():
        assert torch.equal(trajectory[0][kind], fresh().supernet.tables()[kind])
        assert torch.equal(trajectory[2][kind], table)
        assert not torch.equal(trajectory[0][kind], trajectory[1][kind])
        assert not torch.equal(trajectory[1][kind], trajectory[2][kind])


def test_a_gamma_is_kept_for_every_architecture_step(searched: Searched) -> None:
    gammas = searched.state.gammas
    assert len(gammas) == 2 * STEPS
    assert all(math.isnan(gamma) for gamma in gammas[:STEPS])
    assert all(0 <= gamma <= 1 for gamma in gammas[STEPS:])


def test_a_row_tells_what_the_epoch_was(searched: Searched) -> None:
    first, second = searched.rows
    assert [row["stage"] for row in searched.rows] == ["adversarial", "multiobjective"]
    assert [row["epoch"] for row in searched.rows] == [1, 2]
    assert [row["learning_rate"] for row in searched.rows] == [
        cosine_rate(epoch, OPTIONS) for epoch in (0, 1)
    ]
    assert first["gamma"] is None
    assert first["natural_loss"] is None
    assert first["cosine"] is None
    assert second["gamma"] == pytest.approx(sum(searched.state.gammas[STEPS:]) / STEPS)
    assert -1 <= second["cosine"] <= 1
    for row in searched.rows:
        assert row["train_loss"] > 0
        assert row["adversarial_loss"] > 0
        assert row["train_accuracy"] in (0, 12.5, 25, 37.5, 50, 62.5, 75, 87.5, 100)
        assert json.loads(json.dumps(row)) == row


def test_a_row_tells_what_the_tables_look_like(searched: Searched) -> None:
    for row, tables in zip(searched.rows, searched.state.trajectory[1:], strict=True):
        genotype = derive_genotype(tables, "an epoch")
        read = genotype_from_json({"cells": row["genotype"]}, "a row")
        assert read.cells == genotype.cells
        assert row["skips"] == count_skips(genotype)
        for kind, table in tables.items():
            share = table.double().softmax(1)
            entropy = -(share * share.log()).sum(1).mean().item()
            assert row["entropy"][kind] == pytest.approx(entropy, abs=1e-6)
            assert entropy <= math.log(7)


def test_a_report_is_made_after_every_epoch(searched: Searched) -> None:
    assert [words[:2] for words in searched.said] == [(1, 1), (1, 1)]
    for row, words in zip(searched.rows, searched.said, strict=True):
        skips = row["skips"]
        assert f", skips {skips['accurate']}+{skips['robust']}" in words[2]
        assert words[2].startswith(f"adversarial loss {row['train_loss']:.3f}")
    assert "gamma" not in searched.said[0][2]
    assert f"gamma {searched.rows[1]['gamma']:.2f}" in searched.said[1][2]


def test_statistics_are_learnt_from_weight_batches_only(searched: Searched) -> None:
    """Neither attacks nor architecture gradients count as batches seen."""
    counts = {
        int(value)
        for name, value in searched.state.supernet.named_buffers()
        if name.endswith("num_batches_tracked")
    }
    assert counts == {2 * STEPS}


def test_the_seed_and_nothing_else_decides() -> None:
    """From the same beginning, batches and attacks follow the seed, not what was drawn before."""
    first = search(FIRST_ORDER, data=ONE_STEP)
    torch.manual_seed(99)
    torch.rand(7)
    assert state_bits(search(FIRST_ORDER, data=ONE_STEP)) == state_bits(first)
    other = search(FIRST_ORDER, data=ONE_STEP, seed=1)
    assert table_bits(other) != table_bits(first)
    assert weight_bits(other) != weight_bits(first)


def test_warmup_moves_the_weights_only() -> None:
    state = fresh()
    before = table_bits(state), weight_bits(state)
    plan = dataclasses.replace(FIRST_ORDER, epochs=2, warmup_epochs=1)
    rows = run_stage(state, task(plan), silent)
    assert {k: v.numpy().tobytes() for k, v in state.trajectory[1].items()} == before[0]
    assert table_bits(state) != before[0]
    assert rows[0]["gamma"] is rows[0]["natural_loss"] is rows[0]["adversarial_loss"] is None
    assert rows[0]["train_loss"] > 0
    assert len(state.gammas) == STEPS
    assert all(a != b for a, b in zip(weight_bits(state), before[1], strict=True))


def test_the_weights_never_see_validation_images() -> None:
    other = ONE_STEP._replace(validation=images(7, (2, 3), 77))
    assert weight_bits(search(WARMUP, data=ONE_STEP)) == weight_bits(search(WARMUP, data=other))


def test_a_first_order_step_never_sees_training_images() -> None:
    """One step from the same weights: the tables follow the validation images alone."""
    other = ONE_STEP._replace(train=images(4, (0, 1), 4))
    first, second = search(FIRST_ORDER, data=ONE_STEP), search(FIRST_ORDER, data=other)
    assert table_bits(first) == table_bits(second)
    assert weight_bits(first) != weight_bits(second)


def test_attacks_alternate_between_training_and_validation(attacks: list[AttackCall]) -> None:
    """Labels below 2 are those of training images, the others those of validation images."""
    search(FIRST_ORDER)
    assert len(attacks) == 2 * STEPS
    for number, call in enumerate(attacks):
        assert bool((call.y < 2).all()) if number % 2 == 0 else bool((call.y >= 2).all())
        assert call.x.shape == (BATCH, 1, 8, 8)
        assert float((call.x_adv - call.x).abs().max()) <= THREAT.epsilon + 1e-6
        assert not torch.equal(call.x_adv, call.x)
    assert not torch.equal(attacks[1].x, attacks[3].x), "every step draws its own images"


def test_attacks_have_the_settings_and_random_numbers_of_their_own(
    attacks: list[AttackCall],
) -> None:
    attack = OPTIONS.attack.model_copy(
        update={"steps": 0, "clip": False, "batch_norm": "eval", "step_size": "4/255"}
    )
    plan = dataclasses.replace(FIRST_ORDER, epochs=2)
    search(plan, data=ONE_STEP, options=OPTIONS.model_copy(update={"attack": attack}))
    noise = [call.x_adv - call.x for call in attacks]
    assert len(noise) == 4, "training and validation, twice"
    assert all(not torch.allclose(a, b) for i, a in enumerate(noise) for b in noise[:i])
    for call in attacks:
        assert call.settings["steps"] == 0
        assert call.settings["step_size"] == pytest.approx(4 / 255)
        assert call.settings["keep"] == "last"
        assert call.settings["batch_norm"] == "eval"
        assert call.settings["clip"] is False


def test_a_validation_batch_holds_different_images() -> None:
    """As many as a batch, or all there are."""
    found = loop._validation_batch(task(FIRST_ORDER), ("a purpose",))
    assert len(found.x.flatten(1).unique(dim=0)) == BATCH
    few = DATA._replace(validation=images(3, (2, 3), 5))
    options = OPTIONS.model_copy(update={"augment": type(OPTIONS.augment)()})
    batch = loop._validation_batch(task(FIRST_ORDER, data=few, options=options), ("a purpose",))
    expected = few.validation.images.float() / SCALE
    assert {x.numpy().tobytes() for x in batch.x} == {x.numpy().tobytes() for x in expected}


@pytest.mark.parametrize("combine", COMBINATIONS)
def test_gradients_are_asked_for_what_the_combination_needs(
    combine: str, asked: list[GradientCall], attacks: list[AttackCall]
) -> None:
    """The training batch is the one attacked for the weights; objectives share their images."""
    search(StagePlan("a stage", 1, "second", combine), data=ONE_STEP)
    objectives = COMBINATIONS[combine].objectives
    training = [call for call in attacks if bool((call.y < 2).all())]
    assert len(asked) == len(training) == 1
    for call, attack in zip(asked, training, strict=True):
        assert call.order == "second"
        assert torch.equal(call.train.x, attack.x_adv)
        assert torch.equal(call.train.y, attack.y)
        assert tuple(call.validation) == objectives
        assert all(bool((batch.y >= 2).all()) for batch in call.validation.values())
    attacked = {id(call.x_adv): call for call in attacks}
    if "adversarial" in objectives:
        assert all(id(call.validation["adversarial"].x) in attacked for call in asked)
    else:
        assert len(attacks) == 1, "natural images need no attack"
    if len(objectives) == 2:
        for call in asked:
            origin = attacked[id(call.validation["adversarial"].x)]
            assert torch.equal(origin.x, call.validation["natural"].x)


@pytest.mark.parametrize("combine", COMBINATIONS)
def test_the_tables_take_adam_s_step_along_the_weighted_combination(
    combine: str, asked: list[GradientCall]
) -> None:
    alphas = AlphaOptions(learning_rate=0.02, beta1=0.3, beta2=0.9, weight_decay=0.1)
    options = OPTIONS.model_copy(update={"alphas": alphas})
    plan = StagePlan("a stage", 1, "first", combine, adversarial_weight=0.2)
    state = fresh(options=options)
    expected = {k: torch.nn.Parameter(v) for k, v in state.supernet.tables().items()}
    run_stage(state, task(plan, data=ONE_STEP, options=options), silent)
    natural, adversarial = fake_gradient("natural"), 0.2 * fake_gradient("adversarial")
    share = float(adversarial @ (adversarial - natural) / (adversarial - natural).square().sum())
    share = min(max(share, 0.0), 1.0)
    direction = {
        "min_norm": share * natural + (1 - share) * adversarial,
        "sum": natural + adversarial,
        "adversarial": adversarial,
        "natural": natural,
    }[combine]
    adam = torch.optim.Adam(expected.values(), lr=0.02, betas=(0.3, 0.9), weight_decay=0.1)
    for parameter, part in zip(expected.values(), direction.split(98), strict=True):
        parameter.grad = part.view(14, 7)
    adam.step()
    for kind, table in state.supernet.tables().items():
        torch.testing.assert_close(table, expected[kind].detach(), rtol=0, atol=1e-6)
    assert len(asked) == 1
    gamma = state.gammas[0]
    assert gamma == pytest.approx(share, abs=1e-5) if combine == "min_norm" else math.isnan(gamma)


def test_the_weights_take_sgd_s_step_on_adversarial_examples(attacks: list[AttackCall]) -> None:
    """LossAndGrad of the mean cross-entropy in training mode, times the schedule's rate."""
    options = OPTIONS.model_copy(update={"weights": PLAIN_WEIGHTS})
    state, supernet = fresh(options=options), fresh(options=options).supernet.train()
    run_stage(state, task(WARMUP, data=ONE_STEP, options=options), silent)
    loss = F.cross_entropy(supernet(attacks[0].x_adv), attacks[0].y)
    slopes = torch.autograd.grad(loss, supernet.weights())
    for found, before, slope in zip(
        state.supernet.weights(), supernet.weights(), slopes, strict=True
    ):
        torch.testing.assert_close(found, before - 0.1 * slope, rtol=0, atol=1e-6)


def test_combinations_are_those_the_settings_allow() -> None:
    assert tuple(COMBINATIONS) == get_args(Combine)


def test_the_learning_rate_is_half_a_cosine() -> None:
    weights = WeightOptions(learning_rate=0.5, final_learning_rate=0.1, schedule_epochs=8)
    options = SupernetOptions(weights=weights)
    found = [cosine_rate(epoch, options) for epoch in (0, 2, 4, 6, 8, 100)]
    root = math.sqrt(0.5)
    expected = [0.5, 0.3 + 0.2 * root, 0.3, 0.3 - 0.2 * root, 0.1, 0.1]
    assert found == pytest.approx(expected, rel=1e-12)


def lean_towards_skips(state: SearchState, *kinds: str) -> None:
    with torch.no_grad():
        for kind in kinds:
            state.supernet.alphas[kind][:, 2] = 5.0


@pytest.mark.parametrize(
    ("kinds", "warning"),
    [
        (("accurate",), "WARNING: accurate cell collapses to skip connections"),
        (("robust", "accurate"), "WARNING: accurate and robust cell collapses to skip"),
        (("reduction",), None),
    ],
)
def test_a_collapse_is_said_aloud(kinds: tuple[str, ...], warning: str | None) -> None:
    """In warm-up, where the tables keep the values that are given here."""
    state, said = fresh(), []
    lean_towards_skips(state, *kinds)
    rows = run_stage(state, task(WARMUP, data=ONE_STEP), lambda *words: said.append(words[2]))
    assert rows[0]["collapsed"] == ([] if warning is None else sorted(kinds))
    assert ("WARNING" in said[0]) == (warning is not None)
    assert warning is None or warning in said[0]
    assert all(rows[0]["skips"][kind] == 8 for kind in kinds)
