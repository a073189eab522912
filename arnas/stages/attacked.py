"""What the stages that attack have in common."""

from __future__ import annotations

import torch
from torch import Tensor

from arnas.data.placement import fits
from arnas.data.splits import Splits, load_splits
from arnas.pipeline.runner import StageContext
from arnas.runtime.device import use_full_float32

STEP = 1024
"""Images of a large set that are made float together."""


def images_to_attack(context: StageContext) -> tuple[Splits, Tensor, Tensor]:
    """Return the dataset of the job with its test images and labels, to be attacked in float32.

    Returns
    -------
    splits, x, y
        float32 of shape (N, C, H, W) in [0, 1] and int64 of shape (N,). The labels are on the
        job's device; the images too if they fit there, else on the host.
    """
    use_full_float32()
    splits = load_splits(context.inputs["splits"], context.axes["dataset"])
    images, y = splits.part("test")
    return splits, pixels_to_attack(splits, images, context.device), y.to(context.device)


def pixels_to_attack(splits: Splits, images: Tensor, device: torch.device) -> Tensor:
    """Return uint8 images as float32, on the device if they fit there, else on the host."""
    if fits(4 * images.nbytes, device):
        return splits.pixels(images.to(device))
    # Computed there all the same: the last bit of the division is another one on the host.
    parts = torch.split(images, STEP)
    return torch.cat([splits.pixels(part.to(device)).cpu() for part in parts])
