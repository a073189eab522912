"""The nearest point of the L1 ball within the box: bisection, optimality, and the package."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from arnas.attacks.projection import project, project_l1
from arnas.attacks.threat import Threat

SIZES = st.integers(1, 40)
EPSILONS = st.one_of(st.just(0.0), st.floats(1e-6, 60))
SEEDS = st.integers(0, 10_000)
often = settings(max_examples=150, derandomize=True, deadline=None)


def draw(pixels: int, seed: int, count: int = 5) -> tuple[Tensor, Tensor]:
    """Return images, a third of whose pixels are on a face, and moves; some are 0 or equal."""
    generator = torch.Generator().manual_seed(seed)
    unit = torch.rand(2, count, pixels, generator=generator, dtype=torch.float64)
    x = (1.5 * unit[0] - 0.25).clamp(0, 1)
    delta = 3 * (2 * unit[1] - 1)
    delta[0] = delta[0].round()
    delta[1] *= 0.1
    return x, delta


def room_of(x: Tensor, delta: Tensor) -> Tensor:
    """Return how far each pixel may go in the direction of its move."""
    return torch.where(delta > 0, 1 - x, x)


def by_bisection(x: Tensor, delta: Tensor, epsilon: float) -> Tensor:
    """Return the projection of one image's move by trying amounts to shorten it by."""
    size, room = delta.abs(), room_of(x, delta)
    low, high = 0.0, float(size.max())
    if torch.minimum(size, room).sum() > epsilon:
        for _ in range(60):
            cut = (low + high) / 2
            total = torch.minimum((size - cut).clamp_min(0), room).sum()
            low, high = (cut, high) if total > epsilon else (low, cut)
    else:
        high = 0.0
    return delta.sign() * torch.minimum((size - high).clamp_min(0), room)


@given(pixels=SIZES, epsilon=EPSILONS, seed=SEEDS)
@often
def test_as_bisection_finds_it(pixels: int, epsilon: float, seed: int) -> None:
    x, delta = draw(pixels, seed)
    found = project(x, delta, Threat("l1", epsilon))
    expected = torch.stack([by_bisection(*pair, epsilon) for pair in zip(x, delta, strict=True)])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


@given(pixels=SIZES, epsilon=EPSILONS, seed=SEEDS)
@often
def test_it_lies_inside_and_nothing_inside_is_nearer(
    pixels: int, epsilon: float, seed: int
) -> None:
    """The rest of the move forms no acute angle with any way into the set, which is convex.

    A linear function is largest at a corner of ball and box: pixels in the order of their gain.
    """
    x, delta = draw(pixels, seed)
    found = project(x, delta, Threat("l1", epsilon))
    assert found.abs().sum(1).max() <= epsilon + 1e-10
    assert (x + found).min() >= -1e-12
    assert (x + found).max() <= 1 + 1e-12
    rest = delta - found
    gain, order = rest.abs().sort(dim=1, descending=True)
    room = room_of(x, rest).gather(1, order)
    spent = room.cumsum(1).clamp_max(epsilon)
    used = spent.diff(dim=1, prepend=torch.zeros(len(x), 1, dtype=torch.float64))
    most = (gain * used).sum(1)
    assert ((rest * found).sum(1) >= most - 1e-9).all()


def their_projection(x: Tensor, delta: Tensor, epsilon: float) -> Tensor:
    base = pytest.importorskip("pyautoattack.autopgd_base")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "float", torch.Tensor.double)
        found: Tensor = delta + base.L1_projection(x, delta, epsilon)
    return found


@given(pixels=st.integers(13, 80), epsilon=EPSILONS, seed=SEEDS)
@often
def test_as_the_package_finds_it(pixels: int, epsilon: float, seed: int) -> None:
    x, delta = draw(pixels, seed)
    ours = project(x, delta, Threat("l1", epsilon))
    torch.testing.assert_close(ours, their_projection(x, delta, epsilon), rtol=0, atol=1e-9)


@given(pixels=st.integers(1, 12), epsilon=EPSILONS, seed=SEEDS)
@often
def test_never_farther_than_the_package(pixels: int, epsilon: float, seed: int) -> None:
    """Of a dozen pixels and fewer its search may miss the first segment: NaN, or a worse point."""
    x, delta = draw(pixels, seed)
    ours, theirs = project(x, delta, Threat("l1", epsilon)), their_projection(x, delta, epsilon)
    inside = theirs.abs().sum(1) <= epsilon + 1e-9
    nearer = (theirs - delta).norm(dim=1) - (ours - delta).norm(dim=1) >= -1e-9
    assert (nearer | ~inside).all()


def test_without_a_box_it_is_soft_thresholding() -> None:
    """Of (3, -1, 0.5) and radius 2, both the second and the third vanish; of 3, a half is cut."""
    delta = torch.tensor([[3.0, -1.0, 0.5]])
    free = torch.full_like(delta, torch.inf)
    assert project_l1(delta, free, 2).tolist() == [[2.0, 0.0, 0.0]]
    assert project_l1(delta, free, 3).tolist() == [[2.5, -0.5, 0.0]]
    assert project_l1(delta, free, 9).tolist() == delta.tolist()
    outside = project(torch.full_like(delta, 0.5), delta, Threat("l1", 3), clip=False)
    assert outside.tolist() == [[2.5, -0.5, 0.0]]


def test_with_a_box_others_take_over() -> None:
    """Where a pixel has no room, the ball's radius goes to the next one."""
    x = torch.tensor([[0.9, 0.5, 0.5]], dtype=torch.float64)
    delta = torch.tensor([[3.0, -0.4, 0.2]], dtype=torch.float64)
    found = project(x, delta, Threat("l1", 0.4))
    expected = torch.tensor([[0.1, -0.25, 0.05]], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("epsilon", [0.1, 3.0, 12.0, 1000.0])
def test_float32_images_stay_within_a_millionth(epsilon: float) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(16, 3, 32, 32, generator=generator)
    delta = torch.randn(x.shape, generator=generator)
    found = project(x, delta, Threat("l1", epsilon))
    assert found.double().abs().flatten(1).sum(1).max() <= epsilon * (1 + 1e-6) + 1e-6
    assert ((x + found) >= -1e-7).all()
    assert ((x + found) <= 1 + 1e-7).all()


def test_no_images_give_none() -> None:
    assert project(torch.empty(0, 3, 8, 8), torch.empty(0, 3, 8, 8), Threat("l1", 1)).shape[0] == 0
