"""How large a dataset is, known without its files where its authors fix it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from arnas.data.load import load_dataset
from arnas.data.options import DatasetOptions
from arnas.data.sources.registry import OFFICIAL
from arnas.data.splits import LabelledImages, share_of


@dataclass(frozen=True)
class DatasetSize:
    """Counts and shapes of a prepared dataset."""

    train: int
    search_val: int
    val: int
    test: int
    """Images of the four splits."""
    num_classes: int
    image_size: int
    """Side in pixels."""
    in_channels: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """Return (C, H, W) of an image."""
        return self.in_channels, self.image_size, self.image_size

    @property
    def images(self) -> int:
        """Return the number of images of all splits."""
        return self.train + self.search_val + self.val + self.test

    def noise(self, count: int, device: torch.device) -> LabelledImages:
        """Return so many images of noise of that shape on a device, with labels in turn."""
        generator = torch.Generator().manual_seed(0)
        shape = (count, *self.shape)
        images = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
        return LabelledImages(images, torch.arange(count) % self.num_classes).to(device)


def dataset_size(name: str, options: DatasetOptions) -> DatasetSize:
    """Return the size that a dataset will have; only files without a known size are read.

    Raises
    ------
    UserError
        When a file that must be read is missing or wrong.
    """
    if options.source not in OFFICIAL:
        splits = load_dataset(name, options)
        info, counts = splits.info, splits.counts()
        return DatasetSize(
            **counts,
            num_classes=info.num_classes,
            image_size=info.image_size,
            in_channels=info.in_channels,
        )
    size = OFFICIAL[options.source]
    extra = size.extra if getattr(options, "extra", False) else 0
    rest = size.train + extra - options.val_images
    validation = share_of(rest, options.search_val_fraction)
    return DatasetSize(
        rest - validation,
        validation,
        options.val_images,
        options.test_images or size.test,
        size.num_classes,
        size.image_size,
        3,
    )
