"""Any images to judge a model on: a dataset by its name, or a file or folder of the user's own."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

from arnas.data.options import (
    OFFICIAL,
    Cifar10Options,
    Cifar100Options,
    DatasetOptions,
    DigitsOptions,
    ImageFolderOptions,
    ShapesOptions,
    SvhnOptions,
    TinyImageNetOptions,
)
from arnas.data.sources.npz_images import read_npz_images
from arnas.data.sources.registry import SOURCES, load_dataset
from arnas.data.splits import SPLITS, Splits, load_splits, to_pixels
from arnas.runtime.errors import UserError, one_line

Choice = Literal["first", "stratified"]
"""``first``: the first so many of the split. ``stratified``: drawn in equal class shares."""
CUT: dict[str, DatasetOptions] = {
    "digits": DigitsOptions(source="sklearn_digits", test_images=360, val_images=144),
    "shapes": ShapesOptions(
        source="shapes", image_size=16, images=1300, test_images=120, val_images=100
    ),
}
"""Datasets that have no splits of their own, cut as the default settings cut them."""
_OFFICIAL_OPTIONS: dict[str, Callable[..., Any]] = {
    "cifar10": Cifar10Options,
    "cifar100": Cifar100Options,
    "svhn": SvhnOptions,
    "tiny_imagenet": TinyImageNetOptions,
}
NAMES = (*CUT, *OFFICIAL)
"""The datasets that have a name."""
_FOLDER = "data.folder"
"""What the reader of folders calls the settings that it believes to read."""


@dataclass(frozen=True)
class NamedImages:
    """Labelled images and what they are."""

    x: Tensor
    """float32 of shape (N, C, H, W) in [0, 1]."""
    y: Tensor
    """int64 of shape (N,)."""
    indices: Tensor
    """int64 of shape (N,): the places of the images in the split they are of, ascending."""
    dataset_size: int
    """Images of that split."""
    sha256: str
    """Of `x` and `y`, see `images_sha256`."""
    name: str
    num_classes: int
    """Of the dataset; of a user's npz the largest label plus one, two at least."""
    words: str
    """Which images they are."""
    warnings: tuple[str, ...] = ()
    """Clauses without a full stop."""


class _Found(NamedTuple):
    """All images of a split, as they are stored."""

    images: np.ndarray
    """uint8 or float of shape (N, C, H, W)."""
    labels: np.ndarray
    scale: int
    """The stored value that means 1.0."""
    num_classes: int
    name: str
    split: str
    """Ends the sentence "of the N images ..."."""
    warnings: tuple[str, ...] = ()


def load_images(
    spec: str,
    *,
    split: str = "test",
    count: int | None = None,
    seed: int = 0,
    choice: Choice = "first",
    image_size: int | None = None,
    grey: bool = False,
    download: bool = False,
) -> NamedImages:
    """Load labelled images by name, as pixels in [0, 1].

    Parameters
    ----------
    spec
        One of: a name of `NAMES`; an npz file with `x` and `y`, `images` and `labels`, or `x_test`
        and `y_test`, see `read_npz_images`; a folder of image files, with a
        folder for each class or such folders for each split; a file of splits that the stage `data`
        has written. The public datasets are looked for in the folder ``ARNAS_DATA``.
    split
        A name of `arnas.data.splits.SPLITS`; the public datasets have ``train`` and ``test``. Files
        and folders that know no splits are read whole.
    count
        So many images, all of them by default.
    seed
        Of the drawing, if `choice` is ``stratified``.
    choice
        Which images `count` means.
    image_size, grey
        For a folder: resize the shorter side to so many pixels and keep the centre; read one
        channel. By default the images must be squares of one size.
    download
        Fetch a public dataset that is not there.

    Returns
    -------
    NamedImages
        The same values and the same digest for the same images, however they are stored.

    Raises
    ------
    UserError
        When there are no such images, too few of them, or a file is damaged, unsafe or something
        else than pixels in [0, 1] with whole numbers for labels.
    """
    if split not in SPLITS:
        raise UserError(f"split is '{one_line(split, 40)}': allowed are {', '.join(SPLITS)}.")
    if choice not in get_args(Choice):
        raise UserError(f"choice is '{choice}': allowed are {', '.join(get_args(Choice))}.")
    if spec in CUT:
        found = _of_splits(load_dataset(spec, CUT[spec]), split, "as the default settings cut it")
    elif spec in _OFFICIAL_OPTIONS:
        found = _official(spec, split, download)
    else:
        found = _of_path(spec, split, image_size, grey)
    return _named(found, count, seed, choice)


def images_sha256(x: Tensor, y: Tensor) -> str:
    """Return the sha256 of images and labels.

    Parameters
    ----------
    x
        Pixels of shape (N, C, H, W); they enter as float32, with their shape.
    y
        Integers of shape (N,); they enter as int64.
    """
    total = hashlib.sha256(str(tuple(x.shape)).encode())
    for values in (x.detach().to("cpu", torch.float32), y.detach().to("cpu", torch.int64)):
        total.update(values.contiguous().numpy().data)
    return total.hexdigest()


def _of_splits(splits: Splits, split: str, how: str) -> _Found:
    """Return a split of a dataset that the project has cut."""
    images, labels = splits.subset(split)
    info = splits.info
    words = f"in the split {split} of {info.name}, {how}"
    return _Found(images.numpy(), labels.numpy(), info.scale, info.num_classes, info.name, words)


def _official(name: str, split: str, download: bool) -> _Found:
    """Return a split of a public dataset, of files that were verified."""
    allowed = ("train", "test")
    if split not in allowed:
        raise UserError(
            f"split is '{split}', but {name} comes with {' and '.join(allowed)} only: choose one "
            "of them, or cut it in the settings and give the file of its splits."
        )
    options = _OFFICIAL_OPTIONS[name](source=name, val_images=1, download=download)
    raw = SOURCES[name].read(options, name)
    mask = raw.split == split
    words = f"in the official {split} set of {name}"
    return _Found(raw.images[mask], raw.labels[mask], raw.scale, raw.num_classes, name, words)


def _of_path(spec: str, split: str, image_size: int | None, grey: bool) -> _Found:
    """Return the images of a file or a folder."""
    path, shown = Path(spec), one_line(spec, 200)
    # os.path, which finds no fault with names that are too long
    if spec and os.path.isdir(path):  # noqa: PTH112
        return _folder(spec, split, image_size, grey)
    if not spec or not os.path.lexists(path):
        raise UserError(
            f"there is no '{shown}': allowed are {', '.join(NAMES)}, the path of an npz file or of "
            "a file of splits, and a folder with a folder of images for each class."
        )
    if path.suffix == ".safetensors":
        splits = load_splits(path)
        return _of_splits(splits, split, f"as {shown} has it")
    if path.suffix != ".npz":
        raise UserError(
            f"{shown} is no file of images by its name: allowed are .npz with x and y, and the "
            ".safetensors of splits."
        )
    raw = read_npz_images(path, split)
    words = f"in {shown}" if raw.split is None else f"in the split {raw.split} of {shown}"
    return _Found(
        raw.images, raw.labels, raw.scale, raw.num_classes, path.stem, words, raw.warnings
    )


def _folder(spec: str, split: str, image_size: int | None, grey: bool) -> _Found:
    """Return the images of a folder, all of them if it has no such split."""
    side = image_size
    if side is not None and not 8 <= side <= 1024:
        raise UserError(f"image_size is {side}: allowed are 8 to 1024.")
    options = ImageFolderOptions(
        source="image_folder", path=spec, image_size=side, grey=grey, val_images=1
    )
    try:
        raw = SOURCES["image_folder"].read(options, "folder")
    except UserError as error:
        # The reader speaks of settings, which there are none of here.
        words = str(error).replace(f"{_FOLDER}.path", "data").replace(f"{_FOLDER}.", "")
        raise UserError(words) from None
    assert raw.split is not None
    splits, shown = set(raw.split.tolist()), one_line(spec, 200)
    if split in splits:
        mask, words = raw.split == split, f"in the split {split} of {shown}"
    elif len(splits) == 1:
        mask, words = raw.split != "", f"in {shown}, which has no split {split}"
    else:
        raise UserError(
            f"split is '{split}', but {shown} has {', '.join(sorted(splits))}: choose one of them."
        )
    name = Path(spec).resolve().name
    return _Found(raw.images[mask], raw.labels[mask], raw.scale, raw.num_classes, name, words)


def _named(found: _Found, count: int | None, seed: int, choice: Choice) -> NamedImages:
    """Return the chosen images of a split as pixels."""
    size = len(found.labels)
    if count is not None and (type(count) is not int or not 1 <= count <= size):
        raise UserError(
            f"count is {count!r}, but there are {size} images {found.split}: allowed are 1 to "
            f"{size}, and all of them by default."
        )
    n = size if count is None else count
    indices = _chosen(found.labels, n, seed, choice)
    y = torch.from_numpy(found.labels[indices].astype(np.int64))
    x = to_pixels(torch.from_numpy(np.ascontiguousarray(found.images[indices])), found.scale)
    which = f"the first {n} of the {size} images"
    if n == size:
        which = f"all {size} images"
    elif choice == "stratified":
        which = f"{n} of the {size} images, drawn in equal class shares with seed {seed},"
    notes = list(found.warnings)
    if y.min() == y.max():
        notes.append(f"all {n} images are of the class {int(y[0])}")
    return NamedImages(
        x,
        y,
        torch.from_numpy(indices.astype(np.int64)),
        size,
        images_sha256(x, y),
        found.name,
        found.num_classes,
        f"{which} {found.split}",
        tuple(notes),
    )


def _chosen(labels: np.ndarray, count: int, seed: int, choice: Choice) -> np.ndarray:
    """Return the places of the images that are chosen, ascending."""
    places = np.arange(len(labels))
    if choice == "first" or count == len(labels):
        return places[:count]
    from sklearn.model_selection import train_test_split  # half a second that few need

    try:
        taken, _ = train_test_split(places, train_size=count, stratify=labels, random_state=seed)
    except ValueError as error:
        raise UserError(
            f"count is {count}, which cannot be drawn in equal class shares ({one_line(error)}): "
            "change the number, or take the first images."
        ) from None
    return np.sort(taken)
