"""Batches of training images: shuffled, augmented and scaled on the device.

The order of an epoch and its augmentation are functions of their seed parts, so a run resumed in
the middle of an epoch sees the same batches.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from arnas.data.options import AugmentOptions
from arnas.data.placement import gather
from arnas.data.splits import LabelledImages, to_pixels
from arnas.runtime.seeds import make_generator


class Batch(NamedTuple):
    """Float images in [0, 1] of shape (N, C, H, W) and int64 labels of shape (N,)."""

    x: Tensor
    y: Tensor


def augment(images: Tensor, options: AugmentOptions, generator: torch.Generator) -> Tensor:
    """Crop, mirror and cut out at random; every image has its own draws.

    Parameters
    ----------
    images
        uint8 of shape (N, C, H, W), as is what is returned.
    generator
        Source of the draws; a CPU generator, whatever the device of the images.
    """
    count, _, height, width = images.shape
    device = images.device

    def draw(low: int, high: int) -> Tensor:
        return torch.randint(low, high, (count, 1), generator=generator).to(device)

    if pad := options.crop_padding:
        rows = draw(0, 2 * pad + 1) + torch.arange(height, device=device)
        columns = draw(0, 2 * pad + 1) + torch.arange(width, device=device)
        image = torch.arange(count, device=device)[:, None, None]
        padded = F.pad(images, (pad, pad, pad, pad)).permute(0, 2, 3, 1)
        images = padded[image, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    if options.flip:
        images = torch.where(draw(0, 2)[:, :, None, None] == 1, images.flip(3), images)
    if options.cutout:

        def band(size: int) -> Tensor:
            place = torch.arange(size, device=device) - draw(0, size) + options.cutout // 2
            return (place >= 0) & (place < options.cutout)

        hole = band(height)[:, None, :, None] & band(width)[:, None, None, :]
        images = images.masked_fill(hole, 0)
    return images.contiguous()


def epoch_batches(
    data: LabelledImages,
    scale: int,
    batch_size: int,
    augmentation: AugmentOptions,
    seed_parts: Sequence[object],
) -> Iterator[Batch]:
    """Yield the shuffled batches of one epoch.

    A last batch smaller than `batch_size` is left out, unless it is the only one: batch statistics
    of a handful of images are noise, and the shuffle leaves out other images in each epoch.

    Parameters
    ----------
    data
        uint8 images and labels as `arnas.data.placement.placed` has put them; the batches are on
        the device of the labels.
    scale
        The stored value that means 1.0.
    seed_parts
        What the epoch's random numbers are for, the epoch included.
    """
    count = len(data.labels)
    generator = make_generator(*seed_parts)
    order = torch.randperm(count, generator=generator).to(data.images.device)
    for start in range(0, max(count - batch_size, 0) + 1, batch_size):
        images, labels = gather(data, order[start : start + batch_size])
        yield Batch(to_pixels(augment(images, augmentation, generator), scale), labels)


def batches_per_epoch(count: int, batch_size: int) -> int:
    """Return how many batches `epoch_batches` yields for `count` images."""
    return max(count // batch_size, 1)
