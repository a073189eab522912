"""The smallest change onto a hyperplane within the box: against solvers and the package."""

from collections.abc import Iterator

import pytest
import torch
from fab_cases import NORMS, ORDERS, for_all_norms, shortest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyautoattack.fab_projections import projection_l1, projection_l2, projection_linf
from torch import Tensor

from arnas.attacks.fab import LEAST_WEIGHT, change_onto

PACKAGE = {"linf": projection_linf, "l2": projection_l2, "l1": projection_l1}
drawn = settings(deadline=None, derandomize=True, max_examples=60)


@pytest.fixture
def double() -> Iterator[None]:
    """Let the package's work buffers be of double precision, as its arguments are."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def cases(
    rows: int, dimension: int, share: float, seed: int = 0, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor]:
    """Return points of which a third of the numbers lie on the faces, normals and values.

    A fifth of the weights are zero. The values are up to `share` of what the whole box could give.
    """
    draw = torch.Generator().manual_seed(seed)
    points = (1.5 * torch.rand(rows, dimension, generator=draw, dtype=torch.float64) - 0.25).clamp(
        0, 1
    )
    normal = torch.randn(rows, dimension, generator=draw, dtype=torch.float64)
    normal *= torch.rand(rows, dimension, generator=draw) > 0.2
    normal[:, 0] = 1
    sign = torch.randn(rows, generator=draw, dtype=torch.float64).sign()
    value = sign * share * torch.rand(rows, generator=draw, dtype=torch.float64)
    return points.to(dtype), normal.to(dtype), (value * farthest(points, normal, sign)).to(dtype)


def farthest(points: Tensor, normal: Tensor, sign: Tensor) -> Tensor:
    """Return how much of the linear function's value the nearest corner of the box takes away."""
    corner = ((normal < 0) == (sign >= 0)[:, None]).to(points)
    return ((corner - points) * normal).sum(1).abs()


@for_all_norms
@pytest.mark.parametrize("share", [0.05, 0.5, 0.98])
def test_no_solver_finds_a_shorter_change(norm: str, share: float) -> None:
    points, normal, value = cases(8, 12, share)
    change = change_onto(points, normal, value, norm)
    assert ((normal * change).sum(1) + value).abs().max() < 1e-12
    lengths = torch.linalg.vector_norm(change, ORDERS[norm], dim=1)
    for row in range(len(points)):
        least = shortest(points[row], normal[row], float(value[row]), norm)
        assert lengths[row] == pytest.approx(least, abs=1e-6 if norm == "l2" else 1e-9)


@for_all_norms
@pytest.mark.parametrize("share", [0.01, 0.3, 0.9, 1.5])
@pytest.mark.parametrize("dimension", [1, 2, 4, 36, 64, 100])
def test_changes_are_those_of_the_package(
    norm: str, share: float, dimension: int, double: None
) -> None:
    """Beyond 1 some planes do not reach into the box."""
    points, normal, value = cases(50, dimension, share)
    theirs = PACKAGE[norm](points, normal, (normal * points).sum(1) - value)
    ours = change_onto(points, normal, value, norm)
    assert torch.allclose(ours, theirs, rtol=0, atol=1e-11)


@for_all_norms
@pytest.mark.parametrize("scale", [1e-7, 3e-8])
@pytest.mark.parametrize("share", [0.5, 1.5])
def test_tiny_weights_are_treated_as_in_the_package(
    norm: str, share: float, scale: float, double: None
) -> None:
    """The weights lie on both sides of what counts as none."""
    points, normal, value = cases(50, 36, share, seed=2)
    normal, value = scale * normal, scale * value
    theirs = PACKAGE[norm](points, normal, (normal * points).sum(1) - value)
    ours = change_onto(points, normal, value, norm)
    assert torch.allclose(ours, theirs, rtol=0, atol=1e-6)
    tiny = normal.abs() <= LEAST_WEIGHT
    assert tiny.any()
    assert not (ours[tiny] if norm != "linf" else ours[normal == 0]).any()


@for_all_norms
def test_a_plane_through_the_corner_is_just_within_reach(norm: str) -> None:
    """Whichever side of it rounding takes for the corner's, and whatever has no weight."""
    points, normal, _ = cases(500, 3, 0)
    normal[::2, 0] = 0
    corner = (normal < 0).double()
    value = ((points - corner) * normal).sum(1)
    expected = torch.where(normal == 0, 0, corner - points)
    assert torch.allclose(change_onto(points, normal, value, norm), expected, rtol=0, atol=1e-12)


@for_all_norms
def test_nothing_moves_where_nothing_can_or_must(norm: str) -> None:
    points, normal, _ = cases(6, 10, 0)
    nothing = torch.zeros(6, dtype=torch.float64)
    assert not change_onto(points, normal, nothing, norm).any()
    for value in (nothing, nothing + 1, nothing - 1, nothing + torch.inf):
        change = change_onto(points, torch.zeros_like(normal), value, norm)
        assert not change.any()
        assert not change.isnan().any()


@for_all_norms
def test_a_row_without_numbers_spoils_no_other(norm: str) -> None:
    points, normal, value = cases(6, 10, 0.5)
    expected = change_onto(points, normal, value, norm)
    spoilt, broken_normal = value.clone(), normal.clone()
    spoilt[2], broken_normal[4, 1] = torch.nan, torch.inf
    change = change_onto(points, broken_normal, spoilt, norm)
    whole = [0, 1, 3, 5]
    assert torch.equal(change[whole], expected[whole])
    assert change[2].isnan().any(), "there is no way to a plane without a place"


@for_all_norms
@pytest.mark.parametrize("share", [0.05, 0.95])
def test_single_precision_is_precise(norm: str, share: float) -> None:
    """It lies on the plane within rounding; close to the corner many changes nearly do."""
    points, normal, value = cases(20, 3072, share, dtype=torch.float32)
    change = change_onto(points, normal, value, norm)
    assert change.dtype == torch.float32
    missed = (normal.double() * change.double()).sum(1) + value.double()
    assert (missed.abs() / normal.double().abs().sum(1)).max() < 1e-6
    exact = change_onto(points.double(), normal.double(), value.double(), norm)
    lengths = [torch.linalg.vector_norm(d.double(), ORDERS[norm], dim=1) for d in (change, exact)]
    assert torch.allclose(*lengths, rtol=1e-4)


numbers = st.floats(0, 1).map(lambda v: 0.0 if v < 1e-6 else v)
weights = st.floats(-4, 4).map(lambda v: 0.0 if abs(v) < 1e-3 else v)


@st.composite
def problems(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor]:
    size = draw(st.integers(1, 7))
    rows = [
        draw(st.lists(each, min_size=size, max_size=size)) for each in (numbers, weights, numbers)
    ]
    points, normal, other = torch.tensor(rows, dtype=torch.float64)
    # The plane goes through another point of the box, so it can be reached.
    return points[None], normal[None], (normal * (points - other)).sum()[None]


@drawn
@given(problem=problems(), norm=st.sampled_from(NORMS))
def test_the_change_ends_in_the_box_and_on_the_plane(
    problem: tuple[Tensor, Tensor, Tensor], norm: str
) -> None:
    points, normal, value = problem
    change = change_onto(points, normal, value, norm)
    assert ((points + change - 0.5).abs() <= 0.5 + 1e-12).all()
    assert ((normal * change).sum(1) + value).abs() < 1e-9
    assert (change * normal * value.sign() <= 0).all(), "a coordinate moved the wrong way"
