"""Image filters that the common corruptions are made of.

Images are arrays of shape (H, W, C) with values in [0, 1]; "levels" are the same image as uint8.
Where a filter stands for one of another library, its docstring names the convention it follows.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.signal import fftconvolve

Array = NDArray[Any]
WHITE = 255
FINE = 257
"""Levels of 16 bits in one of 8."""
SLACK = 1e-6
"""Grey levels that arithmetic may lose before a value counts as the level below."""


def to_levels(image: Array) -> Array:
    """Return an image as uint8: clipped to [0, 1] and cut off to whole grey levels.

    The scripts of the published sets convert with numpy's cast, which drops the fraction. `SLACK`
    keeps a level that arithmetic leaves as it is from falling to the one below.
    """
    cut: Array = (np.clip(image, 0, 1) * WHITE + SLACK).astype(np.uint8)
    return cut


def luminance(image: Array) -> Array:
    """Return the grey image of shape (H, W, 1) by the weights of ITU-R BT.601."""
    if image.shape[2] == 1:
        return image
    grey: Array = image @ np.array([[0.299], [0.587], [0.114]])
    return grey


def gaussian(image: Array, sigma: float, mode: str = "nearest", truncate: float = 4.0) -> Array:
    """Return an image, or a map of shape (H, W), blurred by a Gaussian; channels are not mixed.

    The defaults are those of scikit-image. The standard deviation is in pixels, and 0 changes
    nothing; `mode` and `truncate` are as in `scipy.ndimage.gaussian_filter`.
    """
    sigmas = (sigma, sigma, 0)[: image.ndim]
    blurred: Array = ndimage.gaussian_filter(image, sigmas, mode=mode, truncate=truncate)
    return blurred


@lru_cache(maxsize=64)
def disk_kernel(radius: float, sigma: float) -> Array:
    """Return a disk, smoothed by a small Gaussian, that sums to one: square, of odd side.

    Radius, above 0, and the Gaussian's sigma are in pixels. A pixel belongs to the disk by its
    centre; the Gaussian reaches one pixel up to a radius of 8 and two beyond. The script lets
    OpenCV smooth the disk within a frame that disks of radius 8 and 10 touch; what is mirrored
    there makes its kernel sum to slightly more than one. This one has room for all of it.
    """
    reach = 1 if radius <= 8 else 2
    side = np.arange(-math.floor(radius) - reach, math.floor(radius) + reach + 1)
    disk = (side[:, None] ** 2 + side[None, :] ** 2 <= radius**2).astype(float)
    weights = np.exp(-(np.arange(-reach, reach + 1.0) ** 2) / (2 * sigma**2))
    weights /= weights.sum()
    for axis in (0, 1):
        disk = ndimage.convolve1d(disk, weights, axis=axis, mode="constant")
    found: Array = disk / disk.sum()
    return found


def filtered(image: Array, kernel: Array) -> Array:
    """Return each channel convolved with an odd square kernel; borders mirror as in OpenCV.

    The border pixel itself is not repeated. The kernel's half side must be below the image's.
    """
    half = len(kernel) // 2
    padded = np.pad(image, ((half, half), (half, half), (0, 0)), mode="reflect")
    # Broadcast, because an FFT over two axes does not stretch the third one.
    kernels = np.broadcast_to(kernel[..., None], (*kernel.shape, image.shape[2]))
    found: Array = fftconvolve(padded, kernels, mode="valid", axes=(0, 1))
    return found


def motion_kernel(radius: float, sigma: float) -> Array:
    """Return the weights along a motion, of shape (2 ceil(radius) + 1,), with sum one.

    They fall like half a Gaussian from the pixel itself in one direction only, as in ImageMagick.
    """
    weights: Array = np.exp(-(np.arange(2 * math.ceil(radius) + 1.0) ** 2) / (2 * sigma**2))
    scaled: Array = weights / weights.sum()
    return scaled


def motion_blur(levels: Array, radius: float, sigma: float, angle: float) -> Array:
    """Return levels blurred along a direction, after the motion blur of ImageMagick.

    A pixel takes the weights of `motion_kernel` from the pixels that a straight line from it in
    the direction comes closest to; border pixels are repeated outward. The angle is in degrees,
    clockwise from the direction of growing columns. Like ImageMagick 6.9 this rounds to 16 bits,
    which are then cut off to 8.
    """
    kernel = motion_kernel(radius, sigma)
    room, (height, width, _) = len(kernel), levels.shape
    padded = np.pad(levels.astype(float), ((room, room), (room, room), (0, 0)), mode="edge")
    total = np.zeros(levels.shape)
    for step, weight in enumerate(kernel):
        down = room + math.ceil(step * math.sin(math.radians(angle)) - 0.5)
        right = room + math.ceil(step * math.cos(math.radians(angle)) - 0.5)
        total += weight * padded[down : down + height, right : right + width]
    cut: Array = (np.floor(FINE * total + 0.5) // FINE).astype(np.uint8)
    return cut


def zoomed(image: Array, factor: float) -> Array:
    """Return the middle of an image enlarged by a factor from 1 up, of the image's shape.

    Per axis the middle ceil(n / factor) pixels are stretched linearly to round(n factor) of that,
    end point on end point as by `scipy.ndimage.zoom`, and the middle n of those are kept.
    """
    for axis in (0, 1) if factor > 1 else ():
        lower, share = _stretch(image.shape[axis], factor)
        share = share.reshape(-1, *[1] * (image.ndim - axis - 1))
        start, end = image.take(lower, axis), image.take(lower + 1, axis)
        image = start + share * (end - start)
    return image


@lru_cache(maxsize=256)
def _stretch(count: int, factor: float) -> tuple[Array, Array]:
    """Return which pixel of an axis each new one follows, and how far it is from that one."""
    kept = math.ceil(count / factor)
    large = round(kept * factor)
    new = (large - count) // 2 + np.arange(count)
    places = new * ((kept - 1) / (large - 1))
    # The last point lies on the last pixel, which has no next one.
    lower = np.minimum(np.floor(places), kept - 2)
    return (count - kept) // 2 + lower.astype(int), places - lower


def sampled(image: Array, rows: Array, columns: Array, mode: str) -> Array:
    """Return an image read at fractional places, interpolated linearly.

    `rows` and `columns`, of shape (H, W), are where each pixel of the answer takes its value from;
    `mode` says what lies beyond the border, as in `scipy.ndimage.map_coordinates`.
    """
    places = np.stack([rows, columns])
    channels = [
        ndimage.map_coordinates(image[..., channel], places, order=1, mode=mode)
        for channel in range(image.shape[2])
    ]
    return np.stack(channels, axis=-1)


def plasma(side: int, decay: float, random: np.random.Generator) -> Array:
    """Draw a cloudy map by the diamond-square algorithm on a torus: (side, side), in [0, 1].

    Every pass halves the distance between known points: first the middles of squares, then the
    middles of their edges, each the mean of its four neighbours plus uniform noise. The noise of
    a pass is `decay` times smaller in scale than that of the pass before; its amplitude is the
    square of the scale, as in the script of the published sets. The side is a power of two, and
    the decay above 1: the larger it is, the smoother the map.
    """
    cloud, scale, step = np.zeros((side, side)), 100.0, side

    def with_noise(sums: Array) -> Array:
        moved: Array = sums / 4 + scale * random.uniform(-scale, scale, sums.shape)
        return moved

    while step > 1:
        half = step // 2
        corners = cloud[::step, ::step]
        pairs = corners + np.roll(corners, -1, axis=0)
        middles = with_noise(pairs + np.roll(pairs, -1, axis=1))
        cloud[half::step, half::step] = middles
        beside = corners + np.roll(corners, -1, axis=1)
        cloud[::step, half::step] = with_noise(middles + np.roll(middles, 1, axis=0) + beside)
        below = corners + np.roll(corners, -1, axis=0)
        cloud[half::step, ::step] = with_noise(middles + np.roll(middles, 1, axis=1) + below)
        step, scale = half, scale / decay
    cloud -= cloud.min()
    cloud /= cloud.max()
    return cloud
