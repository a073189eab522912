"""A user's own npz file."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from arnas.data.options import NpzOptions, user_file
from arnas.data.sources.raw import RawImages, check_room
from arnas.data.splits import SPLITS
from arnas.runtime.errors import UserError
from arnas.runtime.files import sha256_file

ARRAYS = ("images", "labels", "split")
"""What is read of a user's npz."""


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

    def chosen(present: Sequence[str]) -> list[str]:
        if absent := {"images", "labels"} - set(present):
            raise UserError(
                f"{where}: {path} lacks the array {sorted(absent)[0]!r}; it holds "
                f"{sorted(present)}, needed are 'images' and 'labels'."
            )
        return [key for key in ARRAYS if key in present]

    arrays = read_arrays(path, chosen, f"{where}: ")
    images = _check_images(arrays["images"], f"{where}: images")
    labels, num_classes = _check_labels(
        arrays["labels"], len(images), options.num_classes, f"{where}: labels"
    )
    split = arrays.get("split")
    if split is not None:
        if split.dtype.kind == "S":
            split = np.char.decode(split, "utf-8", "replace")
        split = split.astype(str)
        unknown = sorted(set(split.ravel().tolist()) - set(SPLITS))
        if split.shape != labels.shape or unknown:
            raise UserError(
                f"{where}: split has shape {split.shape} and the unknown values {unknown}; needed "
                f"is one of {', '.join(SPLITS)} for each of the {len(labels)} images."
            )
    return RawImages(images, labels, num_classes, 255, split)


def read_arrays(
    path: Path, choose: Callable[[Sequence[str]], Sequence[str]], where: str
) -> dict[str, np.ndarray]:
    """Read some arrays of an npz, none of them pickled.

    Parameters
    ----------
    path
        A file.
    choose
        Returns, of the names of all arrays, those to read; it may raise a `UserError`.
    where
        What messages begin with.

    Raises
    ------
    UserError
        When it is no npz, is damaged or holds pickles, or when what is chosen does not fit into
        this machine's memory by the sizes that its directory declares.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = {
                member.filename.removesuffix(".npy"): member.file_size
                for member in archive.infolist()
            }
        names = choose(list(sizes))
        check_room(sum(sizes[name] for name in names), "its arrays take")
        with np.load(path, allow_pickle=False) as arrays:
            return {name: np.asarray(arrays[name]) for name in names}
    except UserError:
        raise
    except Exception as error:  # numpy raises over a dozen kinds, by where the damage is
        reason = " ".join(str(error).split())
        raise UserError(
            f"{where}{path} is not a readable npz without pickles ({reason}); write it with "
            "numpy.savez_compressed(path, images=..., labels=...)."
        ) from None


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
