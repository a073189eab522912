"""Batches of an epoch, and augmentation judged by undoing it."""

from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from arnas.data.batches import Batch, augment, batches_per_epoch, epoch_batches
from arnas.data.options import AugmentOptions
from arnas.data.splits import LabelledImages

PLAIN = AugmentOptions()
EVERYTHING = AugmentOptions(crop_padding=2, flip=True, cutout=4)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def numbered(count: int) -> LabelledImages:
    """Return images that all differ, labelled by their number."""
    images = torch.arange(count * 16).remainder(251).view(count, 1, 4, 4).to(torch.uint8)
    return LabelledImages(images, torch.arange(count))


def epoch(count: int, size: int, *parts: object, how: AugmentOptions = PLAIN) -> list[Batch]:
    return list(epoch_batches(numbered(count), 255, size, how, parts))


# Batches


@given(count=st.integers(1, 60), size=st.integers(1, 20))
@settings(max_examples=60, derandomize=True, deadline=None)
def test_an_epoch_is_whole_batches_of_different_images(count: int, size: int) -> None:
    batches = epoch(count, size, "test", 0)
    assert len(batches) == batches_per_epoch(count, size)
    if count < size:
        assert [len(batch.y) for batch in batches] == [count]
    else:
        assert [len(batch.y) for batch in batches] == [size] * (count // size)
    seen = torch.cat([batch.y for batch in batches])
    assert len(seen.unique()) == len(seen)
    assert seen.max() < count


def test_labels_stay_with_their_images() -> None:
    data = numbered(50)
    for x, y in epoch(50, 8, "test", 0):
        assert x.dtype == torch.float32
        assert y.dtype == torch.int64
        assert torch.equal(x, data.images[y] / 255)


def test_the_scale_means_one() -> None:
    data = LabelledImages(torch.full((4, 1, 4, 4), 16, dtype=torch.uint8), torch.zeros(4).long())
    (batch,) = epoch_batches(data, 16, 4, PLAIN, ("test",))
    assert torch.equal(batch.x, torch.ones(4, 1, 4, 4))


def test_seed_parts_decide_the_epoch() -> None:
    def numbers(*parts: object) -> list[Tensor]:
        return [x for x, _ in epoch(40, 8, *parts, how=EVERYTHING)]

    assert all(map(torch.equal, numbers("retrain", 0, 1), numbers("retrain", 0, 1)))
    assert not any(map(torch.equal, numbers("retrain", 0, 1), numbers("retrain", 0, 2)))
    assert not any(map(torch.equal, numbers("retrain", 0, 1), numbers("search", 0, 1)))


def test_epochs_leave_out_different_images() -> None:
    seen = {i for number in range(12) for _, y in epoch(19, 10, number) for i in y.tolist()}
    assert seen == set(range(19))


def test_an_epoch_leaves_the_global_random_numbers_and_the_data_alone() -> None:
    data, before = numbered(30), torch.get_rng_state()
    list(epoch_batches(data, 255, 8, EVERYTHING, ("test",)))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(data.images, numbered(30).images)


# Augmentation


def coded(count: int, side: int = 6) -> Tensor:
    """Return 3-channel images whose positive pixels all differ, so that a shift can be read."""
    plane = torch.arange(1, side * side + 1, dtype=torch.uint8).view(1, side, side)
    return torch.cat([plane, plane + 50, plane + 100]).expand(count, -1, -1, -1).contiguous()


def test_switched_off_it_is_the_identity() -> None:
    assert torch.equal(augment(coded(5), PLAIN, generator()), coded(5))


def test_it_is_a_function_of_its_generator() -> None:
    one, same, other = (augment(coded(20), EVERYTHING, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert one.dtype == torch.uint8
    assert one.is_contiguous()


def shifted(image: Tensor, down: int, right: int) -> Tensor:
    """Return the image moved by whole pixels, zeros moving in."""
    _, height, width = image.shape
    moved = torch.zeros_like(image)
    for row, column in product(range(height), range(width)):
        if 0 <= row - down < height and 0 <= column - right < width:
            moved[:, row, column] = image[:, row - down, column - right]
    return moved


def test_a_crop_is_a_shifted_copy_with_zeros_moving_in() -> None:
    pad, count = 2, 300
    images = coded(count)
    shifts = list(product(range(-pad, pad + 1), repeat=2))
    copies = torch.stack([shifted(images[0], *shift) for shift in shifts])
    found = augment(images, AugmentOptions(crop_padding=pad), generator())
    assert found.is_contiguous()
    equal = (found[:, None] == copies).flatten(2).all(2)
    assert (equal.sum(1) == 1).all()
    drawn = equal.sum(0)
    assert (drawn > 0).all(), "some shifts are never drawn"
    assert drawn.max() < 4 * count / len(shifts)


def test_a_crop_works_on_images_that_are_not_square() -> None:
    images = coded(50, 6)[:, :, :4]
    found = augment(images, AugmentOptions(crop_padding=1), generator())
    copies = torch.stack([shifted(images[0], *s) for s in product((-1, 0, 1), repeat=2)])
    assert (found[:, None] == copies).flatten(2).all(2).any(1).all()


def test_a_flip_mirrors_about_half_of_the_images() -> None:
    images = coded(400)
    found = augment(images, AugmentOptions(flip=True), generator())
    same = (found == images).flatten(1).all(1)
    mirrored = (found == images.flip(3)).flatten(1).all(1)
    assert (same ^ mirrored).all()
    assert 150 < mirrored.sum() < 250


def holes(side: int, count: int = 300, size: int = 8) -> Tensor:
    """Return where a cutout zeroes images without zeros, shape (N, H, W)."""
    images = torch.full((count, 3, size, size), 7, dtype=torch.uint8)
    found = augment(images, AugmentOptions(cutout=side), generator())
    assert set(found.unique().tolist()) <= {0, 7}
    assert (found == found[:, :1]).all(), "the channels have different holes"
    return found[:, 0] == 0


def squares(side: int, size: int = 8) -> Tensor:
    """Return every square of `side` around a pixel of the image, clipped to it."""
    masks = []
    for top, left in product(range(-(side // 2), size - side // 2), repeat=2):
        mask = torch.zeros(size, size, dtype=torch.bool)
        mask[max(top, 0) : top + side, max(left, 0) : left + side] = True
        masks.append(mask)
    return torch.stack(masks)


@pytest.mark.parametrize("side", [1, 2, 3, 4, 6])
def test_a_cutout_is_a_square_around_a_random_pixel(side: int) -> None:
    found, allowed = holes(side), squares(side)
    assert found.flatten(1).sum(1).max() == side**2
    equal = (found[:, None] == allowed).flatten(2).all(2)
    assert (equal.sum(1) == 1).all()
    assert (equal.sum(0) > 0).float().mean() > 0.9, "the centres are not all drawn"


def test_all_together_draw_for_each_image_of_its_own() -> None:
    found = augment(coded(50), EVERYTHING, generator())
    assert len(found.flatten(1).unique(dim=0)) > 40


@pytest.mark.parametrize("change", [{"crop_padding": -1}, {"cutout": -2}, {"flip": 1}, {"blur": 1}])
def test_impossible_settings_are_refused(change: dict[str, int]) -> None:
    with pytest.raises(ValidationError, match=next(iter(change))):
        AugmentOptions(**change)
