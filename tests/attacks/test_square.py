"""The contract of Square: where results lie, what they depend on, and what they cost."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from attack_cases import TOLERANCE, fixed, small_net, state_of
from square_cases import (
    EPSILON,
    flat_net,
    for_every_norm,
    hunted,
    images,
    mixed_case,
    numbers_for,
    numbers_needed,
    one_by_one,
    table,
)
from torch import Tensor, nn

from arnas.attacks.eval_mode import frozen_eval
from arnas.attacks.oracle import AttackOutput, Oracle
from arnas.attacks.projection import length
from arnas.attacks.square import BLOCK, square, square_batch
from arnas.attacks.threat import Threat
from arnas.runtime.errors import UserError

# The ball and the box

SIZES = [(1, 8, 8), (3, 12, 12), (2, 7, 3), (1, 3, 7), (3, 4, 4), (1, 2, 2), (2, 1, 5), (1, 1, 1)]


@for_every_norm
@pytest.mark.parametrize("shape", SIZES, ids=lambda shape: "x".join(map(str, shape)))
def test_every_try_lies_in_the_ball_and_the_box(norm: str, shape: tuple[int, int, int]) -> None:
    """Also where a fifth of the image is no pixel, and where tiles or windows would stick out."""
    net, x, threat = flat_net(shape), images(5, shape), Threat(norm, EPSILON[norm])
    y, farthest = net(x).argmax(1), 0.0

    class Watch(nn.Module):
        def forward(self, batch: Tensor) -> Tensor:
            nonlocal farthest
            assert batch.min() >= 0
            assert batch.max() <= 1
            gaps = (batch[:, None] - x[None]).flatten(0, 1)
            closest = length(gaps, norm).view(len(batch), -1).amin(1)
            farthest = max(farthest, float(closest.max()))
            logits = net(batch)
            return logits.scatter_add(1, y[:1].expand(len(batch), 1), 0 * logits[:, :1])

    found = hunted(Watch(), x, y, threat, queries=130)
    assert found.x_adv.shape == x.shape
    assert found.x_adv.isfinite().all()
    assert farthest <= threat.epsilon + 1e-9
    assert farthest > 0.3 * min(threat.epsilon, float(length(x.new_ones(1, *shape), norm)))
    assert length(found.x_adv - x, norm).max() <= threat.epsilon + 1e-9


@for_every_norm
def test_single_precision_does_not_leave_the_ball(norm: str) -> None:
    """Lengths that are updated try by try would drift."""
    shape = (3, 16, 16)
    net, x = flat_net(shape).float(), images(8, shape).float()
    y = net(x).argmax(1)
    net[-1].bias.data[:] = 0
    threat = Threat(norm, {"linf": 0.02, "l2": 0.1, "l1": 0.5}[norm])
    found = hunted(net, x, y, threat, queries=300)
    assert not found.broken.all()
    delta = found.x_adv.double() - x.double()
    assert length(delta, norm).max() <= threat.epsilon + TOLERANCE
    if norm == "l2":
        assert length(delta, norm).max() >= threat.epsilon - 1e-4
    assert found.x_adv.min() >= 0
    assert found.x_adv.max() <= 1


@for_every_norm
def test_epsilon_zero_is_the_identity(norm: str) -> None:
    net, x, y, _ = mixed_case(norm)
    threat = Threat(norm, 0.0)
    assert torch.equal(square(net, x, y, threat, queries=5), x)
    y = (y + (torch.arange(len(y)) % 2)) % 4
    found = hunted(net, x, y, threat, queries=5)
    assert torch.equal(found.x_adv, x)
    assert torch.equal(found.broken, net(x).argmax(1) != y)


@for_every_norm
def test_an_empty_batch_gives_an_empty_batch(norm: str) -> None:
    net, x, y = small_net(), torch.empty(0, 1, 6, 6), torch.empty(0, dtype=torch.long)
    assert square(net, x, y, Threat(norm, 0.1)).shape == x.shape
    found = square_batch(
        Oracle(net, 4), x, y, Threat(norm, 0.1), table(torch.empty(0, 7000), x, norm), queries=5
    )
    assert found.x_adv.shape == x.shape
    assert found.broken.shape == (0,)


def test_images_that_stand_or_were_wrong_are_returned_as_they_were() -> None:
    net, x, y, threat = mixed_case("linf", 40)
    y = torch.where(torch.arange(40) % 5 == 0, (y + 1) % 4, y)
    wrong_before = net(x).argmax(1) != y
    x_adv = square(net, x, y, threat, queries=60)
    wrong_after = net(x_adv).argmax(1) != y
    moved = (x_adv != x).flatten(1).any(1)
    assert torch.equal(moved, wrong_after & ~wrong_before)
    assert (wrong_before <= wrong_after).all()
    assert moved.any()
    assert not wrong_after.all()


# What results do not depend on


@for_every_norm
def test_outcomes_do_not_depend_on_the_batch(norm: str) -> None:
    net, x, y, threat = mixed_case(norm)
    numbers = numbers_for(x, norm, 60)
    whole = hunted(net, x, y, threat, numbers=numbers)

    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(1))
    shuffled = hunted(net, x[order], y[order], threat, numbers=numbers[order])
    halves = [hunted(net, x[i::2], y[i::2], threat, numbers=numbers[i::2]) for i in range(2)]
    by_three = hunted(net, x, y, threat, batch_size=3, numbers=numbers)

    assert torch.equal(shuffled.broken, whole.broken[order])
    assert torch.allclose(shuffled.x_adv, whole.x_adv[order], rtol=0, atol=1e-12)
    assert torch.equal(by_three.broken, whole.broken)
    assert torch.allclose(by_three.x_adv, whole.x_adv, rtol=0, atol=1e-12)
    for i, half in enumerate(halves):
        assert torch.equal(half.broken, whole.broken[i::2])
        assert torch.allclose(half.x_adv, whole.x_adv[i::2], rtol=0, atol=1e-12)


@for_every_norm
def test_indices_make_batches_independent(norm: str) -> None:
    net, x, y, threat = mixed_case(norm)
    attack = partial(square, net, threat=threat, queries=60)
    whole = attack(x=x, y=y)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(1))
    parts = [
        attack(x=x[part], y=y[part], indices=part, batch_size=2) for part in order.split((3, 10, 7))
    ]
    assert torch.allclose(torch.cat(parts), whole[order], rtol=0, atol=1e-12)
    assert not torch.allclose(attack(x=x, y=y, indices=torch.arange(20) + 1), whole)


@for_every_norm
def test_numbers_by_blocks_are_the_numbers_of_a_table(norm: str) -> None:
    net, x, y, threat = mixed_case(norm)
    queries = 2 * BLOCK + 10
    drawn = numbers_for(x, norm, 3 * BLOCK)
    sizes = [0, numbers_needed(x.shape[1:], norm, 0)]
    sizes += [numbers_needed(x.shape[1:], norm, k * BLOCK) for k in (1, 2, 3)]
    asked = []

    def blocks(block: int, places: Tensor, count: int) -> Tensor:
        asked.append((block, len(places)))
        assert count == sizes[block + 1] - sizes[block]
        return drawn[places, sizes[block] : sizes[block + 1]]

    whole = hunted(net, x, y, threat, queries, numbers=drawn)
    with frozen_eval(net):
        found = square_batch(Oracle(net, 99), x, y, threat, fixed(x, blocks), queries=queries)
    assert torch.equal(found.broken, whole.broken)
    assert torch.equal(found.x_adv, whole.x_adv)
    assert [block for block, _ in asked] == [0, 1, 2, 3]
    counts = [count for _, count in asked]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > counts[-1]


@for_every_norm
def test_generators_decide_the_search(norm: str) -> None:
    net, x, y, threat = mixed_case(norm)

    def run(seed: int | None) -> Tensor:
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        return square(net, x, y, threat, queries=30, generator=generator)

    assert torch.equal(run(None), run(None))
    assert torch.equal(run(1), run(1))
    assert not torch.equal(run(1), run(2))


@for_every_norm
def test_model_inputs_and_global_random_numbers_are_untouched(norm: str) -> None:
    net = small_net().train()
    net[1].eval()
    net[3][2].weight.grad = torch.full_like(net[3][2].weight, 0.5)
    x = images(6, (1, 6, 6)).float().requires_grad_()
    y, kept, random = torch.arange(6) % 3, x.detach().clone(), torch.get_rng_state()
    before = state_of(net)
    x_adv = square(net, x, y, Threat(norm, EPSILON[norm]), queries=15)
    assert state_of(net) == before
    assert torch.equal(x, kept)
    assert x.grad is None
    assert x_adv.grad_fn is None
    assert torch.equal(y, torch.arange(6) % 3)
    assert torch.equal(torch.get_rng_state(), random)


# What it costs


@for_every_norm
def test_an_image_costs_nothing_once_it_has_fallen(
    norm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_by_one(monkeypatch)
    queries = 40
    net, x, y, threat = mixed_case(norm)
    numbers, alone = numbers_for(x, norm, queries), []
    for i in range(len(x)):
        oracle, one = Oracle(net, 10), slice(i, i + 1)
        square_batch(oracle, x[one], y[one], threat, table(numbers[one], x, norm), queries=queries)
        alone.append(oracle.forwards)
    together = Oracle(net, 10)
    broken = square_batch(together, x, y, threat, table(numbers, x, norm), queries=queries).broken
    assert together.forwards == sum(alone)
    assert together.backwards == 0
    assert [cost for cost, fell in zip(alone, broken, strict=True) if not fell] == [
        queries + 1
    ] * int((~broken).sum())
    assert min(alone) == 1
    assert len(set(alone)) > 3, "hardly an image fell later"


@for_every_norm
@pytest.mark.parametrize("seed", range(3))
def test_looking_ahead_finds_what_one_query_at_a_time_does(
    norm: str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Across blocks and windows of all sizes, with images that fall, and whose counts differ."""
    shape, queries = SIZES[seed], 230
    net, x = flat_net(shape, seed=seed), images(12, shape, seed)
    y, threat = net(x).argmax(1), Threat(norm, (0.2, 0.5, 0.5)[seed] * EPSILON[norm])
    numbers = numbers_for(x, norm, 3 * BLOCK, seed=seed)

    def found(count: int, batch_size: int) -> AttackOutput:
        return hunted(net, x[:count], y[:count], threat, queries, batch_size, numbers[:count])

    cases = [(12, 1000), (12, 30), (4, 9), (1, 1000), (1, 7)]
    ahead = [found(*case) for case in cases]
    one_by_one(monkeypatch)
    for (count, batch_size), other in zip(cases, ahead, strict=True):
        alone = found(count, batch_size)
        assert torch.equal(other.broken, alone.broken)
        assert torch.allclose(other.x_adv, alone.x_adv, rtol=0, atol=1e-12)
    assert 0 < ahead[0].broken.sum() < 12


@for_every_norm
def test_few_images_cost_few_calls(norm: str) -> None:
    """And hardly more passes, since looking ahead begins where improvements are rare."""
    net, x, y, _ = mixed_case(norm, 4)
    threat, calls, queries = Threat(norm, 0.02 * EPSILON[norm]), [], 1000
    net.register_forward_hook(lambda module, args, output: calls.append(len(output)))
    found = hunted(net, x, y, threat, queries)
    assert not found.broken.any()
    assert len(calls) < 0.5 * queries
    assert 4 * (queries + 1) < sum(calls) < 1.15 * 4 * (queries + 1)


def test_a_random_model_is_queried_one_by_one() -> None:
    net, x, y, _ = mixed_case("linf", 2)
    oracle, numbers = Oracle(net, 100, expectation=2), numbers_for(x, "linf", 60)
    streams = table(numbers, x, "linf")
    square_batch(oracle, x, y, Threat("linf", 1e-4), streams, queries=60)
    assert oracle.forwards == 2 * 61


# Odd models


def test_one_class_cannot_fall_and_costs_two_looks() -> None:
    net, x = flat_net((1, 8, 8), classes=1), images(5)
    seen = []
    net.register_forward_hook(lambda module, args, output: seen.append(len(output)))
    x_adv = square(net, x, torch.zeros(5, dtype=torch.long), Threat("linf", 0.2), queries=60)
    assert torch.equal(x_adv, x)
    assert sum(seen) == 10


@for_every_norm
def test_a_constant_model_stands(norm: str) -> None:
    class Constant(nn.Module):
        def forward(self, batch: Tensor) -> Tensor:
            return torch.tensor([2.0, 1.0, 0.0]).expand(len(batch), 3)

    x, tries = images(4), []
    net = Constant()
    net.register_forward_hook(lambda module, args, output: tries.append(args[0].clone()))
    found = hunted(net, x, torch.zeros(4, dtype=torch.long), Threat(norm, EPSILON[norm]))
    assert not found.broken.any()
    assert torch.equal(found.x_adv, tries[0]), "nothing was better than the start"
    tied = hunted(nn.Flatten(), 0 * x, torch.zeros(4, dtype=torch.long), Threat("linf", 0.0))
    assert not tied.broken.any(), "equal logits are no misclassification"


@for_every_norm
def test_logits_that_are_no_numbers_count_as_misclassified(norm: str) -> None:
    x, y = images(4), torch.zeros(4, dtype=torch.long)

    class Brittle(nn.Module):
        """Breaks down on every image but the clean ones."""

        def forward(self, batch: Tensor) -> Tensor:
            known = (batch[:, None] == x[None]).flatten(2).all(2).any(1)
            logits = torch.tensor([[1.0, 0.0]]).repeat(len(batch), 1)
            return logits.masked_fill(~known[:, None], torch.nan)

    threat = Threat(norm, EPSILON[norm])
    assert hunted(Brittle(), x, y, threat).broken.all()
    assert (square(Brittle(), x, y, threat, queries=3) != x).flatten(1).any(1).all()


def test_a_model_that_changes_its_input_is_refused() -> None:
    class Careless(nn.Module):
        def forward(self, batch: Tensor) -> Tensor:
            return batch.sub_(0.5).flatten(1)[:, :4]

    x, y = images(3), torch.zeros(3, dtype=torch.long)
    with pytest.raises(UserError, match="changes its input in place"):
        hunted(Careless(), x, y, Threat("linf", 0.1))


# Mistakes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x": images(6) + 0.5}, r"runs from .* to 1\.5: attacks take pixels in \[0, 1\]"),
        ({"y": torch.zeros(5, dtype=torch.long)}, r"and y \(5,\)"),
        ({"x": images(6).flatten(1)}, r"x has shape \(6, 64\): needed is \(N, C, H, W\)"),
        ({"queries": -1}, r"queries is -1: allowed are 0 and more"),
        ({"restarts": 0}, r"restarts is 0: allowed are 1 and more"),
        ({"batch_size": 0}, r"batch_size is 0: allowed are 1 and more"),
        ({"indices": torch.arange(5)}, r"indices has shape \(5,\)"),
        ({"batch_norm": "bacth"}, r"batch_norm is 'bacth'"),
    ],
)
def test_mistakes_are_named(arguments: dict[str, object], message: str) -> None:
    y = torch.zeros(6, dtype=torch.long)
    given = {"x": images(6), "y": y, "threat": Threat("linf", 0.1), **arguments}
    with pytest.raises(UserError, match=message):
        square(flat_net((1, 8, 8)), **given)
