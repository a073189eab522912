"""The corruptions as one: sizes, severities, random numbers, types and refusals."""

from __future__ import annotations

import pytest
import torch
from corrupted_images import photographs, shapes
from torch import Tensor

from arnas.corruptions.constants import CIFAR, IMAGENET, SCRIPTS, SEVERITIES, TINY_IMAGENET
from arnas.corruptions.corrupt import CORRUPTIONS, _generator, constants_for, corrupt
from arnas.runtime.errors import UserError

EVERY = list(CORRUPTIONS)
FIXED = {
    "defocus_blur",
    "zoom_blur",
    "brightness",
    "contrast",
    "pixelate",
    "jpeg_compression",
}
"""Those without random numbers."""


def test_the_fourteen_have_constants_for_every_size() -> None:
    fifteen = set(EVERY) | {"frost"}
    assert (len(EVERY), len(fifteen)) == (14, 15)
    for _, table in SCRIPTS.values():
        assert set(table) == set(EVERY)
        for name, constants in table.items():
            assert len(constants) == len(SEVERITIES)
            assert {len(c) for c in constants} == {len(CIFAR[name][0])}


def test_the_shorter_side_chooses_the_constants() -> None:
    sizes = {(32, 32): CIFAR, (63, 300): CIFAR, (64, 64): TINY_IMAGENET, (300, 223): TINY_IMAGENET}
    for (height, width), table in {**sizes, (224, 224): IMAGENET}.items():
        assert constants_for(height, width)[1] is table
    names = [constants_for(side, 230)[0] for side in (32, 64, 224)]
    assert names == ["CIFAR-10-C", "Tiny-ImageNet-C", "ImageNet-C"]


def errors(name: str, images: Tensor) -> list[float]:
    """Return the mean squared error at each severity, in squared grey levels."""
    found = [corrupt(images, name, severity, 0).double() for severity in SEVERITIES]
    return [float((value - images).square().mean()) for value in found]


@pytest.mark.parametrize(
    "name", sorted(set(EVERY) - {"glass_blur", "motion_blur", "elastic_transform"})
)
def test_a_higher_severity_changes_more(name: str) -> None:
    for images in (photographs(), shapes(40)):
        found = errors(name, images)
        assert found == sorted(set(found))


def test_where_the_published_severities_do_not_grow() -> None:
    motion = errors("motion_blur", photographs())
    assert motion[0] < motion[1] < motion[2] < motion[4]
    assert motion[3] == pytest.approx(motion[2], rel=0.15)
    glass = errors("glass_blur", photographs())
    assert max(glass[:3]) < min(glass[3:])
    elastic = errors("elastic_transform", photographs())
    assert elastic[4] == min(elastic) and elastic[0] == max(elastic)


@pytest.mark.parametrize("name", EVERY)
def test_an_image_does_not_depend_on_its_batch(name: str) -> None:
    images, indices = shapes(), torch.arange(100, 112)
    whole = corrupt(images, name, 4, 7, indices)
    order = torch.tensor([5, 0, 11, 3])
    assert torch.equal(corrupt(images[order], name, 4, 7, indices[order]), whole[order])
    assert torch.equal(corrupt(images[8:9], name, 4, 7, indices[8:9]), whole[8:9])
    assert torch.equal(corrupt(images, name, 4, 7), corrupt(images, name, 4, 7, torch.arange(12)))


@pytest.mark.parametrize("name", EVERY)
def test_what_random_numbers_depend_on(name: str) -> None:
    images = shapes(1).expand(2, -1, -1, -1)
    first, second = corrupt(images, name, 3, 0)
    again = corrupt(images[:1], name, 3, 1)[0]
    assert torch.equal(first, second) == (name in FIXED)
    assert torch.equal(first, again) == (name in FIXED)


def test_no_two_of_them_share_random_numbers() -> None:
    each = [
        ("fog", 1, 0, 0),
        ("snow", 1, 0, 0),
        ("fog", 2, 0, 0),
        ("fog", 1, 1, 0),
        ("fog", 1, 0, 1),
    ]
    assert len({_generator(*what).random() for what in each}) == len(each)


def test_floats_are_rounded_to_the_nearest_level() -> None:
    images = shapes(2).clamp(1, 254)
    for beside in (-0.49, 0.49):
        found = corrupt((images.double() + beside) / 255, "contrast", 1, 0)
        assert torch.equal(found, corrupt(images, "contrast", 1, 0).double() / 255)


@pytest.mark.parametrize("name", EVERY)
def test_types_ranges_and_the_input(name: str) -> None:
    images = shapes(2)
    before = images.clone()
    levels = corrupt(images, name, 5, 0)
    assert levels.dtype == torch.uint8 and levels.shape == images.shape
    assert torch.equal(images, before)
    for dtype in (torch.float32, torch.float64):
        unit = images.to(dtype) / 255
        kept = unit.clone().requires_grad_()
        found = corrupt(kept, name, 5, 0)
        assert found.dtype == dtype and not found.requires_grad
        assert torch.equal(found, levels.to(dtype) / 255)
        assert torch.equal(kept, unit)
    half = corrupt(images.half() / 255, name, 5, 0)
    assert half.dtype == torch.float16 and float(half.max()) <= 1
    assert len(corrupt(images[:0], name, 5, 0)) == 0


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("shape", [(1, 32, 32), (1, 40, 90), (3, 70, 33), (3, 65, 128)])
def test_grey_and_oblong_images(name: str, shape: tuple[int, int, int]) -> None:
    channels, height, width = shape
    tile = shapes(1, 128)[:, :channels, :height, :width]
    for severity in (1, 5):
        found = corrupt(tile, name, severity, 0)
        assert found.shape == tile.shape
        assert not torch.equal(found, tile)


@pytest.mark.parametrize("name", [name for name in EVERY if not name.endswith("noise")])
def test_three_equal_channels_stay_equal_unless_noise_parts_them(name: str) -> None:
    grey = shapes(2)[:, :1].expand(-1, 3, -1, -1)
    found = corrupt(grey, name, 3, 0).int()
    assert int((found - found[:, :1]).abs().max()) == 0
    assert int((found[:, :1] - corrupt(grey[:, :1], name, 3, 0)).abs().max()) <= 1


@pytest.mark.parametrize(
    ("images", "name", "severity", "said"),
    [
        (torch.zeros(1, 1, 8, 8), "fog", 1, "8 x 8"),
        (torch.zeros(1, 3, 64, 31), "fog", 1, "64 x 31"),
        (torch.zeros(1, 2, 32, 32), "fog", 1, "1 or 3 channels"),
        (torch.zeros(3, 32, 32), "fog", 1, "(N, C, H, W)"),
        (torch.full((1, 3, 32, 32), 1.5), "fog", 1, "from 1.5 to 1.5"),
        (torch.full((1, 3, 32, 32), torch.nan), "fog", 1, "nan"),
        (torch.zeros(1, 3, 32, 32, dtype=torch.int64), "fog", 1, "int64"),
        (torch.zeros(1, 3, 32, 32), "frost", 1, "photographs"),
        (torch.zeros(1, 3, 32, 32), "rain", 1, "'rain'"),
        (torch.zeros(1, 3, 32, 32), "fog", 0, "severity is 0"),
        (torch.zeros(1, 3, 32, 32), "fog", 6, "severity is 6"),
    ],
)
def test_what_cannot_be_corrupted(images: Tensor, name: str, severity: int, said: str) -> None:
    with pytest.raises(UserError) as error:
        corrupt(images, name, severity, 0)
    sentence = str(error.value)
    assert said in sentence
    assert sentence.endswith(".") and "\n" not in sentence


def test_every_image_needs_an_index() -> None:
    with pytest.raises(UserError, match="one index for each of the 2"):
        corrupt(shapes(2), "fog", 1, 0, torch.arange(3))
