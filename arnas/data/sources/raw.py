"""What a source's reader returns, and what readers share."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from arnas.data.options import SplitOptions
from arnas.runtime.errors import UserError


class RawImages(NamedTuple):
    """What a reader returns."""

    images: np.ndarray
    """uint8 of shape (N, C, H, W)."""
    labels: np.ndarray
    """int64 of shape (N,)."""
    num_classes: int
    scale: int
    """The stored value that means 1.0."""
    split: np.ndarray | None = None
    """Optional split name of each image, shape (N,)."""
    sha256: str | None = None
    """Digest of the user's own files that were read, where the settings may demand one."""


class SplitImages(NamedTuple):
    """The images of one split that a dataset comes with."""

    name: str
    """One of `arnas.data.splits.SPLITS`."""
    images: np.ndarray
    """uint8 of shape (N, C, H, W), in any memory order."""
    labels: np.ndarray
    """Integers of shape (N,)."""


def joined(
    splits: Sequence[SplitImages],
    options: SplitOptions,
    num_classes: int,
    where: str,
    sha256: str | None = None,
) -> RawImages:
    """Put the splits that a dataset comes with one after the other.

    Parameters
    ----------
    splits
        In any order; of ``test`` the first `options.test_images` are taken, all by default.
    where
        Path of the dataset's settings, for messages.
    sha256
        As in `RawImages`.

    Raises
    ------
    UserError
        When there are fewer test images than the settings ask for.
    """
    chosen = [_first(split, options.test_images, where) if split.name == "test" else split
              for split in splits]  # fmt: skip
    counts = [len(split.labels) for split in chosen]
    # Filled in place: concatenation would keep the readers' memory order and be copied again.
    images = np.empty((sum(counts), *chosen[0].images.shape[1:]), np.uint8)
    start = 0
    for split, count in zip(chosen, counts, strict=True):
        images[start : start + count] = split.images
        start += count
    labels = np.concatenate([split.labels for split in chosen]).astype(np.int64)
    names = np.repeat([split.name for split in chosen], counts)
    return RawImages(images, labels, num_classes, 255, names, sha256)


def _first(test: SplitImages, count: int | None, where: str) -> SplitImages:
    """Return the first so many images of the test split."""
    if count is None:
        return test
    if count > len(test.labels):
        raise UserError(
            f"{where}.test_images is {count}, but its test set has {len(test.labels)} images: "
            "lower it, or leave it out for all of them."
        )
    return SplitImages(test.name, test.images[:count], test.labels[:count])


def check_room(needed: int, what: str) -> None:
    """Raise unless so many bytes fit into this machine's memory; `what` begins the message.

    Raises
    ------
    ValueError
        With both numbers.
    """
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > memory:
        raise ValueError(f"{what} {needed / 1e9:.0f} GB, this machine has {memory / 1e9:.0f} GB")
