"""Any images to judge a model on: a dataset by its name, or a file or folder of the user's own."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

from arnas.data.options import DatasetOptions
from arnas.data.sources.npz import STORED, read_npz_file
from arnas.data.sources.raw import RawImages
from arnas.data.sources.registry import (
    OFFICIAL,
    SOURCES,
    SPLITS,
    DigitsOptions,
    Mnist5kOptions,
    NoTestSetOptions,
    ShapesOptions,
    SplitOptions,
)
from arnas.data.splits import DatasetInfo, Splits, cut, load_splits, sorted_by_class, to_pixels
from arnas.runtime.errors import UserError, one_line
from arnas.runtime.references import load_reference

Choice = Literal["first", "stratified"]
"""``first``: the first so many of the split. ``stratified``: drawn in equal class shares."""
CUT: dict[str, DatasetOptions] = {
    "digits": DigitsOptions(source="sklearn_digits", test_images=360, val_images=144),
    "mnist5k": Mnist5kOptions(source="mnist5k", test_images=1000, val_images=500),
    "shapes": ShapesOptions(
        source="shapes", image_size=16, images=1300, test_images=120, val_images=100
    ),
}
"""Datasets that have no splits of their own, cut as the default settings cut them."""
NAMES = (*CUT, *OFFICIAL)
"""The datasets that have a name."""


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
    classes: tuple[str, ...] = ()
    """Their names by number, where the images have some."""


class _Found(NamedTuple):
    """All images of a split, as they are stored."""

    raw: RawImages
    name: str
    words: str
    """Ends the sentence "of the N images ..."."""


def load_dataset(name: str, options: DatasetOptions) -> Splits:
    """Read the dataset `name` and cut it into its splits.

    Raises
    ------
    UserError
        When a file is missing or wrong, or there are too few images.
    """
    where = f"data.{name}"
    raw = _read(where, options)
    if not isinstance(options, NoTestSetOptions) and options.test_images is not None:
        raw = _first_tests(raw, options.test_images, where)
    source = SOURCES[options.source]
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
    return cut(raw.images, raw.labels, info, options, raw.split, raw.sha256)


def _read(where: str, options: SplitOptions) -> RawImages:
    """Call a source's reader with those of its settings that not every source has."""
    names = type(options).model_fields.keys() - {"source", *SplitOptions.model_fields}
    reader = load_reference(SOURCES[options.source].reader)
    raw: RawImages = reader(where, **{name: getattr(options, name) for name in names})
    return raw


def _first_tests(raw: RawImages, count: int, where: str) -> RawImages:
    """Return so many test images, which come last, if the source has its own.

    The first ones, or evenly spaced ones if they are sorted by class.
    """
    tests = 0 if raw.split is None else int((raw.split == "test").sum())
    if not tests:
        return raw
    if count > tests:
        raise UserError(
            f"{where}.test_images is {count}, but its test set has {tests} images: lower it, or "
            "leave it out for all of them."
        )
    assert raw.split is not None
    start = len(raw.labels) - tests
    kept: slice | np.ndarray = slice(start + count)
    if sorted_by_class(raw.labels[start:]):
        taken = np.linspace(0, tests - 1, count).round().astype(np.int64)
        kept = np.concatenate([np.arange(start), start + taken])
    return raw._replace(images=raw.images[kept], labels=raw.labels[kept], split=raw.split[kept])


def load_images(
    spec: str,
    *,
    split: str = "test",
    count: int | None = None,
    seed: int = 0,
    choice: Choice = "first",
    image_size: int | None = None,
    grey: bool = False,
    resize: int | None = None,
    classes: Sequence[str] = (),
    download: bool = False,
) -> NamedImages:
    """Load labelled images by name, as pixels in [0, 1].

    Parameters
    ----------
    spec
        One of: a name of `NAMES`; an npz file with `x` and `y`, `images` and `labels`, or `x_test`
        and `y_test`, see `read_npz_file`; a folder of image files, with a
        folder for each class or such folders for each split; a file of splits that the stage `data`
        has written. The public datasets are looked for in the folder ``ARNAS_DATA``.
    split
        A name of `arnas.data.sources.registry.SPLITS`; the public datasets have ``train`` and
        ``test``. Files and folders that are not divided are read whole.
    count
        So many images, all of them by default.
    seed
        Of the drawing, if `choice` is ``stratified``.
    choice
        Which images `count` means.
    image_size, grey
        For a folder: resize the shorter side to so many pixels and keep the centre; read one
        channel. By default the images must be squares of one size.
    resize, classes
        For a folder, see `arnas.data.sources.image_folder.read_image_folder`.
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
    elif spec in OFFICIAL:
        found = _official(spec, split, download)
    else:
        found = _of_path(spec, split, image_size, grey, resize, classes)
    return _named(found, count, seed, choice)


def images_sha256(x: Tensor, y: Tensor) -> str:
    """Return the sha256 of images of shape (N, C, H, W) and labels of shape (N,).

    The images enter as float32, with their shape, the labels as int64.
    """
    total = hashlib.sha256(str(tuple(x.shape)).encode())
    for values in (x.detach().to("cpu", torch.float32), y.detach().to("cpu", torch.int64)):
        total.update(values.contiguous().numpy().data)
    return total.hexdigest()


def _of_splits(splits: Splits, split: str, how: str) -> _Found:
    """Return a split of a dataset that the project has cut."""
    images, labels = splits.subset(split)
    info = splits.info
    raw = RawImages(images.numpy(), labels.numpy(), info.num_classes, info.scale)
    return _Found(raw, info.name, f"in the split {split} of {info.name}, {how}")


def _official(name: str, split: str, download: bool) -> _Found:
    """Return a split of a public dataset, of files that were verified."""
    if split not in {"train", "test"}:
        raise UserError(
            f"split is '{split}', but {name} comes with train and test only: choose one of them, "
            "or cut it in the settings and give the file of its splits."
        )
    options = SOURCES[name].options(source=name, val_images=1, download=download)  # type: ignore[call-arg]
    raw = _read(f"data.{name}", options)
    return _Found(_chosen_split(raw, split, name), name, f"in the official {split} set of {name}")


def _of_path(
    spec: str,
    split: str,
    image_size: int | None,
    grey: bool,
    resize: int | None,
    classes: Sequence[str],
) -> _Found:
    """Return the images of a file or a folder."""
    path, shown = Path(spec), one_line(spec, 200)
    # os.path, which finds no fault with names that are too long
    if spec and os.path.isdir(path):  # noqa: PTH112
        from arnas.data.sources.image_folder import read_image_folder

        if image_size is not None and not 8 <= image_size <= 1024:
            raise UserError(f"image_size is {image_size}: allowed are 8 to 1024.")
        if resize is not None and not (image_size or 1024) <= resize <= 2048:
            raise UserError(
                f"resize is {resize}: allowed are the size of the crop, {image_size}, to 2048."
            )
        raw = read_image_folder("", spec, image_size, grey, classes=classes, resize=resize)
        name = path.resolve().name
    elif not spec or not os.path.lexists(path):
        raise UserError(
            f"there is no '{shown}': allowed are {', '.join(NAMES)}, the path of an npz file or of "
            "a file of splits, and a folder with a folder of images for each class."
        )
    elif path.suffix == ".safetensors":
        return _of_splits(load_splits(path), split, f"as {shown} has it")
    elif path.suffix == ".npz":
        pairs = [("x", "y"), *STORED, (f"x_{split}", f"y_{split}")]
        pairs += [(f"{split}_images", f"{split}_labels")]  # as MedMNIST names them
        raw, name = read_npz_file(path, pairs), path.stem
    else:
        raise UserError(
            f"{shown} is no file of images by its name: allowed are .npz with x and y, and the "
            ".safetensors of splits."
        )
    words = f"in {shown}" if raw.split is None else f"in the split {split} of {shown}"
    return _Found(_chosen_split(raw, split, shown), name, words)


def _chosen_split(raw: RawImages, split: str, shown: str) -> RawImages:
    """Return the images of a split, all of them if the source is not divided."""
    if raw.split is None:
        return raw
    mask = raw.split == split
    if not mask.any():
        has = ", ".join(sorted(set(raw.split.tolist())))
        raise UserError(f"split is '{split}', but {shown} has {has}: choose one of them.")
    return raw._replace(images=raw.images[mask], labels=raw.labels[mask], split=None)


def _named(found: _Found, count: int | None, seed: int, choice: Choice) -> NamedImages:
    """Return the chosen images of a split as pixels."""
    raw, size = found.raw, len(found.raw.labels)
    if count is not None and (type(count) is not int or not 1 <= count <= size):
        raise UserError(
            f"count is {count!r}, but there are {size} images {found.words}: allowed are 1 to "
            f"{size}, and all of them by default."
        )
    n = size if count is None else count
    indices = _chosen(raw.labels, n, seed, choice)
    y = torch.from_numpy(raw.labels[indices].astype(np.int64))
    x = to_pixels(torch.from_numpy(np.ascontiguousarray(raw.images[indices])), raw.scale)
    which = f"the first {n} of the {size} images"
    if n == size:
        which = f"all {size} images"
    elif choice == "stratified":
        which = f"{n} of the {size} images, drawn in equal class shares with seed {seed},"
    notes = list(raw.warnings)
    if y.min() == y.max():
        notes.append(f"all {n} images are of the class {int(y[0])}")
    return NamedImages(
        x,
        y,
        torch.from_numpy(indices.astype(np.int64)),
        size,
        images_sha256(x, y),
        found.name,
        raw.num_classes,
        f"{which} {found.words}",
        tuple(notes),
        raw.classes,
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
