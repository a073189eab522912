"""Where images lie while a job computes: on its device if they fit, else on the host.

Labels always lie on the device, so a set says by itself where its batches belong.
"""

from __future__ import annotations

import torch
from torch import Tensor

from arnas.data.splits import LabelledImages

SHARE = 0.25
"""Share of a device's free memory that one set may take; networks and their gradients need more."""


def placed(data: LabelledImages, device: torch.device, share: float = SHARE) -> LabelledImages:
    """Put a set where a job computes.

    Parameters
    ----------
    data
        On the host.
    share
        Share of the device's free memory that the images may take.

    Returns
    -------
    LabelledImages
        The labels on the device; the images too if they fit, else on the host.
    """
    stays = fits(data.images.nbytes, device, share)
    return LabelledImages(data.images.to(device) if stays else data.images, data.labels.to(device))


def fits(size: int, device: torch.device, share: float = SHARE) -> bool:
    """Return whether so many bytes take at most that share of the device's free memory.

    On the CPU everything fits, because it is there already.
    """
    if device.type != "cuda":
        return True
    free, _ = torch.cuda.mem_get_info(device)
    return size <= share * free


def on_device(images: Tensor, device: torch.device) -> Tensor:
    """Return a batch on a device; a copy from the host overlaps with what the device computes."""
    if images.device == device:
        return images
    if images.device.type == "cpu" and device.type == "cuda":
        images = images.pin_memory()
    return images.to(device, non_blocking=True)


def gather(data: LabelledImages, index: Tensor) -> LabelledImages:
    """Return the images of an index and their labels, both on the device of the labels.

    The data are as `placed` has put them; the index is int64 of shape (n,), on any device.
    """
    device = data.labels.device
    images = data.images[index.to(data.images.device)]
    return LabelledImages(on_device(images, device), data.labels[index.to(device)])
