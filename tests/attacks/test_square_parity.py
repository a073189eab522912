"""Square against the package `pyautoattack`: the same tries from the same random numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from square_cases import numbers_needed, one_by_one, table
from torch import Tensor, nn

from arnas.attacks.objectives import margin
from arnas.attacks.oracle import Oracle
from arnas.attacks.square import (
    make_window,
    query_numbers,
    square_batch,
    start_numbers,
    window_pixels,
    window_side,
)
from arnas.attacks.threat import Threat

package = pytest.importorskip("pyautoattack.square")
NAMES = {"linf": "Linf", "l2": "L2", "l1": "L1"}
EPSILON = {"linf": 0.05, "l2": 0.6, "l1": 4.0}
TOLERANCE = {"linf": 1e-12, "l2": 1e-9, "l1": 1e-9}
COUNT = 3
for_every_norm = pytest.mark.parametrize("norm", NAMES)


@pytest.fixture(autouse=True)
def in_double_precision(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the package make its own tensors in double precision, and empty pixels exactly.

    Tries are made one by one, as it does.

    It adds what the L1 projection takes away to x + delta, so that a pixel which it gives back
    keeps a rounding error. Divided by a length of that order and 1e-12, such errors are scaled up
    to a part of the next try. Here the wrapper subtracts before the image is added.
    """
    one_by_one(monkeypatch)
    project = package.L1_projection

    def in_place(x: Tensor, delta: Tensor, epsilon: float) -> Tensor:
        delta += project(x, delta, epsilon)
        delta[delta.abs() < 1e-14] = 0
        return torch.zeros_like(delta)

    monkeypatch.setattr(package, "L1_projection", in_place)
    monkeypatch.setattr(torch.Tensor, "float", lambda self: self.double())
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def net_for(shape: tuple[int, int, int], classes: int = 5) -> nn.Sequential:
    channels, height, width = shape
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(channels, 6, 3, padding=1),
            nn.Tanh(),
            nn.Flatten(),
            nn.Linear(6 * height * width, classes),
        )


def images(shape: tuple[int, int, int]) -> Tensor:
    """Return images of which a third of the values lies on the faces of the box."""
    unit = torch.rand(COUNT, *shape, generator=torch.Generator().manual_seed(1))
    return (1.5 * unit - 0.25).clamp(0, 1)


def their_adversary(
    norm: str, epsilon: float, queries: int = 0, rescale_schedule: bool = False
) -> object:
    return package.SquareAttack(
        None, norm=NAMES[norm], eps=epsilon, n_queries=queries, resc_schedule=rescale_schedule
    )


def their_tries(
    net: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    numbers: Tensor,
    queries: int,
    patch: pytest.MonkeyPatch,
    rescale_schedule: bool = False,
) -> list[Tensor]:
    """Return what the package asks about one image, with `numbers` as its random numbers."""
    seen, left = [], numbers

    def predict(image: Tensor) -> Tensor:
        seen.append(image[0].clone())
        return net(image).detach()

    def hand_out(shape: list[int]) -> Tensor:
        nonlocal left
        taken, left = left[: math.prod(shape)], left[math.prod(shape) :]
        return taken.view(shape)

    adversary = their_adversary(threat.norm, threat.epsilon, queries, rescale_schedule)
    adversary.predict = predict
    adversary.init_hyperparam(x)
    with patch.context() as inside:
        inside.setattr(torch, "rand", hand_out)
        adversary.attack_single_run(x, y)
    return seen


def our_tries(
    net: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    numbers: Tensor,
    queries: int,
    rescale_schedule: bool = False,
) -> list[list[Tensor]]:
    """Return what `square_batch` asks about each of several images in step."""
    tries: list[list[Tensor]] = [[] for _ in x]
    robust = list(range(len(x)))

    class EvalMonitor(nn.Module):
        def forward(self, batch: Tensor) -> Tensor:
            assert len(batch) == len(robust)
            logits = net(batch)
            for place, image in zip(list(robust), batch, strict=True):
                tries[place].append(image.clone())
            wrong = (logits.argmax(1) != y[robust]).tolist()
            robust[:] = [i for i, gone in zip(robust, wrong, strict=True) if not gone]
            return logits

    found = square_batch(
        Oracle(EvalMonitor(), len(x)),
        x,
        y,
        threat,
        table(numbers, x, threat.norm),
        queries=queries,
        rescale_schedule=rescale_schedule,
    )
    assert found.broken.tolist() == [i not in robust for i in range(len(x))]
    for place in found.broken.nonzero().flatten().tolist():
        assert torch.equal(found.x_adv[place], tries[place][-1])
    return tries


def cancels(x: Tensor, best: Tensor, query: int, threat: Threat, numbers: Tensor) -> bool:
    """Return whether a query puts a bump on a window that holds the same one with the other sign.

    Nothing but rounding is left, which depends on the order of additions, and it is scaled up.
    """
    if threat.norm == "linf":
        return False
    shape = x.shape
    begin = start_numbers(shape, threat.norm) + query * query_numbers(shape, threat.norm)
    drawn = numbers[None, begin : begin + query_numbers(shape, threat.norm)]
    window = make_window(window_side(query, shape, threat.norm), shape, threat.norm, x)
    held = (best - x).flatten()[window_pixels(window, shape, drawn)].view(shape[0], -1)
    length = held.norm(p=2 if threat.norm == "l2" else 1, dim=1, keepdim=True)
    sign = 2 * (drawn[0, 5:, None] > 0.5).double() - 1
    both = held / length.clamp_min(1e-12) + sign * window.bumps[int(drawn[0, 4] > 0.5)]
    return bool((both.abs().sum(1) < 1e-9).any())


def compare(
    net: nn.Module, x: Tensor, y: Tensor, threat: Threat, numbers: Tensor, tries: list[list[Tensor]]
) -> int:
    """Assert that two lists of tries at one image are equal; return how many were compared."""
    ours, theirs = tries
    with torch.no_grad():
        values = margin(net(torch.stack(ours)), y.expand(len(ours))).tolist()
    best, value, compared = ours[0], values[0], 0
    for number, (our, their) in enumerate(zip(ours, theirs, strict=False)):
        shaky = number > 0 and cancels(x, best, number - 1, threat, numbers)
        tolerance = 1e-3 * threat.epsilon if shaky else TOLERANCE[threat.norm]
        assert torch.allclose(our, their, rtol=0, atol=tolerance), number
        compared += not shaky
        if values[number] > value:
            if shaky:
                return compared
            best, value = our, values[number]
    assert len(ours) == len(theirs)
    return compared


SHAPES = [(1, 8, 8), (3, 10, 10), (2, 11, 7), (2, 7, 11), (1, 5, 5), (3, 32, 32)]


def assert_parity(
    norm: str,
    shape: tuple[int, int, int],
    epsilon: float,
    queries: int,
    patch: pytest.MonkeyPatch,
    rescale_schedule: bool = False,
) -> list[int]:
    """Compare some images in step with the package on each of them; return their tries."""
    net, x, threat = net_for(shape), images(shape), Threat(norm, epsilon)
    y = net(x).argmax(1)
    generator = torch.Generator().manual_seed(2)
    numbers = torch.rand(COUNT, numbers_needed(shape, norm, queries), generator=generator)
    ours = our_tries(net, x, y, threat, numbers, queries, rescale_schedule)
    compared = 0
    for i in range(COUNT):
        one = slice(i, i + 1)
        theirs = their_tries(
            net, x[one], y[one], threat, numbers[i], queries, patch, rescale_schedule
        )
        compared += compare(net, x[i], y[i], threat, numbers[i], [ours[i], theirs])
    lengths = [len(tries) for tries in ours]
    assert compared >= 0.9 * sum(lengths), "too little of it could be compared"
    return lengths


@for_every_norm
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))
def test_every_try_is_the_packages(
    norm: str, shape: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    queries = 30 if shape[1] == 32 else 80
    assert_parity(norm, shape, EPSILON[norm], queries, monkeypatch)


@for_every_norm
def test_every_try_at_images_that_stand(norm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = assert_parity(norm, (2, 8, 8), 0.01 * EPSILON[norm], 120, monkeypatch)
    assert lengths == COUNT * [121]


@pytest.mark.parametrize("queries", [60, 500])
def test_a_rescaled_schedule_is_the_packages(queries: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The black-box stage has few queries, and windows must become small within them."""
    assert_parity("linf", (1, 8, 8), 0.01, queries, monkeypatch, rescale_schedule=True)


class Rising(nn.Module):
    """Two classes, of which the second comes closer from call to call, whatever the images are."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return torch.tensor([1 / self.calls, 0.0]).repeat(len(x), 1)


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_every_try_where_windows_meet_again(norm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every try is kept, so that bumps come to lie on emptied windows, and on their opposites."""
    shape, queries, epsilon = (1, 10, 10), 300 if norm == "l2" else 120, EPSILON[norm]
    x, y, threat = 0.3 + 0.4 * images(shape), torch.zeros(COUNT).long(), Threat(norm, epsilon)
    generator = torch.Generator().manual_seed(2)
    numbers = torch.rand(COUNT, numbers_needed(shape, norm, queries), generator=generator)
    numbers = ((2 * numbers).floor() + 0.4) / 2
    ours = our_tries(Rising(), x, y, threat, numbers, queries)
    opposites = compared = 0
    for i in range(COUNT):
        one = slice(i, i + 1)
        theirs = their_tries(Rising(), x[one], y[one], threat, numbers[i], queries, monkeypatch)
        for number, (our, their) in enumerate(zip(ours[i], theirs, strict=True)):
            if number and cancels(x[i], ours[i][number - 1], number - 1, threat, numbers[i]):
                assert torch.allclose(our, their, rtol=0, atol=1e-3 * epsilon)
                opposites += 1
                break
            assert torch.allclose(our, their, rtol=0, atol=1e-9), number
            compared += 1
    assert compared > COUNT * queries / 2
    assert opposites > 0 or norm == "l1", "no bump met its opposite"


@pytest.mark.long
@for_every_norm
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 16, 16)])
def test_every_try_of_a_long_search(
    norm: str, shape: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths = assert_parity(norm, shape, 0.02 * EPSILON[norm], 1100, monkeypatch)
    assert max(lengths) == 1101


def test_linf_where_the_package_cannot_do_l2(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twelve rows do not divide into five tiles, which linf has none of."""
    shape, queries = (3, 12, 12), 100
    net, x, threat = net_for(shape), images(shape), Threat("linf", 0.02)
    y = net(x).argmax(1)
    numbers = torch.rand(COUNT, numbers_needed(shape, "linf", queries))
    ours = our_tries(net, x, y, threat, numbers, queries)
    theirs = their_tries(net, x[:1], y[:1], threat, numbers[0], queries, monkeypatch)
    assert len(ours[0]) == len(theirs)
    assert torch.allclose(torch.stack(ours[0]), torch.stack(theirs), rtol=0, atol=1e-12)
    with pytest.raises(RuntimeError, match="shape"):
        their_tries(net, x[:1], y[:1], Threat("l2", 0.5), numbers[0], 1, monkeypatch)


@for_every_norm
def test_windows_shrink_as_the_packages(norm: str) -> None:
    """Sides are worked out from the package's share of the image as its loops do."""
    adversary = their_adversary(norm, 0.1)
    least = 1 if norm == "linf" else 3
    for shape in [(1, 8, 8), (3, 32, 32), (3, 64, 64), (2, 5, 9), (1, 28, 28), (1, 1, 3)]:
        channels, height, width = shape
        for query in [*range(0, 10_001, 7), 10, 11, 50, 51, 200, 201, 500, 501, 1000, 1001]:
            share = adversary.p_selection(query)
            side = max(round(math.sqrt(share * (channels * height * width) / channels)), least)
            side += norm != "linf" and side % 2 == 0
            assert window_side(query, shape, norm) == min(side, height, width)


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_bumps_are_the_packages(norm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    adversary = their_adversary(norm, 0.1)
    adversary.device = "cpu"
    for turn in (0.2, 0.8):
        monkeypatch.setattr(torch, "rand", lambda shape, turn=turn: torch.tensor([turn]))
        for side in range(1, 34):
            ours = make_window(side, (1, 40, 40), norm, torch.zeros(1)).bumps[int(turn > 0.5)]
            theirs = adversary.eta(side)
            assert torch.allclose(ours.view(side, side), theirs, rtol=0, atol=1e-14), side
