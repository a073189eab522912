"""The formulas of fourteen common corruptions (Hendrycks and Dietterich, arXiv 1903.12261).

Each takes an image as uint8 of shape (H, W, C), the constants of a severity and a source of random
numbers, and returns uint8 of the same shape; the image itself stays as it is. They compute in
float64 where the published scripts partly use float32, and draw from numpy's generators instead of
its global state.

Given the scripts' random numbers, in the order in which the scripts draw them, they give the images
of the scripts run with OpenCV 5.0, scikit-image 0.26 and ImageMagick 6.9, but for values of single
pixels by one level, and for what the docstrings say of `defocus_blur` and `elastic_transform`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from io import BytesIO

import numpy as np
from PIL import Image

from arnas.corruptions.filters import (
    WHITE,
    Array,
    disk_kernel,
    filtered,
    gaussian,
    luminance,
    motion_blur,
    plasma,
    sampled,
    to_levels,
    zoomed,
)

Constants = tuple[float, ...]
Formula = Callable[[Array, Constants, np.random.Generator], Array]


def gaussian_noise(levels: Array, constants: Constants, random: np.random.Generator) -> Array:
    """Add normal noise to every value; constant: its standard deviation."""
    (deviation,) = constants
    image = levels / WHITE
    return to_levels(image + random.normal(scale=deviation, size=image.shape))


def shot_noise(levels: Array, constants: Constants, random: np.random.Generator) -> Array:
    """Count photons: every value becomes a Poisson number; constant: photons of a white pixel."""
    (photons,) = constants
    return to_levels(random.poisson(levels / WHITE * photons) / photons)


def impulse_noise(levels: Array, constants: Constants, random: np.random.Generator) -> Array:
    """Set values to black or white, each with probability one half; constant: share of values.

    Channels are hit independently, as by salt-and-pepper noise in scikit-image.
    """
    (share,) = constants
    hit = random.random(levels.shape) <= share
    white = random.random(levels.shape) <= 0.5
    found: Array = np.where(hit, np.where(white, WHITE, 0), levels).astype(np.uint8)
    return found


def defocus_blur(levels: Array, constants: Constants, random: np.random.Generator) -> Array:
    """Blur by a disk; constants: radius and smoothing of `disk_kernel`. Nothing is random.

    With disks of radius 8 and 10 the script's image is brighter by up to 4 levels, because its
    kernel sums to more than one.
    """
    return to_levels(filtered(levels / WHITE, disk_kernel(*constants)))


def glass_blur(levels: Array, constants: Constants, random: np.random.Generator) -> Array:
    """Blur, take pixels from near-by places, blur again.

    Constants: standard deviation of the blur, largest distance of a place, number of passes. The
    paper speaks of shuffling; in the script, the two halves of a swap are views of one array, so
    that a pixel is overwritten by its neighbour, which itself stays. The published sets hold the
    outcome of that, and so does this.
    """
    sigma, distance, passes = constants[0], int(constants[1]), int(constants[2])
    height, width, channels = levels.shape
    pixels = to_levels(gaussian(levels / WHITE, sigma)).reshape(-1, channels)
    rows = np.arange(height - distance, distance, -1)
    columns = np.arange(width - distance, distance, -1)
    targets = (rows[:, None] * width + columns).ravel()
    origins = list(range(height * width))
    for _ in range(passes):
        across, down = random.integers(-distance, distance, size=(len(targets), 2)).T
        sources = targets + down * width + across
        # One after the other: a source may have been a target before.
        for target, source in zip(targets.tolist(), sources.tolist(), strict=True):
            origins[target] = origins[source]
    moved = pixels[origins].reshape(levels.shape)
    return to_levels(gaussian(moved / WHITE, sigma))


def motion(levels: Array, constants: Constants, random: np.random.Generator) -> Array:
    """Blur along a direction up to 45 degrees off the rows; constants: radius and deviation."""
    radius, sigma = constants
    return motion_blur(levels, radius, sigma, random.uniform(-45, 45))


def zoom_blur(levels: Array, constants: Constants, random: np.random.Generator) -> Array:
    """Average the image and its enlargements; constants: end and step of the factors from 1.

    The image itself enters twice, because 1 is a factor too. Nothing is random.
    """
    stop, step = constants
    image = levels / WHITE
    factors = np.arange(1, stop, step)
    total = image.copy()
    for factor in factors:
        total += zoomed(image, float(factor))
    return to_levels(total / (len(factors) + 1))


def snow(levels: Array, constants: Constants, random: np.random.Generator) -> Array:
    """Whiten the image and let streaks of snow fall on it, and the same turned by half a circle.

    Constants: mean and deviation of the noise that flakes come from, their enlargement, threshold,
    radius and deviation of their motion blur, share of the image that is not whitened.
    """
    mean, deviation, enlargement, threshold, radius, sigma, kept = constants
    image = levels / WHITE
    flakes = random.normal(mean, deviation, size=(*levels.shape[:2], 1))
    flakes = zoomed(flakes, enlargement)
    flakes[flakes < threshold] = 0
    streaks = motion_blur(to_levels(flakes), radius, sigma, random.uniform(-135, -45)) / WHITE
    whitened = np.maximum(image, 1.5 * luminance(image) + 0.5)
    return to_levels(kept * image + (1 - kept) * whitened + streaks + streaks[::-1, ::-1])


def fog(levels: Array, constants: Constants, random: np.random.Generator) -> Array:
    """Lay a cloudy map over the image; constants: its thickness, and the decay of `plasma`."""
    thickness, decay = constants
    image = levels / WHITE
    height, width = levels.shape[:2]
    side = 2 ** math.ceil(math.log2(max(height, width)))
    cloud = plasma(side, decay, random)[:height, :width, None]
    brightest = image.max()
    return to_levels((image + thickness * cloud) * brightest / (brightest + thickness))


def brightness(levels: Array, constants: Constants, random: np.random.Generator) -> Array:
    """Raise V of HSV by a constant. Nothing is random.

    V is the largest channel. Hue and saturation stay if all channels grow in one proportion; black
    has neither and becomes grey.
    """
    (amount,) = constants
    image = levels / WHITE
    value = image.max(axis=2, keepdims=True)
    raised = np.minimum(value + amount, 1)
    growth = raised / np.where(value > 0, value, 1)
    return to_levels(np.where(value > 0, image * growth, raised))


def contrast(levels: Array, constants: Constants, random: np.random.Generator) -> Array:
    """Draw values to the mean of their channel; constant: what is left of the distance.

    Nothing is random.
    """
    (share,) = constants
    image = levels / WHITE
    mean = image.mean(axis=(0, 1), keepdims=True)
    return to_levels(mean + share * (image - mean))


def elastic_transform(levels: Array, constants: Constants, random: np.random.Generator) -> Array:
    """Warp the image by a random affine map, then by a random smooth field.

    Constants, in pixels: size of the field, its smoothness, and how far the affine map moves three
    points around the middle. The field's noise is smoothed before it is scaled, so its size is
    less than the constant. OpenCV 4 rounds the places of the affine map to 1/32 pixel, which makes
    up to 4 levels; here, as in OpenCV 5, they are exact.
    """
    size, smoothness, shift = constants
    shape = levels.shape[:2]
    rows, columns = _affine_places(shape, random.uniform(-shift, shift, size=(3, 2)))
    image = sampled(levels / WHITE, rows, columns, mode="mirror")
    noise = [random.uniform(-1, 1, size=shape) for _ in range(2)]
    across, down = (size * gaussian(n, smoothness, mode="reflect", truncate=3) for n in noise)
    rows, columns = np.meshgrid(np.arange(shape[0]), np.arange(shape[1]), indexing="ij")
    return to_levels(sampled(image, rows + down, columns + across, mode="reflect"))


def _affine_places(shape: tuple[int, ...], moves: Array) -> tuple[Array, Array]:
    """Return where each pixel comes from under the affine map that moves three points.

    They lie a third of the shorter side to the lower right, upper right and upper left of the
    middle; `moves`, of shape (3, 2), are in pixels, across and down.
    """
    reach = min(shape) // 3
    middle = np.array([shape[1] // 2, shape[0] // 2])
    points = middle + reach * np.array([[1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]])
    # From the moved points back, for a pixel asks where it comes from.
    back = np.linalg.solve(np.column_stack([points + moves, np.ones(3)]), points)
    down, across = np.meshgrid(np.arange(shape[0]), np.arange(shape[1]), indexing="ij")
    places = across[..., None] * back[0] + down[..., None] * back[1] + back[2]
    return places[..., 1], places[..., 0]


def pixelate(levels: Array, constants: Constants, random: np.random.Generator) -> Array:
    """Shrink the image and enlarge it again, both by Pillow's box filter; constant: the factor.

    Nothing is random.
    """
    (factor,) = constants
    height, width = levels.shape[:2]
    small = _to_pillow(levels).resize(
        (int(width * factor), int(height * factor)), Image.Resampling.BOX
    )
    return _from_pillow(small.resize((width, height), Image.Resampling.BOX))


def jpeg_compression(levels: Array, constants: Constants, random: np.random.Generator) -> Array:
    """Compress the image by Pillow's JPEG with its defaults; constant: the quality.

    Nothing is random, but codecs of different versions may differ by single levels.
    """
    stream = BytesIO()
    _to_pillow(levels).save(stream, "JPEG", quality=int(constants[0]))
    with Image.open(stream) as compressed:
        return _from_pillow(compressed)


def _to_pillow(levels: Array) -> Image.Image:
    """Return levels of 1 or 3 channels as an image of Pillow."""
    return Image.fromarray(levels[..., 0] if levels.shape[2] == 1 else levels)


def _from_pillow(image: Image.Image) -> Array:
    """Return an image of Pillow as levels of shape (H, W, C)."""
    levels = np.asarray(image)
    return levels[..., None] if levels.ndim == 2 else levels
