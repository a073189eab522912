"""Common corruptions: fourteen of the fifteen of CIFAR-10-C and ImageNet-C, made from formulas.

The benchmark is that of Hendrycks and Dietterich (ICLR 2019, arXiv 1903.12261). Frost is missing,
because it lays photographs of frost over the image that cannot be shipped. The images are made anew
with random numbers of their own: an accuracy on them is another number than one on the published
sets, and is never called CIFAR-10-C.

**Constants by size.** The published sets use other constants for other sizes. The shorter side
decides: from 32 to 63 pixels those of CIFAR-10-C, from 64 to 223 those of Tiny-ImageNet-C, from 224
on those of ImageNet-C. Constants in pixels are not scaled in between.

**Known differences.** Formulas say in their docstrings where they part from the scripts. Fog,
enlargements and the affine map, which the scripts write for square images, treat each axis by its
own length. The published ImageNet-C and Tiny-ImageNet-C were stored as JPEG of quality 85
afterwards; here nothing is compressed but by ``jpeg_compression``.

**Severity.** It numbers the constants of the scripts and is no measure of a distance. With those of
CIFAR-10-C and Tiny-ImageNet-C the squared error of elastic transform falls from 1 to 5, that of
glass blur goes up and down, and motion blur at 3 and 4 of CIFAR-10-C is the same blur.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from arnas.attacks.pgd import ROUNDING
from arnas.corruptions import formulas
from arnas.corruptions.constants import SCRIPTS, SEVERITIES
from arnas.corruptions.filters import Array
from arnas.corruptions.formulas import Constants, Formula
from arnas.runtime.errors import UserError
from arnas.runtime.seeds import derive_seed

SMALLEST = 32
"""Shortest side in pixels; there are no constants for smaller images."""
PAPER = "Hendrycks and Dietterich, ICLR 2019, arXiv 1903.12261"


CORRUPTIONS: dict[str, Formula] = {
    "gaussian_noise": formulas.gaussian_noise,
    "shot_noise": formulas.shot_noise,
    "impulse_noise": formulas.impulse_noise,
    "defocus_blur": formulas.defocus_blur,
    "glass_blur": formulas.glass_blur,
    "motion_blur": formulas.motion,
    "zoom_blur": formulas.zoom_blur,
    "snow": formulas.snow,
    "fog": formulas.fog,
    "brightness": formulas.brightness,
    "contrast": formulas.contrast,
    "elastic_transform": formulas.elastic_transform,
    "pixelate": formulas.pixelate,
    "jpeg_compression": formulas.jpeg_compression,
}
"""Name to formula: the fourteen in the order of the paper, noise, blur, weather and digital."""


def constants_for(height: int, width: int) -> tuple[str, Mapping[str, tuple[Constants, ...]]]:
    """Return the published set whose constants images of that size get, and these."""
    return SCRIPTS[max(side for side in SCRIPTS if side <= min(height, width))]


def corrupt(
    images: Tensor, name: str, severity: int, seed: int, indices: Tensor | None = None
) -> Tensor:
    """Return images with a corruption.

    An image's random numbers are a function of seed, corruption, severity and its index only: the
    batch it stands in, its place there and the other images do not matter.

    Parameters
    ----------
    images
        Of shape (N, C, H, W), 1 or 3 channels, height and width from 32 up; uint8, or float in
        [0, 1], which is rounded to 8 bits first.
    name
        A key of `CORRUPTIONS`.
    severity
        1 to 5.
    seed
        Seed of every random choice.
    indices
        int64 of shape (N,): the images' places in their dataset; None for the first N.

    Returns
    -------
    Tensor
        Of the shape, dtype and device of `images`, which stay as they are: uint8, or whole
        multiples of 1/255. As in the published sets, values are cut off to whole grey levels.

    Raises
    ------
    UserError
        For an unknown corruption, an impossible severity, or images it cannot be applied to.
    """
    if name not in CORRUPTIONS:
        reason = " (frost needs photographs that cannot be shipped)" if name == "frost" else ""
        raise UserError(f"corruption is '{name}'{reason}: allowed are {', '.join(CORRUPTIONS)}.")
    if severity not in SEVERITIES:
        raise UserError(f"severity is {severity}: allowed are 1 to 5.")
    check_images(images)
    if indices is None:
        indices = torch.arange(len(images))
    if indices.shape != images.shape[:1]:
        raise UserError(
            f"indices has shape {tuple(indices.shape)}: needed is one index for each of the "
            f"{len(images)} images."
        )
    levels = _levels(images)
    found = np.empty_like(levels)
    constants = constants_for(*levels.shape[1:3])[1][name][severity - 1]
    for place, index in enumerate(indices.tolist()):
        random = _generator(name, severity, seed, index)
        found[place] = CORRUPTIONS[name](levels[place], constants, random)
    answer = torch.from_numpy(found).permute(0, 3, 1, 2).contiguous().to(images.device)
    return answer if images.dtype == torch.uint8 else answer.to(images.dtype) / 255


def _generator(name: str, severity: int, seed: int, index: int) -> np.random.Generator:
    """Return the source of random numbers of one image under one corruption."""
    return np.random.Generator(np.random.PCG64(derive_seed("corrupt", name, severity, seed, index)))


def _levels(images: Tensor) -> Array:
    """Return images as uint8 of shape (N, H, W, C) on the host, maybe in memory of theirs."""
    if images.dtype != torch.uint8:
        # Half precision has too few digits for the product.
        images = (images.detach().float() * 255).round().clamp(0, 255).to(torch.uint8)
    return np.ascontiguousarray(images.cpu().permute(0, 2, 3, 1).numpy())


def check_images(images: Tensor) -> None:
    """Raise unless corruptions can be applied to images.

    Raises
    ------
    UserError
        For a shape, a type or a range that `corrupt` does not take.
    """
    shape = tuple(images.shape)
    if images.ndim != 4 or shape[1] not in (1, 3):
        raise UserError(
            f"images have shape {shape}: corruptions take (N, C, H, W) with 1 or 3 channels."
        )
    if min(shape[2:]) < SMALLEST:
        raise UserError(
            f"images are {shape[2]} x {shape[3]} pixels: the corruptions have constants for "
            f"{SMALLEST} x {SMALLEST} and larger only; leave them out for this dataset."
        )
    if images.dtype == torch.uint8:
        return
    if not images.is_floating_point():
        raise UserError(f"images are {images.dtype}: corruptions take uint8, or float in [0, 1].")
    if len(images) and not (images.min() >= -ROUNDING and images.max() <= 1 + ROUNDING):
        raise UserError(
            f"images run from {images.min():.4g} to {images.max():.4g}: corruptions take pixels in "
            "[0, 1]; put the normalisation into the model."
        )
