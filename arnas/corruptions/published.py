"""CIFAR-10-C and CIFAR-100-C as published: a folder of ``.npy`` files (Hendrycks and Dietterich).

``<corruption>.npy`` holds uint8 images of shape (50000, 32, 32, 3): the 10,000 test images of CIFAR
in their order, five times, by severity. ``labels.npy`` holds the 50,000 labels. The files are those
of Zenodo, records 2535967 (CIFAR-10-C) and 3555552 (CIFAR-100-C), unpacked.

>>> images = load_images("cifar10")
>>> published = load_published(Path("CIFAR-10-C"))
>>> corruption_accuracy(model, images.x, images.y, batch_size=500, seed=0,
...                     indices=images.indices, published=published).mean
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from arnas.corruptions.constants import SEVERITIES
from arnas.corruptions.corrupt import CORRUPTIONS
from arnas.data.untrusted import HEAD, read_foreign
from arnas.runtime.errors import UserError, one_line

COUNT, SIDE = 10_000, 32
HOME = "https://zenodo.org/records/2535967 (CIFAR-10-C) or 3555552 (CIFAR-100-C)"
_NAMES = list(CORRUPTIONS)
NAMES = (*_NAMES[: _NAMES.index("fog")], "frost", *_NAMES[_NAMES.index("fog") :])
"""The fifteen corruptions, in the order of the paper."""


@dataclass(frozen=True)
class PublishedCorruptions:
    """The files of one of the two sets."""

    folder: Path
    name: str
    """``CIFAR-10-C`` or ``CIFAR-100-C``."""
    labels: Tensor
    """int64 of shape (count,): those of the test images."""
    names: tuple[str, ...] = NAMES
    """The corruptions of the set."""

    def images(self, corruption: str, severity: int, indices: Tensor) -> Tensor:
        """Return test images under a corruption, uint8 of shape (n, 3, 32, 32)."""
        rows = indices.numpy() + (severity - 1) * len(self.labels)
        stored = self._stored(corruption)[rows]  # a copy of these rows only
        return torch.from_numpy(stored).permute(0, 3, 1, 2).contiguous()

    def check(self, names: Sequence[str], indices: Tensor, labels: Tensor) -> None:
        """Raise unless the corruptions' files are there, and the labels are those of the images.

        Raises
        ------
        UserError
            When a file is missing or of another form, or other images than the test set's are
            meant.
        """
        for name in names:
            self._stored(name)
        count = len(self.labels)
        if len(indices) and not (int(indices.min()) >= 0 and int(indices.max()) < count):
            raise UserError(
                f"indices run from {int(indices.min())} to {int(indices.max())}: allowed are the "
                f"places 0 to {count - 1} in the test set of {self.name}."
            )
        if (wrong := self.labels[indices] != labels).any():
            raise UserError(
                f"{int(wrong.sum())} of the {len(labels)} labels are not those of "
                f"{one_line(self.folder / 'labels.npy')}: give the official test images with their "
                "places as indices."
            )

    def _stored(self, corruption: str) -> np.ndarray:
        """Return the file of a corruption, mapped and not read."""
        shape = (len(SEVERITIES) * len(self.labels), SIDE, SIDE, 3)
        return _mapped(self.folder / f"{corruption}.npy", "u1", shape)


def load_published(folder: Path, count: int = COUNT) -> PublishedCorruptions:
    """Return the published images in a folder, whose labels say which of the two sets they are.

    `count` is the number of images of each severity.

    Raises
    ------
    UserError
        When the labels are missing, damaged or of another form.
    """
    path = folder / "labels.npy"
    labels = _mapped(path, "iu", (len(SEVERITIES) * count,)).astype(np.int64).reshape(-1, count)
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high > 99 or (labels != labels[0]).any():
        raise UserError(
            f"{one_line(path)} holds labels from {low} to {high}, needed are the same from 0 to 9 "
            f"or to 99 for each severity: download it again from {HOME}."
        )
    name = "CIFAR-10-C" if high < 10 else "CIFAR-100-C"
    return PublishedCorruptions(folder, name, torch.from_numpy(labels[0].copy()))


def _mapped(path: Path, kinds: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return the array of an ``.npy`` file without reading it; `kinds` are letters of its type."""
    read_foreign(path, frozenset({"npy"}), most=HEAD)  # a pipe would be waited for
    try:
        array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # numpy raises many kinds, by where the damage is
        raise UserError(
            f"{one_line(path)} is not a readable .npy without pickles ({one_line(error, 120)}): "
            f"download it again from {HOME}."
        ) from None
    fits = array.dtype == np.uint8 if kinds == "u1" else array.dtype.kind in kinds
    if not fits or array.shape != shape:
        raise UserError(
            f"{one_line(path)} holds {array.dtype} of shape {array.shape}, needed is "
            f"{'uint8' if kinds == 'u1' else 'integers'} of shape {shape}: download it again from "
            f"{HOME}."
        )
    return array
