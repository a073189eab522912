"""The training loop: schedule, checkpoints, statistics, determinism."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import json
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from training_cases import CLASSES, DATA, OPTIONS, SCALE, THREAT, bits, images, small_net, task

from arnas.attacks.threat import Threat
from arnas.data.splits import LabelledImages
from arnas.runtime.errors import UserError
from arnas.runtime.progress import silent
from arnas.training import loop, losses
from arnas.training.loop import (
    TrainingResult,
    TrainingTask,
    learning_rate,
    measure,
    training_threat,
)
from arnas.training.losses import LossValue, Step, natural_loss
from arnas.training.options import RetrainOptions, SelectionOptions

ONE_BATCH = DATA._replace(train=images(4, 3))
PLAIN = {"epochs": 1, "momentum": 0.0, "weight_decay": 0.0, "milestones": [], "gradient_clip": 1e9}


def run(model: nn.Module, what: TrainingTask) -> TrainingResult:
    return loop.train(model, what, silent)


def test_multistep_drops_to_a_tenth_at_each_milestone() -> None:
    options = RetrainOptions(learning_rate=0.8, milestones=[2, 3], epochs=5)
    found = [learning_rate(step, 4, options) for step in range(20)]
    assert found == pytest.approx([0.8] * 8 + [0.08] * 4 + [0.008] * 8, rel=1e-12)


def test_cosine_falls_from_the_full_rate_to_zero() -> None:
    options = RetrainOptions(learning_rate=0.8, schedule="cosine", milestones=[], epochs=5)
    root = math.sqrt(0.5)
    found = [learning_rate(step, 4, options) for step in (0, 5, 10, 15, 20)]
    expected = [0.8, 0.4 * (1 + root), 0.4, 0.4 * (1 - root), 0.0]
    assert found == pytest.approx(expected, abs=1e-15)
    assert learning_rate(19, 4, options) == pytest.approx(0.8 * math.sin(math.pi / 40) ** 2)


@pytest.mark.parametrize("schedule", ["multistep", "cosine"])
def test_warmup_rises_in_equal_steps_to_the_schedule(schedule: str) -> None:
    plain = RetrainOptions(learning_rate=0.7, schedule=schedule, milestones=[], epochs=5)
    warm = plain.model_copy(update={"warmup_epochs": 1.5})
    shares = [learning_rate(step, 4, warm) / learning_rate(step, 4, plain) for step in range(9)]
    assert shares == pytest.approx([k / 7 for k in range(1, 7)] + [1.0] * 3, rel=1e-12)


def script(monkeypatch: pytest.MonkeyPatch, pairs: list[tuple[float, float]]) -> list[bytes]:
    """Let the epochs have given (clean, robust) accuracies; return the weights after each.

    On the training images they fall from epoch to epoch whatever the script says.
    """
    seen: list[bytes] = []
    left = iter(pairs)
    falling = itertools.count(99, -1)

    def fake(
        model: nn.Module, part: LabelledImages, what: TrainingTask, name: str
    ) -> tuple[float, float]:
        if name == "train":
            rate = float(next(falling))
            return rate, rate
        assert name == "selection"
        assert part is what.data.val
        seen.append(bits(model.state_dict()))
        return next(left)

    monkeypatch.setattr(loop, "measure", fake)
    return seen


RISING = [(10, 90), (20, 80), (30, 70), (40, 60)]
"""Clean accuracy rises while robust accuracy falls."""
SELECTIONS: dict[str, tuple[dict[str, Any], list[tuple[float, float]], dict[str, int]]] = {
    "the_best": ({}, [(50, 10), (40, 30), (90, 20)], {"pgd": 2, "natural": 3}),
    "later_of_equals": (
        {},
        [(60, 30), (60, 30), (60, 30), (10, 10)],
        {"pgd": 3, "natural": 3},
    ),
    "the_other_accuracy_breaks_ties": (
        {},
        [(50, 30), (40, 30), (60, 20), (60, 10)],
        {"pgd": 1, "natural": 3},
    ),
    "the_last": ({}, [(1, 1), (2, 2)], {"pgd": 2, "natural": 2}),
    "the_first": ({}, [(2, 2), (1, 1)], {"pgd": 1, "natural": 1}),
    "clean_for_all": ({"by": "clean"}, RISING, {"pgd": 4, "natural": 4}),
    "robust_for_all": ({"by": "robust"}, RISING, {"pgd": 1, "natural": 1}),
    "early": ({"first_epoch": 2, "last_epoch": 3}, RISING, {"pgd": 2, "natural": 3}),
    "late": ({"first_epoch": 3}, RISING, {"pgd": 3, "natural": 4}),
    "one_epoch": ({"first_epoch": 3, "last_epoch": 3}, RISING, {"pgd": 3, "natural": 3}),
}
"""Rule, accuracies of the epochs and, by loss, the epoch whose checkpoint is selected."""


@pytest.mark.parametrize("loss", ["pgd", "natural"])
@pytest.mark.parametrize("name", SELECTIONS)
def test_the_rule_says_which_checkpoints_compete_and_by_what(
    name: str, loss: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rule, pairs, expected = SELECTIONS[name]
    seen = script(monkeypatch, pairs)
    selection = OPTIONS.selection.model_copy(update=rule)
    result = run(small_net(), task(loss, epochs=len(pairs), selection=selection))
    best = expected[loss]
    assert result.selected.epoch == best
    assert (result.selected.val_clean, result.selected.val_robust) == pairs[best - 1]
    assert result.last.epoch == len(pairs)
    assert (result.last.val_clean, result.last.val_robust) == pairs[-1]
    assert bits(result.selected.weights) == seen[best - 1]
    assert bits(result.last.weights) == seen[-1]
    assert len({str(state) for state in seen}) == len(pairs), "every epoch moved the weights"


def test_a_checkpoint_is_a_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    script(monkeypatch, [(1, 1), (0, 0)])
    model = small_net()
    result = run(model, task())
    before = bits(result.selected.weights), bits(result.last.weights)
    assert before[1] == bits(model.state_dict())
    with torch.no_grad():
        for value in model.state_dict().values():
            value.add_(1)
    assert (bits(result.selected.weights), bits(result.last.weights)) == before


def test_the_history_has_a_row_for_every_epoch() -> None:
    said: list[tuple[int, int, str]] = []
    result = loop.train(small_net(), task(epochs=3), lambda *words: said.append(words))
    assert [row["epoch"] for row in result.history] == [1, 2, 3]
    assert [row["learning_rate"] for row in result.history] == pytest.approx([0.1, 0.01, 0.01])
    assert [words[:2] for words in said] == [(1, 3), (2, 3), (3, 3)]
    assert result.history[-1]["val_clean"] == result.last.val_clean
    assert result.history[-1]["val_robust"] == result.last.val_robust
    assert json.loads(json.dumps(result.history)) == result.history


def test_the_figures_of_an_epoch_are_means_over_its_images() -> None:
    """With steps too small to matter and no statistics, both batches see one model."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, CLASSES))
    data = DATA._replace(train=images(8, 6))
    x, y = data.train.images.float() / SCALE, data.train.labels
    with torch.no_grad():
        logits = model(x)
    row = run(model, task("natural", data=data, **PLAIN, learning_rate=1e-12)).history[0]
    assert row["train_loss"] == pytest.approx(F.cross_entropy(logits, y).item(), rel=1e-5)
    accuracy = (logits.argmax(1) == y).float().mean().item()
    assert row["train_accuracy"] == pytest.approx(100 * accuracy)


def test_an_epoch_ends_with_the_accuracy_on_the_first_training_images() -> None:
    """In evaluation mode, unlike the accuracy of the steps, and by the weights that are kept."""
    model, count = small_net(), 5
    changes = {**PLAIN, "selection": SelectionOptions(steps=2, batch_size=3, train_images=count)}
    row = run(model, task("natural", **changes)).history[0]
    x, y = (part[:count] for part in DATA.train)
    with torch.no_grad():
        right = model.eval()(x.float() / SCALE).argmax(1) == y
    assert 0 < int(right.sum()) < count, "the case must tell images apart"
    assert row["train_clean"] == pytest.approx(100 * right.float().mean().item())
    assert row["train_robust"] <= row["train_clean"]
    assert [key for key in row if key.endswith(("clean", "robust"))] == [
        "train_clean",
        "train_robust",
        "val_clean",
        "val_robust",
    ]


def test_more_training_images_than_there_are_cannot_be_measured() -> None:
    rule = SelectionOptions(steps=2, batch_size=3, train_images=10)
    with pytest.raises(UserError, match=r"train_images is 10, but there are 9 .* give 9 or fewer"):
        run(small_net(), task("natural", **{**PLAIN, "selection": rule}))


def test_each_part_has_random_starts_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the validation images do not follow from how many training images came before."""
    starts: dict[tuple[int, int], Tensor] = {}

    def spy(model: nn.Module, x: Tensor, y: Tensor, threat: Threat, **settings: Any) -> Tensor:
        starts[count, len(x)] = torch.rand(3, generator=settings["generator"])
        return x

    monkeypatch.setattr(loop, "pgd", spy)
    for count in (1, 2):
        options = SelectionOptions(steps=2, batch_size=7, train_images=count)
        run(small_net(), task("natural", **PLAIN, selection=options))
    assert set(starts) == {(1, 1), (1, 7), (2, 2), (2, 7)}
    assert torch.equal(starts[1, 7], starts[2, 7])
    assert torch.equal(starts[1, 1], starts[2, 2])
    assert not torch.equal(starts[1, 1], starts[1, 7])


def test_the_same_seed_gives_the_same_bits() -> None:
    """Whatever else drew random numbers in between."""
    first = run(small_net(), task())
    torch.manual_seed(5)
    torch.rand(3)
    second = run(small_net(), task())
    assert bits(first.last.weights) == bits(second.last.weights)
    assert bits(first.selected.weights) == bits(second.selected.weights)
    assert first.history == second.history
    assert bits(run(small_net(), task(seed=1)).last.weights) != bits(first.last.weights)


def test_every_step_has_random_numbers_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """By epoch, step and run; batches too are shuffled anew in every epoch."""
    drawn: list[float] = []
    batches: list[bytes] = []

    def spy(step: Step) -> LossValue:
        drawn.append(torch.rand((), generator=step.generator).item())
        batches.append(step.batch.x.numpy().tobytes())
        return natural_loss(step)

    monkeypatch.setattr(losses, "pgd_loss", spy)
    for seed in (0, 1):
        run(small_net(), task(seed=seed))
    assert len(drawn) == 2 * OPTIONS.epochs * 2
    assert len(set(drawn)) == len(set(batches)) == len(drawn)


def test_selection_images_pick_the_checkpoint_and_nothing_else() -> None:
    first = run(small_net(), task())
    second = run(small_net(), task(data=DATA._replace(val=images(11, 8))))
    assert bits(first.last.weights) == bits(second.last.weights)
    figures = ("learning_rate", "train_loss", "train_accuracy", "train_clean", "train_robust")
    for one, other in zip(first.history, second.history, strict=True):
        assert [one[name] for name in figures] == [other[name] for name in figures]


def step_of(model: nn.Module, what: TrainingTask) -> Tensor:
    """Train one step and return by how much the parameters moved, joined."""
    before = [p.detach().clone() for p in model.parameters()]
    run(model, what)
    pairs = zip(model.parameters(), before, strict=True)
    return torch.cat([(p.detach() - b).flatten() for p, b in pairs])


def slope_of(model: nn.Module) -> Tensor:
    """Return the gradient of the mean cross-entropy of the one batch, joined."""
    other = copy.deepcopy(model).train()
    x = ONE_BATCH.train.images.float() / SCALE
    loss = F.cross_entropy(other(x), ONE_BATCH.train.labels)
    slopes = torch.autograd.grad(loss, list(other.parameters()))
    return torch.cat([slope.flatten() for slope in slopes])


@pytest.mark.parametrize("clip", [1e9, 0.01])
def test_a_step_is_that_of_sgd(clip: float) -> None:
    """The gradient is clipped before weight decay is added."""
    model = small_net()
    slope = slope_of(model)
    before = torch.cat([p.detach().flatten() for p in model.parameters()])
    assert 0.01 < slope.norm() < 1e9
    expected = -0.1 * (min(1.0, clip / slope.norm()) * slope + 0.03 * before)
    changes = {**PLAIN, "gradient_clip": clip, "weight_decay": 0.03}
    found = step_of(model, task("natural", data=ONE_BATCH, **changes))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_momentum_carries_the_first_step_on() -> None:
    """Two steps on a linear loss of one class each: v2 = m v1 + g2, with the slopes as measured."""
    changes = {**PLAIN, "epochs": 2, "momentum": 0.5}
    model, plain = small_net(), small_net()
    first = step_of(plain, task("natural", data=ONE_BATCH, **PLAIN))
    slope = slope_of(plain)
    found = step_of(model, task("natural", data=ONE_BATCH, **changes))
    torch.testing.assert_close(found, first + 0.5 * first - 0.1 * slope, rtol=0, atol=2e-6)


def test_a_first_step_of_adam_has_the_length_of_the_rate() -> None:
    """Whatever the slope: g / (|g| + eps), where no slope is tiny."""
    model = small_net()
    slope = slope_of(model)
    found = step_of(model, task("natural", data=ONE_BATCH, optimiser="adam", **PLAIN))
    large = slope.abs() > 1e-4
    assert large.float().mean() > 0.8
    torch.testing.assert_close(found[large], -0.1 * slope[large].sign(), rtol=1e-3, atol=0)


@pytest.mark.parametrize(
    ("kinds", "free"), [(["bias"], {1, 5}), (["norm"], {2, 3}), (["bias", "norm"], {1, 2, 3, 5})]
)
def test_weights_without_decay_stay_without_a_slope(kinds: list[str], free: set[int]) -> None:
    """Of convolution, normalisation and dense layer, each with a bias."""
    model = small_net()
    for parameter in model.parameters():
        parameter.data.fill_(1.0)
    model[4].weight.data.zero_()  # so that only the dense layer has a slope
    what = task("natural", data=ONE_BATCH, **{**PLAIN, "weight_decay": 0.03}, no_decay=kinds)
    run(model, what)
    still = {i for i, p in enumerate(model.parameters()) if torch.equal(p, torch.ones_like(p))}
    assert still - {4, 5} == free - {4, 5}


def test_the_average_of_the_weights_is_evaluated_and_stored(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By the recursion in float64, smaller at first; training goes on from its own weights."""
    steps: list[dict[str, Tensor]] = []
    real = loop._update_average

    def spy(model: nn.Module, *rest: Any) -> None:
        steps.append({k: v.double() for k, v in model.state_dict().items()})
        real(model, *rest)

    monkeypatch.setattr(loop, "_update_average", spy)
    seen = script(monkeypatch, [(1, 1), (2, 2)])
    plain, model = small_net(), small_net()
    result = run(model, task(average_decay=0.15))
    monkeypatch.undo()
    run(plain, task())
    assert bits(model.state_dict()) == bits(plain.state_dict())
    expected = dict(steps[0])
    for count, state in enumerate(steps[1:], start=1):
        decay = min(0.15, (1 + count) / (10 + count))
        expected = {k: v + (1 - decay) * (state[k] - v) for k, v in expected.items()}
    weights = result.last.weights
    assert seen[-1] == bits(weights)
    assert int(weights["1.num_batches_tracked"]) == len(steps) == 4
    for name, value in expected.items():
        if weights[name].is_floating_point():
            torch.testing.assert_close(weights[name].double(), value, rtol=0, atol=1e-6)


def test_patience_ends_a_training_without_a_better_checkpoint(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    script(monkeypatch, [(1, 1), (5, 5), (2, 2), (4, 4), (6, 6)])
    rule = SelectionOptions(steps=2, patience=2)
    result = run(small_net(), task(epochs=5, milestones=[], selection=rule))
    assert (result.last.epoch, result.selected.epoch, len(result.history)) == (4, 2, 4)


def statistics_after(clean_forward: bool, loss: str) -> tuple[Tensor, int, dict[str, bytes]]:
    """Train one batch on a model that normalises its input; return the running mean's state."""
    model = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(16, CLASSES))
    with torch.no_grad():
        model[2].weight.copy_(torch.linspace(-1, 1, 48).view(3, 16))
        model[2].bias.zero_()
    run(model, task(loss, data=ONE_BATCH, **PLAIN, clean_forward=clean_forward))
    norm = model[0]
    return norm.running_mean, int(norm.num_batches_tracked), bits(dict(model.named_parameters()))


def test_a_clean_forward_counts_the_clean_batch_too() -> None:
    """One pass leaves 0.1 of the mean, two of the same batch 0.1 + 0.9 * 0.1."""
    mean = ONE_BATCH.train.images.float().mean() / SCALE
    without, one, weights = statistics_after(False, "natural")
    along, two, same = statistics_after(True, "natural")
    assert (one, two) == (1, 2)
    assert without.item() == pytest.approx(0.1 * mean.item(), rel=1e-5)
    assert along.item() == pytest.approx(0.19 * mean.item(), rel=1e-5)
    assert weights == same, "a pass without gradient moves no weight"


def test_a_clean_forward_comes_before_the_adversarial_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Examples of constant pixels tell both means apart."""
    from arnas.training import losses

    monkeypatch.setattr(losses, "pgd", lambda model, x, *rest, **settings: torch.ones_like(x))
    mean = (ONE_BATCH.train.images.float().mean() / SCALE).item()
    without, _, _ = statistics_after(False, "pgd")
    along, count, _ = statistics_after(True, "pgd")
    assert without.item() == pytest.approx(0.1, rel=1e-5)
    assert along.item() == pytest.approx(0.9 * 0.1 * mean + 0.1, rel=1e-5)
    assert count == 2


def test_training_runs_in_training_mode_after_every_selection() -> None:
    """Selection looks at the model in evaluation mode; each epoch must wake it again."""
    model = small_net().eval()
    run(model, task(epochs=3))
    assert int(model[1].num_batches_tracked) == 3 * 2


def linear_case() -> tuple[nn.Sequential, TrainingTask, Tensor, Tensor]:
    """Return a linear model, a task and each validation image's clean and worst smallest margin.

    Pixels lie inside the box by more than epsilon, where the worst margin is epsilon times the L1
    distance of two rows below the clean one.
    """
    narrow, generator = Threat("linf", 0.02), torch.Generator().manual_seed(4)
    x = torch.randint(4, 13, (40, 1, 4, 4), generator=generator, dtype=torch.uint8)
    y = torch.arange(40) % 2
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    with torch.no_grad():
        model[1].weight.copy_(torch.randn(2, 16, generator=generator))
        model[1].bias.copy_(-model[1].weight.sum(1) / 2)
        logits = model(x.float() / SCALE)
        clean = (logits.gather(1, y[:, None]) - logits.gather(1, 1 - y[:, None])).flatten()
        shift = narrow.epsilon * (model[1].weight[0] - model[1].weight[1]).abs().sum()
    data = DATA._replace(val=LabelledImages(x, y))
    what = task(data=data, selection=SelectionOptions(steps=10, batch_size=7))
    return model, dataclasses.replace(what, threat=narrow), clean, clean - shift


def test_selection_of_a_linear_model_is_the_closed_form() -> None:
    model, what, clean, worst = linear_case()
    expected = [100 * (margin > 0).float().mean().item() for margin in (clean, worst)]
    assert 0 < expected[1] < expected[0] < 100
    found = measure(model, what.data.val, what, "selection")
    assert found == pytest.approx(expected, abs=1e-4)


def test_an_image_wrong_when_clean_is_not_robust() -> None:
    """Even if the attack happens to mend it."""

    class Contrary(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            known = (x.flatten(1) * SCALE % 1 == 0).all(1)
            score = torch.where(known, -1.0, 1.0)[:, None] + 0 * x.flatten(1).sum(1, keepdim=True)
            return torch.cat([score, -score], dim=1)

    data = DATA._replace(val=LabelledImages(images(5, 2).images, torch.zeros(5).long()))
    assert measure(Contrary(), data.val, task(data=data), "selection") == (0.0, 0.0)


def test_selection_leaves_the_model_and_repeats_itself() -> None:
    """Random starts are the same after every epoch."""
    model = small_net().train()
    before, modes = bits(model.state_dict()), [m.training for m in model.modules()]
    first = measure(model, task().data.val, task(), "selection")
    assert bits(model.state_dict()) == before
    assert [m.training for m in model.modules()] == modes
    assert measure(model, task().data.val, task(), "selection") == first


def test_the_selection_attack_is_the_one_that_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict[str, Any]] = []
    starts: list[Tensor] = []

    def spy(model: nn.Module, x: Tensor, y: Tensor, threat: Threat, **settings: Any) -> Tensor:
        calls.append({**settings, "threat": threat, "count": len(x)})
        starts.append(torch.rand(2, generator=settings["generator"]))
        return x

    monkeypatch.setattr(loop, "pgd", spy)
    clean, robust = measure(small_net(), task().data.val, task(), "selection")
    assert clean == robust
    assert [call["count"] for call in calls] == [3, 3, 1]
    assert not torch.equal(starts[0], starts[1]), "batches have random starts of their own"
    for call in calls:
        assert call["threat"] == THREAT
        assert call["steps"] == OPTIONS.selection.steps
        assert call["step_size"] == pytest.approx(THREAT.epsilon / 4)


def test_epsilon_rises_to_the_threats_in_the_epochs_of_its_warmup() -> None:
    what = task(attack=OPTIONS.attack.model_copy(update={"epsilon_warmup_epochs": 2}))
    found = [training_threat(step, 4, what).epsilon / THREAT.epsilon for step in range(12)]
    assert found[:8] == pytest.approx([step / 9 for step in range(1, 9)])
    assert found[8:] == [1.0] * 4
    assert training_threat(0, 4, task()) is THREAT
