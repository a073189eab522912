"""Small networks, images and numbers that the tests of Square share."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from attack_cases import fixed
from torch import Tensor, nn

from arnas.attacks.eval_mode import frozen_eval
from arnas.attacks.oracle import AttackOutput, Oracle, RandomStreams
from arnas.attacks.square import (
    BLOCK,
    per_image_numbers,
    query_numbers,
    square_batch,
    start_numbers,
)
from arnas.attacks.threat import Threat

NORMS = ("linf", "l2", "l1")
EPSILON = {"linf": 0.1, "l2": 0.6, "l1": 3.0}
for_every_norm = pytest.mark.parametrize("norm", NORMS)


def flat_net(shape: tuple[int, int, int], classes: int = 4, seed: int = 0) -> nn.Sequential:
    """Return a small network for images of any shape, in double precision, with steep logits."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        pixels = shape[0] * shape[1] * shape[2]
        layers = [nn.Flatten(), nn.Linear(pixels, 12), nn.Tanh(), nn.Linear(12, classes)]
        net = nn.Sequential(*layers).double()
    net[1].weight.data.mul_(4)
    return net


def images(count: int, shape: tuple[int, int, int] = (1, 8, 8), seed: int = 0) -> Tensor:
    """Return images of which a third of the values lies on the faces of the box."""
    generator = torch.Generator().manual_seed(seed)
    unit = torch.rand(count, *shape, generator=generator, dtype=torch.float64)
    return (1.5 * unit - 0.25).clamp(0, 1)


def numbers_needed(shape: Sequence[int], norm: str, queries: int) -> int:
    """Return how many random numbers a robust image takes."""
    return start_numbers(shape, norm) + queries * query_numbers(shape, norm)


def numbers_for(
    x: Tensor, norm: str, queries: int, indices: Tensor | None = None, seed: int = 0
) -> Tensor:
    """Return one row of numbers for each image, drawn for its index."""
    needed = numbers_needed(x.shape[1:], norm, queries)
    indices = torch.arange(len(x)) if indices is None else indices
    return per_image_numbers(("test", seed), indices)(0, torch.arange(len(x)), needed)


def table(numbers: Tensor, x: Tensor, norm: str) -> RandomStreams:
    """Return streams that hand out the rows of a table of numbers by blocks."""
    first, each = start_numbers(x.shape[1:], norm), query_numbers(x.shape[1:], norm)

    def blocks(block: int, rows: Tensor, count: int) -> Tensor:
        begin = first + (block - 1) * BLOCK * each if block else 0
        return numbers[rows, begin : begin + count]

    return fixed(x, blocks)


def hunted(
    net: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    queries: int = 60,
    batch_size: int = 1000,
    numbers: Tensor | None = None,
) -> AttackOutput:
    numbers = numbers_for(x, threat.norm, queries) if numbers is None else numbers
    with frozen_eval(net):
        return square_batch(
            Oracle(net, batch_size), x, y, threat, table(numbers, x, threat.norm), queries=queries
        )


def one_by_one(patch: pytest.MonkeyPatch) -> None:
    """Let no query be made before the outcome of the one before it is known."""
    patch.setattr("arnas.attacks.square.TOGETHER", 1)


def mixed_case(norm: str, count: int = 20) -> tuple[nn.Module, Tensor, Tensor, Threat]:
    """Return a case in which some images fall early, some late, and some stand."""
    net, x = flat_net((1, 8, 8)), images(count)
    return net, x, net(x).argmax(1), Threat(norm, {"linf": 0.06, "l2": 0.45, "l1": 1.6}[norm])
