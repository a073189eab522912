"""The synthetic shapes: reproducible at any size, visible, and told apart by their outline."""

import numpy as np
import pytest
from pydantic import ValidationError
from sklearn.linear_model import RidgeClassifier

from arnas.data.load import load_dataset
from arnas.data.sources.registry import ShapesOptions
from arnas.data.sources.shapes import CLASSES, DISTANCES, draw_shapes


@pytest.mark.parametrize("size", [8, 16, 32])
def test_any_size_can_be_drawn(size: int) -> None:
    images, labels = draw_shapes(25, size, 0)
    assert images.shape == (25, 3, size, size)
    assert images.dtype == np.uint8
    assert labels.dtype == np.int64
    assert labels.tolist() == [i % 10 for i in range(25)]


def test_the_seed_decides_every_pixel() -> None:
    one, same, other = (draw_shapes(20, 16, seed)[0] for seed in (0, 0, 1))
    assert np.array_equal(one, same)
    assert all((a != b).any() for a, b in zip(one, other, strict=True))


def test_drawing_leaves_the_global_random_numbers_alone() -> None:
    np.random.seed(0)
    before = np.random.get_state()[1].tolist()
    draw_shapes(5, 8, 0)
    assert np.random.get_state()[1].tolist() == before


def test_more_images_begin_with_the_same_ones() -> None:
    assert np.array_equal(draw_shapes(30, 8, 4)[0][:12], draw_shapes(12, 8, 4)[0])


@pytest.mark.parametrize("name", CLASSES)
def test_an_outline_has_an_inside_and_an_outside(name: str) -> None:
    """Far away lies outside, and the shape covers a fair part of its square."""
    v, u = np.meshgrid(np.linspace(-1, 1, 101), np.linspace(-1, 1, 101), indexing="ij")
    inside = (DISTANCES[name](u, v) < 0).mean()
    assert 0.1 < inside < 0.9
    assert DISTANCES[name](np.array(3.0), np.array(-3.0)) > 0


def test_the_disk_is_a_disk() -> None:
    u, v = np.array([0.0, 0.9, 0.0, 3.0]), np.array([0.0, 0.0, -0.9, 4.0])
    assert np.allclose(DISTANCES["disk"](u, v), [-0.9, 0.0, 0.0, 4.1])


def contrast(images: np.ndarray) -> np.ndarray:
    """Return each pixel's distance from the colour of the corners, shape (N, pixels)."""
    corners = images[:, :, [0, 0, -1, -1], [0, -1, 0, -1]].astype(float)
    background = np.median(corners, axis=2)[:, :, None, None]
    return np.abs(images - background).mean(1).reshape(len(images), -1)


@pytest.mark.parametrize("size", [8, 16, 32])
def test_nearly_every_shape_stands_out_from_its_noise(size: int) -> None:
    """Noise alone reaches about 25; a light shape on a light ground may drown in it."""
    strongest = contrast(draw_shapes(300, size, 0)[0]).max(1)
    assert (strongest > 40).mean() > 0.98


def test_a_drawn_disk_is_round_and_of_the_size_drawn() -> None:
    """Its radius is 0.9 of 0.5 to 0.75 of half the image, whatever its place and turn."""
    images, labels = draw_shapes(200, 64, 0)
    disks = contrast(images[labels == CLASSES.index("disk")]).reshape(-1, 64, 64)
    for disk in disks[disks.max((1, 2)) > 60]:
        inside = disk > disk.max() / 2
        height, width = inside.any(1).sum(), inside.any(0).sum()
        assert abs(int(height) - int(width)) <= 2
        assert 0.45 * 64 - 2 <= height <= 0.675 * 64 + 2
        assert inside.sum() == pytest.approx(np.pi / 4 * height * width, rel=0.1)


@pytest.mark.parametrize("size", [8, 16])
def test_a_linear_probe_tells_the_classes_apart(size: int) -> None:
    """Far above the chance of 0.1; the outlines turn and move, so it stays short of perfect."""
    images, labels = draw_shapes(1200, size, 0)
    features = contrast(images) / 255
    probe = RidgeClassifier(alpha=30).fit(features[:900], labels[:900])
    assert 0.5 < probe.score(features[900:], labels[900:]) < 0.99


def test_the_source_hands_the_drawing_on() -> None:
    options = ShapesOptions(
        source="shapes", images=80, image_size=8, images_seed=3, test_images=20, val_images=20
    )
    splits = load_dataset("shapes", options)
    images, labels = draw_shapes(80, 8, 3)
    assert np.array_equal(splits.images.numpy(), images)
    assert np.array_equal(splits.labels.numpy(), labels)
    info = splits.info
    assert info.synthetic
    assert (info.num_classes, info.image_size, info.in_channels, info.scale) == (10, 8, 3, 255)


@pytest.mark.parametrize(
    "change", [{"image_size": 7}, {"image_size": 257}, {"images": 39}, {"images_seed": -1}]
)
def test_impossible_settings_are_refused(change: dict[str, int]) -> None:
    settings = {"source": "shapes", "test_images": 10, "val_images": 10, **change}
    with pytest.raises(ValidationError, match=next(iter(change))):
        ShapesOptions(**settings)
