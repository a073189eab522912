"""The filters of the corruptions against plain loops and against scipy."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import ndimage

from arnas.corruptions.filters import (
    disk_kernel,
    filtered,
    gaussian,
    luminance,
    motion_blur,
    motion_kernel,
    plasma,
    sampled,
    to_levels,
    zoomed,
)


def picture(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((height, width, channels))


def levels(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    numbers = np.random.default_rng(seed).integers(0, 256, (height, width, channels))
    return numbers.astype(np.uint8)


def test_levels_are_cut_off_and_every_level_survives_the_way_there_and_back() -> None:
    every = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    assert np.array_equal(to_levels(every / 255), every)
    assert np.array_equal(to_levels(every / 255 * 3 / 3), every)
    between = np.array([-0.2, 0.0039, 0.0040, 0.9999, 1.0, 1.7]).reshape(1, 6, 1)
    assert to_levels(between).ravel().tolist() == [0, 0, 1, 254, 255, 255]


@pytest.mark.parametrize(("radius", "sigma"), [(0.5, 0.6), (1.5, 0.1), (3, 0.1), (10, 0.5)])
def test_a_disk_is_the_sum_of_small_gaussians(radius: float, sigma: float) -> None:
    kernel = disk_kernel(radius, sigma)
    half, reach = len(kernel) // 2, 1 if radius <= 8 else 2
    weight = {d: math.exp(-(d**2) / (2 * sigma**2)) for d in range(-reach, reach + 1)}
    slow = np.zeros_like(kernel)
    inside = range(-math.floor(radius), math.floor(radius) + 1)
    for y, x in itertools.product(inside, inside):
        if y**2 + x**2 <= radius**2:
            for down, right in itertools.product(weight, weight):
                slow[half + y + down, half + x + right] += weight[down] * weight[right]
    assert np.allclose(kernel, slow / slow.sum(), atol=1e-12)


def test_filtering_mirrors_at_the_border() -> None:
    image, kernel = picture(6, 5, 2), picture(5, 5, 1, seed=1)[..., 0]
    slow = np.zeros_like(image)
    for y, x, c in np.ndindex(*image.shape):
        for down, right in itertools.product(range(-2, 3), range(-2, 3)):
            row, column = abs(y - down), abs(x - right)
            row, column = min(row, 2 * 5 - row), min(column, 2 * 4 - column)
            slow[y, x, c] += kernel[2 + down, 2 + right] * image[row, column, c]
    assert np.allclose(filtered(image, kernel), slow, atol=1e-12)


def test_a_gaussian_leaves_channels_apart() -> None:
    image = np.zeros((21, 21, 2))
    image[10, 10, 0] = 1
    blurred = gaussian(image, 1.5)
    assert blurred[..., 1].max() == 0
    row = np.exp(-(np.arange(-10, 11.0) ** 2) / (2 * 1.5**2)) * (abs(np.arange(-10, 11)) <= 6)
    row /= row.sum()
    assert np.allclose(blurred[..., 0], np.outer(row, row), atol=1e-12)
    assert np.array_equal(gaussian(image, 0), image)


@pytest.mark.parametrize("angle", [0.0, 30.0, 45.0, 90.0, -77.0, -135.0])
def test_motion_blur_walks_from_every_pixel(angle: float) -> None:
    image = levels(7, 9)
    kernel = motion_kernel(2.5, 1.3)
    assert len(kernel) == 7
    assert kernel.sum() == pytest.approx(1, abs=1e-12)
    assert kernel[1] / kernel[0] == pytest.approx(math.exp(-1 / (2 * 1.3**2)))
    slow = np.zeros(image.shape)
    for y, x in np.ndindex(7, 9):
        for step, weight in enumerate(kernel):
            row = y + math.ceil(step * math.sin(math.radians(angle)) - 0.5)
            column = x + math.ceil(step * math.cos(math.radians(angle)) - 0.5)
            slow[y, x] += weight * image[min(max(row, 0), 6), min(max(column, 0), 8)]
    blurred = motion_blur(image, 2.5, 1.3, angle)
    assert blurred.dtype == np.uint8
    # Cut off, but for the last 1/514 of a level, which 16 bits round up.
    assert np.array_equal(blurred, np.floor(slow + 1 / 514))


@pytest.mark.parametrize("factor", [1.0, 1.01, 1.06, 1.25, 1.75, 2.25, 4.5])
@pytest.mark.parametrize("shape", [(32, 32), (33, 64), (224, 40)])
def test_zooming_is_what_scipy_does(shape: tuple[int, int], factor: float) -> None:
    image = picture(*shape)
    crop = [math.ceil(n / factor) for n in shape]
    top, left = ((n - c) // 2 for n, c in zip(shape, crop, strict=True))
    large = ndimage.zoom(
        image[top : top + crop[0], left : left + crop[1]],
        (factor, factor, 1),
        order=1,
        mode="nearest",
    )
    down, right = ((m - n) // 2 for m, n in zip(large.shape, shape, strict=False))
    middle = large[down : down + shape[0], right : right + shape[1]]
    assert zoomed(image, factor).shape == image.shape
    assert np.allclose(zoomed(image, factor), middle, atol=1e-12)


def test_sampling_in_between_is_linear() -> None:
    image = picture(5, 6, 2)
    rows, columns = np.meshgrid(np.arange(4) + 0.25, np.arange(5) + 0.5, indexing="ij")
    upper = (image[:-1, :-1] + image[:-1, 1:]) / 2
    lower = (image[1:, :-1] + image[1:, 1:]) / 2
    found = sampled(image, rows, columns, "mirror")
    assert np.allclose(found, 0.75 * upper + 0.25 * lower, atol=1e-12)


def test_grey_of_a_grey_image_is_itself() -> None:
    image = picture(4, 4, 1)
    assert np.allclose(luminance(np.repeat(image, 3, axis=2)), image, atol=1e-12)
    assert np.array_equal(luminance(image), image)


def test_plasma_is_the_diamond_square_algorithm_on_a_torus() -> None:
    side, decay = 8, 1.7
    random = np.random.default_rng(3)
    slow, scale, step = np.zeros((side, side)), 100.0, side
    while step > 1:
        half, count = step // 2, side // step

        def settle(down: int, right: int, beside: list[tuple[int, int]]) -> None:
            """Set one point of each cell to the mean of four others plus noise."""
            noise = scale * random.uniform(-scale, scale, (count, count))  # noqa: B023
            for i, j in np.ndindex(count, count):  # noqa: B023
                row, column = i * step + down, j * step + right  # noqa: B023
                points = [slow[(row + y) % side, (column + x) % side] for y, x in beside]
                slow[row, column] = sum(points) / 4 + noise[i, j]

        edges = [(0, -half), (0, half), (-half, 0), (half, 0)]
        settle(half, half, [(y, x) for y in (-half, half) for x in (-half, half)])
        settle(0, half, edges)
        settle(half, 0, edges)
        step, scale = half, scale / decay
    slow = (slow - slow.min()) / (slow.max() - slow.min())
    assert np.allclose(plasma(side, decay, np.random.default_rng(3)), slow, atol=1e-12)
