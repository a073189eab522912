"""Where images come from: one entry for each source, with its citation.

A source turns its options into arrays; `arnas.data.splits.cut` divides them. A new source is one
option model, one reader here and one line in `SOURCES`.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from arnas.data.options import DatasetOptions, DigitsOptions, NpzOptions, ShapesOptions, user_file
from arnas.data.shapes import draw_shapes
from arnas.data.splits import PARTS, DatasetInfo, Splits, cut
from arnas.runtime.errors import UserError
from arnas.runtime.files import sha256_file

ARRAYS = ("images", "labels", "split")
"""What is read of a user's npz."""


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
    """Optional part name of each image, shape (N,)."""


@dataclass(frozen=True)
class Source:
    """A registry entry."""

    read: Callable[[Any, str], RawImages]
    """Called with the options and the dataset's name, for messages."""
    synthetic: bool
    citation: str


def read_digits(options: DigitsOptions, name: str) -> RawImages:
    """Read scikit-learn's digits; 17 grey levels, stored as 0 to 16."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = digits.images.astype(np.uint8)[:, None]
    return RawImages(images, digits.target.astype(np.int64), 10, 16)


def read_shapes(options: ShapesOptions, name: str) -> RawImages:
    """Draw the synthetic shapes."""
    images, labels = draw_shapes(options.images, options.image_size, options.images_seed)
    return RawImages(images, labels, 10, 255)


def read_npz(options: NpzOptions, name: str) -> RawImages:
    """Read a user's npz: `images` (N, H, W) or (N, H, W, C) uint8, `labels` (N,), maybe `split`."""
    path = user_file(options.path)
    where = f"data.{name}.path"
    if not path.is_file():
        raise UserError(
            f"{where} is '{options.path}', but there is no such file (looked for {path.resolve()}):"
            " correct the path."
        )
    if options.sha256 is not None and (found := sha256_file(path)) != options.sha256:
        raise UserError(
            f"data.{name}.sha256 is {options.sha256}, but {path} has {found}: restore the file, or "
            "write the new value if the change is meant."
        )
    try:
        _check_room(path)
        with np.load(path, allow_pickle=False) as archive:
            arrays = {key: np.asarray(archive[key]) for key in archive.files if key in ARRAYS}
            present = sorted(archive.files)
    except Exception as error:  # numpy raises over a dozen kinds, by where the damage is
        reason = " ".join(str(error).split())
        raise UserError(
            f"{where}: {path} is not a readable npz without pickles ({reason}); write it with "
            "numpy.savez_compressed(path, images=..., labels=...)."
        ) from None
    if absent := {"images", "labels"} - arrays.keys():
        raise UserError(
            f"{where}: {path} lacks the array {sorted(absent)[0]!r}; it holds {present}, "
            "needed are 'images' and 'labels'."
        )
    images = _check_images(arrays["images"], f"{where}: images")
    labels, num_classes = _check_labels(
        arrays["labels"], len(images), options.num_classes, f"{where}: labels"
    )
    split = arrays.get("split")
    if split is not None:
        if split.dtype.kind == "S":
            split = np.char.decode(split, "utf-8", "replace")
        split = split.astype(str)
        unknown = sorted(set(split.ravel().tolist()) - set(PARTS))
        if split.shape != labels.shape or unknown:
            raise UserError(
                f"{where}: split has shape {split.shape} and the unknown values {unknown}; needed "
                f"is one of {', '.join(PARTS)} for each of the {len(labels)} images."
            )
    return RawImages(images, labels, num_classes, 255, split)


def _check_room(path: Path) -> None:
    """Raise unless the arrays of an npz fit into this machine's memory when they are unpacked."""
    with zipfile.ZipFile(path) as archive:
        needed = sum(
            member.file_size
            for member in archive.infolist()
            if member.filename.removesuffix(".npy") in ARRAYS
        )
    if needed > (memory := os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")):
        raise ValueError(
            f"its arrays take {needed / 1e9:.0f} GB, this machine has {memory / 1e9:.0f} GB"
        )


def _check_images(images: np.ndarray, where: str) -> np.ndarray:
    """Return the images as (N, C, H, W), or say what is wrong with them."""
    if images.dtype != np.uint8:
        raise UserError(
            f"{where} are {images.dtype}, allowed is uint8 from 0 to 255; for floats in [0, 1] "
            "store (images * 255).round().astype('uint8')."
        )
    if images.ndim == 3:
        images = images[..., None]
    square = images.ndim == 4 and images.shape[1] == images.shape[2]
    if not square or images.shape[3] not in {1, 3} or images.shape[1] < 8:
        raise UserError(
            f"{where} have shape {images.shape}, allowed are (N, S, S), (N, S, S, 1) and "
            "(N, S, S, 3), square with S >= 8, channels last."
        )
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))


def _check_labels(
    labels: np.ndarray, count: int, num_classes: int | None, where: str
) -> tuple[np.ndarray, int]:
    """Return the labels as int64 with the number of classes, or say what is wrong with them."""
    if labels.dtype.kind not in "iu" or labels.shape != (count,):
        raise UserError(
            f"{where} are {labels.dtype} of shape {labels.shape}, needed are integers of shape "
            f"({count},), one for each image."
        )
    top = int(labels.max(initial=0)) + 1
    classes = num_classes or max(top, 2)
    if count and (labels.min() < 0 or top > classes):
        raise UserError(
            f"{where} run from {labels.min()} to {labels.max()}, allowed are 0 to {classes - 1} "
            f"for {classes} classes."
        )
    if count and len(np.unique(labels)) < 2:
        raise UserError(f"{where} are all {labels[0]}: needed are two classes or more.")
    return labels.astype(np.int64), classes


SOURCES: dict[str, Source] = {
    "sklearn_digits": Source(
        read_digits,
        synthetic=False,
        citation="E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI "
        "Machine Learning Repository, 1998; the copy in scikit-learn",
    ),
    "shapes": Source(read_shapes, synthetic=True, citation="drawn by arnas.data.shapes"),
    "npz": Source(read_npz, synthetic=False, citation="the user's own file"),
}


def load_dataset(name: str, options: DatasetOptions) -> Splits:
    """Read the dataset `name` and cut it into its parts.

    Raises
    ------
    UserError
        When a file is missing or wrong, or there are too few images.
    """
    source = SOURCES[options.source]
    raw = source.read(options, name)
    info = DatasetInfo(
        name=name,
        source=options.source,
        synthetic=source.synthetic,
        num_classes=raw.num_classes,
        image_size=raw.images.shape[2],
        in_channels=raw.images.shape[1],
        scale=raw.scale,
        citation=source.citation,
    )
    return cut(raw.images, raw.labels, info, options, raw.split)
