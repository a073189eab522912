"""What a source's reader returns, and what readers share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class RawImages(NamedTuple):
    """What a reader returns."""

    images: np.ndarray
    """uint8 of shape (N, C, H, W); of a user's npz also float32 in [0, 1]."""
    labels: np.ndarray
    """int64 of shape (N,)."""
    num_classes: int
    scale: int
    """The stored value that means 1.0."""
    split: np.ndarray | None = None
    """The split of each image, shape (N,), if the source is divided."""
    sha256: str | None = None
    """Digest of the user's own files that were read, where the settings may demand one."""
    classes: tuple[str, ...] = ()
    """Their names by number, where the images have some."""
    warnings: tuple[str, ...] = ()
    """What is odd about the images, in clauses without a full stop."""


class SplitImages(NamedTuple):
    """The images of one split that a dataset comes with."""

    name: str
    """One of `arnas.data.sources.registry.SPLITS`."""
    images: np.ndarray
    """uint8 of shape (N, C, H, W), in any memory order."""
    labels: np.ndarray
    """Integers of shape (N,)."""


def joined(splits: Sequence[SplitImages], num_classes: int, sha256: str | None = None) -> RawImages:
    """Put the splits that a dataset comes with one after the other, the test set last."""
    splits = sorted(splits, key=lambda split: split.name == "test")
    counts = [len(split.labels) for split in splits]
    # Filled in place: concatenation would keep the readers' memory order and be copied again.
    images = np.empty((sum(counts), *splits[0].images.shape[1:]), np.uint8)
    start = 0
    for split, count in zip(splits, counts, strict=True):
        images[start : start + count] = split.images
        start += count
    labels = np.concatenate([split.labels for split in splits]).astype(np.int64)
    names = np.repeat([split.name for split in splits], counts)
    return RawImages(images, labels, num_classes, 255, names, sha256)
