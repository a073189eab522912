"""Seeds are functions of their purpose alone."""

import hashlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from arnas.runtime.seeds import derive_seed, make_generator, per_image_uniform

SHAPE = torch.Size((3, 4, 4))
GOLDEN = 2324282410690478134


def test_a_derived_seed_never_changes() -> None:
    """A change would alter every published number."""
    assert derive_seed("retrain", 0, 1) == GOLDEN
    assert int(hashlib.sha256(b"retrain\x1f0\x1f1").hexdigest()[:16], 16) // 2 == GOLDEN


@given(st.lists(st.integers() | st.text(max_size=5), max_size=4))
@settings(max_examples=50, derandomize=True, deadline=None)
def test_any_parts_give_a_seed_that_torch_takes(parts: list[object]) -> None:
    assert 0 <= derive_seed(*parts) < 2**63
    make_generator(*parts)


@pytest.mark.parametrize(
    "parts", [("a",), ("b", "a"), ("ab",), ("a", "b", ""), ("a", "b", 0), ("A", "b"), ()]
)
def test_other_parts_give_another_seed(parts: tuple[object, ...]) -> None:
    assert derive_seed(*parts) != derive_seed("a", "b")


def test_parts_count_as_they_are_printed() -> None:
    """A seed read back from text is the same seed."""
    assert derive_seed("search", 3) == derive_seed("search", "3")


def draws(*indices: int, parts: tuple[object, ...] = ("pgd", 0)) -> torch.Tensor:
    return per_image_uniform(parts, torch.tensor(indices, dtype=torch.long), SHAPE)


def test_an_image_draws_the_same_in_every_batch() -> None:
    together = draws(5, 2, 9, 2)
    assert torch.equal(together, torch.cat([draws(5), draws(2), draws(9), draws(2)]))
    assert torch.equal(together.flip(0), draws(2, 9, 2, 5))


def test_images_and_purposes_draw_differently() -> None:
    numbers = torch.cat([draws(0, 1, 2), draws(0, 1, 2, parts=("pgd", 1))])
    assert len(numbers.flatten(1).unique(dim=0)) == 6


def test_draws_are_float32_of_the_shape_asked_for() -> None:
    assert draws(3, 4).shape == (2, *SHAPE)
    assert draws().shape == (0, *SHAPE)
    assert draws(3).dtype == draws().dtype == torch.float32


def test_draws_are_uniform_across_images() -> None:
    """Seeds of neighbouring images must not give neighbouring numbers."""
    numbers = draws(*range(300))
    assert stats.kstest(numbers[:, 0, 0, 0].numpy(), "uniform").pvalue > 0.01
    assert stats.kstest(numbers.flatten().numpy(), "uniform").pvalue > 0.01
    neighbours = stats.pearsonr(numbers[:-1].flatten().numpy(), numbers[1:].flatten().numpy())
    assert abs(neighbours.statistic) < 0.03


def test_parts_may_be_any_iterable() -> None:
    expected = draws(4)
    assert torch.equal(per_image_uniform(iter(["pgd", 0]), torch.tensor([4]), SHAPE), expected)
    two = per_image_uniform(iter(["pgd", 0]), torch.tensor([3, 4]), SHAPE)
    assert torch.equal(two[1:], expected)


def test_the_global_random_numbers_are_untouched() -> None:
    before = torch.get_rng_state()
    draws(1, 2)
    make_generator("x")
    assert torch.equal(torch.get_rng_state(), before)
