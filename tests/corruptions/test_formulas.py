"""Each corruption against statistics, closed forms and other libraries."""

from __future__ import annotations

import colorsys
import itertools
from io import BytesIO

import numpy as np
import pytest
import torch
from corrupted_images import flat, photographs, pixels, shapes
from PIL import Image
from scipy.stats import norm, poisson

from arnas.corruptions import formulas
from arnas.corruptions.constants import CIFAR, SEVERITIES
from arnas.corruptions.corrupt import corrupt


@pytest.mark.parametrize("severity", SEVERITIES)
def test_gaussian_noise_has_the_moments_of_a_clipped_normal(severity: int) -> None:
    deviation = 255 * CIFAR["gaussian_noise"][severity - 1][0]
    values = corrupt(flat(100), "gaussian_noise", severity, 0).double().flatten()
    # A level is the floor of a normal number, with all below 1 at 0.
    support = np.arange(256)
    chance = np.diff(norm.cdf([-np.inf, *support[1:], np.inf], 100, deviation))
    mean = (support * chance).sum()
    variance = (support**2 * chance).sum() - mean**2
    n = len(values)
    assert abs(float(values.mean()) - mean) < 4 * np.sqrt(variance / n)
    assert abs(float(values.var()) - variance) < 4 * variance * np.sqrt(2 / n)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_shot_noise_has_the_moments_of_a_poisson_number(severity: int) -> None:
    photons = CIFAR["shot_noise"][severity - 1][0]
    values = corrupt(flat(102), "shot_noise", severity, 0).double().flatten()
    counts = np.arange(0, 4 * int(photons))
    level = np.minimum(np.floor(255 * counts / photons + 1e-6), 255)
    chance = poisson.pmf(counts, 0.4 * photons)
    mean = (level * chance).sum()
    variance = (level**2 * chance).sum() - mean**2
    fourth = ((level - mean) ** 4 * chance).sum()
    n = len(values)
    assert abs(float(values.mean()) - mean) < 4 * np.sqrt(variance / n)
    assert abs(float(values.var()) - variance) < 4 * np.sqrt((fourth - variance**2) / n)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_impulse_noise_hits_a_share_of_the_values(severity: int) -> None:
    share = CIFAR["impulse_noise"][severity - 1][0]
    values = corrupt(flat(77, count=16), "impulse_noise", severity, 0)
    n = values.numel()
    for level, chance in ((0, share / 2), (255, share / 2), (77, 1 - share)):
        found = int((values == level).sum()) / n
        assert abs(found - chance) < 4 * np.sqrt(chance * (1 - chance) / n)
    pairs = ((values[:, 0] != 77) & (values[:, 1] != 77)).double().mean()
    assert abs(float(pairs) - share**2) < 4 * np.sqrt(share**2 / (n / 3)) + 1e-4


def test_noise_of_different_pixels_is_uncorrelated() -> None:
    noise = corrupt(flat(120, count=64), "gaussian_noise", 3, 0).double() - 120
    noise = noise - noise.mean()
    for axis in (0, 1, 2, 3):
        product = (noise * noise.roll(1, axis)).mean() / noise.var()
        assert abs(float(product)) < 4 / np.sqrt(noise.numel())


@pytest.mark.parametrize("severity", SEVERITIES)
def test_brightness_raises_v_of_hsv(severity: int) -> None:
    image = pixels(photographs()[3]).copy()
    image[:2] = 0
    image[2, :8] = [250, 250, 250]
    amount = CIFAR["brightness"][severity - 1][0]
    found = pixels(
        corrupt(torch.from_numpy(image).permute(2, 0, 1)[None], "brightness", severity, 0)[0]
    )
    exact = np.empty(image.shape)
    for place in np.ndindex(image.shape[:2]):
        hue, saturation, value = colorsys.rgb_to_hsv(*(image[place] / 255))
        exact[place] = colorsys.hsv_to_rgb(hue, saturation, min(value + amount, 1))
    difference = found - exact * 255
    assert difference.max() < 1e-3
    assert difference.min() > -1


@pytest.mark.parametrize("severity", SEVERITIES)
def test_contrast_shrinks_distances_to_the_mean(severity: int) -> None:
    image = photographs()[5]
    share = CIFAR["contrast"][severity - 1][0]
    found = corrupt(image[None], "contrast", severity, 0)[0].double()
    mean = image.double().mean(dim=(1, 2), keepdim=True)
    difference = found - (share * image.double() + (1 - share) * mean)
    assert float(difference.max()) < 1e-3
    assert float(difference.min()) > -1


def test_pixelate_makes_blocks_of_means() -> None:
    image = shapes(4, 128)[:, :, :64]
    found = corrupt(image, "pixelate", 5, 0)
    # Pillow rounds once along the rows and once along the columns.
    rows = (image.int()[..., ::2] + image[..., 1::2] + 1) // 2
    blocks = (rows[..., ::2, :] + rows[..., 1::2, :] + 1) // 2
    assert torch.equal(found[..., ::2, ::2].int(), blocks)
    for down, right in ((0, 1), (1, 0), (1, 1)):
        assert torch.equal(found[..., down::2, right::2], found[..., ::2, ::2])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("severity", SEVERITIES)
def test_jpeg_is_that_of_pillow(severity: int, channels: int) -> None:
    image = photographs()[7][:channels]
    array = pixels(image) if channels == 3 else image[0].numpy()
    stream = BytesIO()
    quality = (80, 65, 58, 50, 40)[severity - 1]
    Image.fromarray(array).save(stream, "JPEG", quality=quality)
    expected = np.array(Image.open(stream)).reshape(32, 32, channels)
    assert np.array_equal(
        pixels(corrupt(image[None], "jpeg_compression", severity, 0)[0]), expected
    )


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize(
    "name",
    [
        "defocus_blur",
        "glass_blur",
        "motion_blur",
        "zoom_blur",
        "contrast",
        "elastic_transform",
        "pixelate",
    ],
)
def test_blurs_and_warps_leave_a_flat_image_alone(name: str, severity: int) -> None:
    for side, level in itertools.product((32, 64), (0, 1, 93, 254, 255)):
        image = flat(level, count=1, side=side)
        assert torch.equal(corrupt(image, name, severity, 0), image)


def test_glass_takes_pixels_from_next_to_them() -> None:
    image = np.arange(32 * 32).reshape(32, 32, 1)
    image = np.concatenate([image % 256, image // 256, image * 0], axis=2).astype(np.uint8)
    found = formulas.glass_blur(image, (0.05, 1, 1), np.random.default_rng(0)).astype(int)
    origin = found[..., 0] + 256 * found[..., 1]
    down, right = np.divmod(origin, 32) - np.stack(np.meshgrid(*[np.arange(32)] * 2, indexing="ij"))
    assert set(zip(down[2:, 2:].ravel(), right[2:, 2:].ravel(), strict=True)) == set(
        itertools.product((-1, 0), (-1, 0))
    )
    assert down[31].any() and right[:, 31].any()
    assert not down[:2].any() and not down[:, :2].any() and not right[:2].any()
    twice = formulas.glass_blur(image, (0.05, 2, 3), np.random.default_rng(0))
    assert set(map(tuple, twice.reshape(-1, 3))) <= set(map(tuple, image.reshape(-1, 3)))


def test_motion_blur_keeps_within_45_degrees() -> None:
    point = flat(0, count=64)
    point[:, :, 16, 16] = 255
    rows, columns = corrupt(point, "motion_blur", 5, 0).amax(dim=(0, 1)).nonzero().T - 16
    assert int(columns.max()) == 0
    assert bool((rows.abs() <= -columns).all())
    assert int(rows.min()) < -2 and int(rows.max()) > 2


def test_flakes_fall_within_45_degrees() -> None:
    class OneFlake:
        """Stands for a generator whose noise is a single flake."""

        def __init__(self, seed: int) -> None:
            self.uniform = np.random.default_rng(seed).uniform

        def normal(self, mean: float, deviation: float, size: tuple[int, ...]) -> np.ndarray:
            noise = np.zeros(size)
            noise[6, 16] = 1
            return noise

    black = np.zeros((32, 32, 3), dtype=np.uint8)
    constants = (0.1, 0.2, 1, 0.6, 8, 3, 1)
    found = [formulas.snow(black, constants, OneFlake(seed)) for seed in range(64)]
    rows, columns = np.stack(found).max(axis=(0, 3))[:16].nonzero()
    assert rows.min() == 6 and rows.max() > 12
    assert (np.abs(columns - 16) <= rows - 6).all()
    assert columns.min() < 14 and columns.max() > 18


def test_snow_on_black_is_the_same_upside_down() -> None:
    found = corrupt(flat(0, count=4), "snow", 3, 0)
    assert torch.equal(found, found.flip(2, 3))
    # Where no flake falls, the black image is whitened by (1 - 0.9) x 0.5.
    assert int(found.min()) == int(255 * 0.1 * 0.5)
    assert int(found.max()) > 60


def test_fog_keeps_black_and_spans_white() -> None:
    for severity, (thickness, _) in zip(SEVERITIES, CIFAR["fog"], strict=True):
        assert not corrupt(flat(0, count=2), "fog", severity, 0).any()
        white = corrupt(flat(255, count=2), "fog", severity, 0).flatten(1)
        assert white.amax(1).tolist() == [255, 255]
        assert white.amin(1).tolist() == [int(255 / (1 + thickness) + 1e-6)] * 2


def test_the_affine_map_takes_the_three_points_where_they_should_go() -> None:
    moves = np.array([[2.0, -1.0], [0.5, 3.0], [-2.0, 1.0]])
    rows, columns = formulas._affine_places((40, 50), moves)
    middle, reach = np.array([25, 20]), 13
    corners = middle + reach * np.array([[1, 1], [1, -1], [-1, -1]])
    # An affine map is known by its values at three pixels.
    design = np.array([[0, 0, 1], [1, 0, 1], [0, 1, 1]])
    values = [[columns[y, x], rows[y, x]] for x, y, _ in design]
    linear = np.linalg.solve(design, values)
    moved = np.column_stack([corners + moves, np.ones(3)]) @ linear
    assert np.allclose(moved, corners, atol=1e-9)
    assert np.allclose(columns[39, 49], np.array([49, 39, 1]) @ linear[:, 0])


class Shift:
    """Stands for a generator that moves the three points, or the field, of a warp alike."""

    def __init__(self, points: tuple[float, float], across: float, down: float) -> None:
        self.points, self.field = points, [across, down]

    def uniform(self, low: float, high: float, size: tuple[int, ...]) -> np.ndarray:
        return np.broadcast_to(self.points if size == (3, 2) else self.field.pop(0), size)


def test_the_same_move_everywhere_shifts_the_image() -> None:
    image = pixels(photographs()[2])
    found = formulas.elastic_transform(image, (0, 0, 1), Shift((2, 1), 0, 0))
    assert np.array_equal(found[1:, 2:], image[:-1, :-2])
    found = formulas.elastic_transform(image, (4, 1.5, 1), Shift((0, 0), 1, 0.5))
    assert np.array_equal(found[:-2, :-4], image[2:, 4:])
