"""Images and labels of any npz, as pixels: mistakes are named, and none is guessed away."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from arnas.data.sources.npz import read_arrays
from arnas.data.splits import SPLITS
from arnas.data.untrusted import HEAD, read_foreign
from arnas.runtime.errors import UserError, one_line

CHANNELS = (1, 3)
ROUNDING = 1e-6
"""By which floats may leave [0, 1]; they are put back."""
MOST_CLASSES = 1_000_000
DARK = 128
"""A stored maximum below it is worth a warning where 255 means white."""


class NpzImages(NamedTuple):
    """What an npz holds."""

    images: np.ndarray
    """uint8 or float32 of shape (N, C, H, W)."""
    labels: np.ndarray
    """int64 of shape (N,)."""
    scale: int
    """The stored value that means 1.0: 255 of uint8, 1 of floats."""
    num_classes: int
    split: str | None
    """The split that was asked for; None if the file has no splits."""
    warnings: tuple[str, ...]


def read_npz_images(path: Path, split: str) -> NpzImages:
    """Read images and labels of an npz.

    Parameters
    ----------
    path
        Holds one pair of arrays: `x` and `y`, `images` and `labels`, or, for each split, as
        `x_test` and `y_test`. Images are uint8 from 0 to 255 or floats in [0, 1], of shape
        (N, H, W), (N, H, W, C) or (N, C, H, W) with 1 or 3 channels; labels are integers from 0
        up. An array
        `split` names the split of each image.
    split
        Which of its splits, if it has some.

    Raises
    ------
    UserError
        When it holds something else, and for whatever `arnas.data.sources.npz.read_arrays` refuses.
    """
    shown = one_line(path, 200)
    read_foreign(path, frozenset({"zip"}), most=HEAD)  # a pipe would be waited for
    names: list[str] = []

    def chosen(present: Sequence[str]) -> list[str]:
        names.extend(_pair(present, split, shown))
        return [
            *names,
            *(["split"] if "split" in present and not names[0].startswith("x_") else []),
        ]

    arrays = read_arrays(path, chosen, "")
    images, labels = arrays[names[0]], arrays[names[1]]
    where = f"{shown}: {names[0]}"
    images = _channels_first(images, where)
    labels = _checked_labels(labels, len(images), f"{shown}: {names[1]}")
    num_classes = max(int(labels.max()) + 1, 2)
    own = split if names[0].startswith("x_") else None
    if "split" in arrays:
        mask = _rows(arrays["split"], split, len(labels), f"{shown}: split")
        images, labels, own = images[mask], labels[mask], split
    images, notes = _pixels(images, where)
    if labels.min() > 0:
        notes.append(f"{shown}: {names[1]} begin at {labels.min()}, and classes count from 0")
    scale = 255 if images.dtype == np.uint8 else 1
    return NpzImages(images, labels, scale, num_classes, own, tuple(notes))


def _pair(present: Sequence[str], split: str, shown: str) -> tuple[str, str]:
    """Return the names of the images and of the labels."""
    pairs = [("x", "y"), ("images", "labels"), (f"x_{split}", f"y_{split}")]
    found = [pair for pair in pairs if set(pair) <= set(present)]
    if len(found) == 1:
        return found[0]
    holds = one_line(", ".join(sorted(present)) or "nothing", 200)
    if found:
        raise UserError(
            f"{shown} holds {holds}, which is more than one pair of images and labels: keep one."
        )
    words = ", or ".join(" and ".join(pair) for pair in pairs)
    raise UserError(f"{shown} holds {holds}: needed are the arrays {words}.")


def _channels_first(images: np.ndarray, where: str) -> np.ndarray:
    """Return images as (N, C, H, W) where their shape leaves no doubt."""
    shape = images.shape
    if images.ndim == 3:
        images = images[:, None]
    elif images.ndim != 4:
        raise UserError(
            f"{where} has shape {shape}, allowed are (N, H, W), (N, H, W, C) and (N, C, H, W): "
            "reshape it."
        )
    else:
        first, last = shape[1] in CHANNELS, shape[3] in CHANNELS
        if first and last:
            raise UserError(
                f"{where} has shape {shape}, in which the channels may come first or last: store "
                "images whose sides are not 1 or 3 pixels."
            )
        if not (first or last):
            raise UserError(
                f"{where} has shape {shape}, allowed are images with 1 or 3 channels, first or "
                "last: leave out other channels."
            )
        images = images if first else images.transpose(0, 3, 1, 2)
    if not images.size:
        raise UserError(
            f"{where} has shape {shape}, which holds no pixel: store one image or more."
        )
    return images


def _checked_labels(labels: np.ndarray, count: int, where: str) -> np.ndarray:
    """Return labels as int64, or say what is wrong with them."""
    found = f"{where} is {labels.dtype} of shape {labels.shape}"
    if labels.ndim == 2 and len(labels) == count and labels.shape[1] > 1:
        raise UserError(f"{found}, which looks one-hot: store labels.argmax(1).")
    if labels.shape != (count,):
        raise UserError(
            f"{found}, needed is one label for each of the {count} images: shape ({count},)."
        )
    if labels.dtype.kind not in "iu":
        raise UserError(
            f"{found}, needed are whole numbers from 0 up: number the classes, and store the "
            "numbers with astype('int64')."
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= MOST_CLASSES:
        raise UserError(
            f"{where} runs from {low} to {high}, allowed are whole numbers from 0 to "
            f"{MOST_CLASSES - 1}: number the classes from 0 up."
        )
    return labels.astype(np.int64)


def _rows(column: np.ndarray, split: str, count: int, where: str) -> np.ndarray:
    """Return which images are of a split."""
    if column.shape != (count,) or column.dtype.kind not in "SU":
        raise UserError(
            f"{where} is {column.dtype} of shape {column.shape}, needed is one of "
            f"{', '.join(SPLITS)} for each of the {count} images."
        )
    if column.dtype.kind == "S":
        column = np.char.decode(column, "utf-8", "replace")
    mask: np.ndarray = column == split
    if not mask.any():
        has = one_line(", ".join(sorted(set(column.tolist()))), 100)
        raise UserError(f"{where} has {has}, but no '{split}': ask for another split.")
    return mask


def _pixels(images: np.ndarray, where: str) -> tuple[np.ndarray, list[str]]:
    """Return images as uint8 or as float32 in [0, 1], with what is odd about them."""
    if images.dtype == np.uint8:
        top = int(images.max())
        if top <= 1:
            raise UserError(
                f"{where} is uint8 and reaches only {top} where 255 means white: store pixels from "
                "0 to 255, or floats from 0 to 1."
            )
        dark = f"{where} reaches only {top} where 255 means white"
        return images, [dark] if top < DARK else []
    if images.dtype.kind != "f":
        raise UserError(
            f"{where} is {images.dtype}, allowed are uint8 from 0 to 255 and floats from 0 to 1: "
            "store it with astype('uint8') if it holds such numbers."
        )
    if not (finite := np.isfinite(images)).all():
        rows = np.flatnonzero(~finite.all((1, 2, 3)))
        raise UserError(
            f"{where} holds NaN or infinity in {len(rows)} images, first in number {rows[0]}: "
            "leave them out."
        )
    low, high = float(images.min()), float(images.max())
    _check_range(low, high, where)
    dark = f"{where} reaches only {high:.6g} where 1 means white"
    return images.astype(np.float32).clip(0, 1), [dark] if high < DARK / 255 else []


def _check_range(low: float, high: float, where: str) -> None:
    """Raise unless floats are pixels in [0, 1], naming what they are likely to be."""
    if low >= -ROUNDING and high <= 1 + ROUNDING:
        return
    found = f"{where} runs from {low:.6g} to {high:.6g}, allowed is 0 to 1"
    if low < -ROUNDING:
        raise UserError(
            f"{found}: it seems to be normalised already, so store the plain pixels and put the "
            "normalisation into the model."
        )
    if high <= 255:
        raise UserError(f"{found}: divide it by 255, or store it with astype('uint8').")
    raise UserError(f"{found}: divide it by the value that means white.")
