"""An npz file of the user's own: mistakes are named, and none is guessed away."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from arnas.data.paths import user_file
from arnas.data.sources.raw import RawImages
from arnas.data.sources.registry import OLDER_NAMES, SPLITS
from arnas.data.untrusted import HEAD, check_room, read_foreign
from arnas.runtime.errors import UserError, one_line
from arnas.runtime.files import sha256_file

CHANNELS = (1, 3)
ROUNDING = 1e-6
"""By which floats may leave [0, 1]; they are put back."""
MOST_CLASSES = 1_000_000
DARK = 128
"""A stored maximum below it is worth a warning where 255 means white."""
STORED = (("images", "labels"),)


def read_npz(
    where: str, path: str, sha256: str | None = None, num_classes: int | None = None
) -> RawImages:
    """Read the npz of a dataset's settings: `images`, which are square, `labels`, maybe `split`."""
    file = user_file(path)
    if not file.is_file():
        raise UserError(
            f"{where}.path is '{path}', but there is no such file (looked for {file.resolve()}):"
            " correct the path."
        )
    if sha256 is not None and (found := sha256_file(file)) != sha256:
        raise UserError(
            f"{where}.sha256 is {sha256}, but {file} has {found}: restore the file, or write the "
            "new value if the change is meant."
        )
    label = f"{where}.path: "
    raw = read_npz_file(file, STORED, label, num_classes)
    if raw.images.dtype != np.uint8:
        raise UserError(
            f"{label}images are floats, allowed is uint8 from 0 to 255: store (images * 255)"
            ".round().astype('uint8')."
        )
    _, channels, height, width = raw.images.shape
    if height != width or height < 8:
        raise UserError(
            f"{label}images are {height}x{width} with {channels} channels, allowed are squares of "
            "8 pixels or more: crop or resize them."
        )
    if len(np.unique(raw.labels)) < 2:
        raise UserError(f"{label}labels are all {raw.labels[0]}: needed are two classes or more.")
    return raw


def read_npz_file(
    path: Path,
    pairs: Sequence[tuple[str, str]],
    where: str = "",
    num_classes: int | None = None,
) -> RawImages:
    """Read images and labels of an npz.

    Parameters
    ----------
    path
        Holds one of the `pairs` of images and labels. Images are uint8 from 0 to 255 or floats in
        [0, 1], of shape (N, H, W), (N, H, W, C) or (N, C, H, W) with 1 or 3 channels; labels are
        integers from 0 up. An array `split` may name the split of each image.
    where
        What messages begin with.
    num_classes
        By default the largest label plus one, two at least.

    Raises
    ------
    UserError
        When it holds something else, is damaged, holds pickles, or does not fit into the memory by
        the sizes that its directory declares.
    """
    shown = f"{where}{one_line(path, 200)}"
    try:
        read_foreign(path, frozenset({"zip"}), most=HEAD)  # a pipe would be waited for
    except UserError as error:
        raise UserError(f"{where}{error}") from None
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = {m.filename.removesuffix(".npy"): m.file_size for m in archive.infolist()}
        images_name, labels_name = _pair(list(sizes), pairs, shown)
        names = [images_name, labels_name, *({"split"} & sizes.keys())]
        check_room(sum(sizes[name] for name in names), "its arrays take")
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: np.asarray(stored[name]) for name in names}
    except UserError:
        raise
    except Exception as error:  # numpy raises over a dozen kinds, by where the damage is
        reason = " ".join(str(error).split())
        raise UserError(
            f"{where}{path} is not a readable npz without pickles ({reason}); write it with "
            "numpy.savez_compressed(path, images=..., labels=...)."
        ) from None
    images = _channels_first(arrays[images_name], f"{shown}: {images_name}")
    labels = _checked_labels(
        arrays[labels_name], len(images), num_classes, f"{shown}: {labels_name}"
    )
    images, notes = _pixels(images, f"{shown}: {images_name}")
    if labels.min() > 0:
        notes.append(f"{shown}: {labels_name} begin at {labels.min()}, and classes count from 0")
    split = arrays.get("split")
    return RawImages(
        images,
        labels,
        num_classes or max(int(labels.max()) + 1, 2),
        255 if images.dtype == np.uint8 else 1,
        None if split is None else _names(split, len(labels), f"{shown}: split"),
        warnings=tuple(notes),
    )


def _pair(present: Sequence[str], pairs: Sequence[tuple[str, str]], shown: str) -> tuple[str, str]:
    """Return the names of the images and of the labels."""
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


def _checked_labels(
    labels: np.ndarray, count: int, num_classes: int | None, where: str
) -> np.ndarray:
    """Return labels as int64, or say what is wrong with them."""
    found = f"{where} is {labels.dtype} of shape {labels.shape}"
    if labels.ndim == 2 and len(labels) == count and labels.shape[1] > 1:
        raise UserError(f"{found}, which looks one-hot: store labels.argmax(1).")
    if labels.shape == (count, 1):  # as MedMNIST stores them
        labels = labels[:, 0]
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
    if low < 0 or high >= (num_classes or MOST_CLASSES):
        raise UserError(
            f"{where} runs from {low} to {high}, allowed are whole numbers from 0 to "
            f"{(num_classes or MOST_CLASSES) - 1}: number the classes from 0 up."
        )
    return labels.astype(np.int64)


def _names(split: np.ndarray, count: int, where: str) -> np.ndarray:
    """Return the split of each image as text, older names replaced."""
    if split.dtype.kind == "S":
        split = np.char.decode(split, "utf-8", "replace")
    found = set(split.ravel().tolist()) if split.dtype.kind == "U" else set()
    if older := found & OLDER_NAMES.keys():
        new = {name: OLDER_NAMES.get(name, name) for name in found}
        split = np.array([new[name] for name in split.ravel().tolist()]).reshape(split.shape)
        words = " and ".join(f"'{name}' where it is now '{new[name]}'" for name in sorted(older))
        warnings.warn(f"{where} says {words}: rename it in the file", stacklevel=2)
        found = set(new.values())
    unknown = sorted(found - set(SPLITS))
    if split.dtype.kind != "U" or split.shape != (count,) or unknown:
        with_unknown = f" with {one_line(unknown, 100)}" if unknown else ""
        raise UserError(
            f"{where} is {split.dtype} of shape {split.shape}{with_unknown}, needed is one of "
            f"{', '.join(SPLITS)} for each of the {count} images."
        )
    return split


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
