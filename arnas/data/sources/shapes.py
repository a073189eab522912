"""A synthetic 10-class set of coloured shapes, for transfer and load; never called real.

Each image has one shape of random size, place, turn and colour on a noisy background of another
colour. Shapes are given as signed distances in units of their radius, so any image size works.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from arnas.data.sources.raw import RawImages

Array = NDArray[Any]


def _box(u: Array, v: Array, half_u: float, half_v: float) -> Array:
    """Return the signed distance (Chebyshev) to a box centred at the origin."""
    distance: Array = np.maximum(np.abs(u) - half_u, np.abs(v) - half_v)
    return distance


def _triangle(u: Array, v: Array) -> Array:
    """Return the signed distance to an upright triangle of circumradius 1."""
    slope = np.sqrt(3.0) / 2
    sides = [v - 0.5, slope * u - 0.5 * v - 0.5, -slope * u - 0.5 * v - 0.5]
    distance: Array = np.maximum.reduce(sides)
    return distance


DISTANCES: dict[str, Callable[[Array, Array], Array]] = {
    "disk": lambda u, v: np.hypot(u, v) - 0.9,
    "ring": lambda u, v: np.abs(np.hypot(u, v) - 0.75) - 0.2,
    "square": lambda u, v: _box(u, v, 0.8, 0.8),
    "frame": lambda u, v: np.abs(_box(u, v, 0.72, 0.72)) - 0.2,
    "triangle": _triangle,
    "plus": lambda u, v: np.minimum(_box(u, v, 0.95, 0.28), _box(u, v, 0.28, 0.95)),
    "bar": lambda u, v: _box(u, v, 1.0, 0.3),
    "stripes": lambda u, v: np.maximum(_box(u, v, 1.0, 1.0), 0.22 - np.abs((v * 1.5) % 1.0 - 0.5)),
    "checkers": lambda u, v: np.maximum(_box(u, v, 1.0, 1.0), -4.0 * u * v),
    "dots": lambda u, v: np.hypot(np.abs(u) - 0.6, np.abs(v) - 0.6) - 0.33,
}
"""Class to outline, in the order of the labels."""
CLASSES = tuple(DISTANCES)


def read_shapes(where: str, image_size: int, images: int, images_seed: int) -> RawImages:
    """Draw the images of a dataset's settings."""
    return RawImages(*draw_shapes(images, image_size, images_seed), 10, 255)


def draw_shapes(count: int, size: int, seed: int) -> tuple[Array, Array]:
    """Draw `count` images of `size` x `size` pixels, 8 and more, the classes in turn.

    Returns
    -------
    images, labels
        uint8 of shape (count, 3, size, size) and int64 of shape (count,).
    """
    random = np.random.Generator(np.random.PCG64(seed))
    labels = np.arange(count) % len(CLASSES)
    grid = (np.arange(size) + 0.5) / size * 2 - 1
    y, x = np.meshgrid(grid, grid, indexing="ij")
    images = np.empty((count, 3, size, size), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        radius = random.uniform(0.5, 0.75)
        centre = random.uniform(-0.2, 0.2, size=2)
        turn = random.uniform(-0.3, 0.3)
        u = ((x - centre[0]) * np.cos(turn) + (y - centre[1]) * np.sin(turn)) / radius
        v = ((y - centre[1]) * np.cos(turn) - (x - centre[0]) * np.sin(turn)) / radius
        distance = DISTANCES[CLASSES[label]](u, v) * radius * size / 2
        cover = np.clip(0.5 - distance, 0.0, 1.0)
        background = random.uniform(0.1, 0.9, size=3)
        foreground = np.clip(background + random.choice([-1.0, 1.0], size=3) * 0.5, 0.0, 1.0)
        noise = random.normal(0.0, 0.04, size=(3, size, size))
        colour = background[:, None, None] * (1 - cover) + foreground[:, None, None] * cover
        image[:] = np.clip(np.round((colour + noise) * 255), 0, 255).astype(np.uint8)
    return images, labels.astype(np.int64)
