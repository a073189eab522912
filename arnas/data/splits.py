"""The four splits of a dataset, how they are cut and how they are stored."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from pydantic import BaseModel
from torch import Tensor

from arnas.data.sources.registry import LEAST_PER_CLASS, OLDER_NAMES, SPLITS, SplitOptions
from arnas.runtime.errors import UserError
from arnas.runtime.files import check_form, load_tensors, read_description, save_tensors

REMAKE = "rerun `python -m arnas data`"
"""What to do about splits that are not what they should be."""


class LabelledImages(NamedTuple):
    """Images with their labels.

    images: uint8 of shape (N, C, H, W); labels: int64 of shape (N,).
    """

    images: Tensor
    labels: Tensor

    def to(self, device: torch.device) -> LabelledImages:
        """Return both on a device."""
        return LabelledImages(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True)
class DatasetInfo:
    """What a dataset is, kept with every file made from it."""

    name: str
    source: str
    synthetic: bool
    num_classes: int
    image_size: int
    """Side of the square images in pixels."""
    in_channels: int
    scale: int
    """The stored value that means 1.0; pixels are ``images / scale``."""
    citation: str


@dataclass(frozen=True)
class Splits:
    """A dataset in memory: all images, and the indices of each split."""

    images: Tensor
    """uint8 of shape (N, C, H, W)."""
    labels: Tensor
    """int64 of shape (N,)."""
    indices: Mapping[str, Tensor]
    """For each of `SPLITS` the int64 indices of its images; disjoint."""
    info: DatasetInfo
    sha256: str | None = None
    """Digest of the user's own images that it was read from, if the settings may demand one."""

    def subset(self, *names: str) -> LabelledImages:
        """Return the images and labels of the named splits, one after the other."""
        index = torch.cat([self.indices[name] for name in names])
        return LabelledImages(self.images[index], self.labels[index])

    def pixels(self, images: Tensor) -> Tensor:
        """Return uint8 `images` as float32 in [0, 1]."""
        return to_pixels(images, self.info.scale)

    def counts(self) -> dict[str, int]:
        """Return the number of images of each split."""
        return {name: len(self.indices[name]) for name in SPLITS}


def to_pixels(images: Tensor, scale: int) -> Tensor:
    """Return uint8 `images` as float32 in [0, 1], where the stored `scale` means 1.0."""
    return images.to(torch.float32) / scale


def cut(
    images: np.ndarray,
    labels: np.ndarray,
    info: DatasetInfo,
    options: SplitOptions,
    given: np.ndarray | None = None,
    sha256: str | None = None,
) -> Splits:
    """Divide a dataset into its four splits.

    Images keep their order, but test images that are sorted by class are shuffled.

    Parameters
    ----------
    images
        uint8 of shape (N, C, H, W).
    labels
        Integers of shape (N,) in [0, info.num_classes).
    given
        The dataset's own split of each image, strings of shape (N,). Splits it lacks are cut from
        its ``train``; sizes in `options` of splits that it has are not used.
    sha256
        Digest of what was read, kept with the splits.

    Raises
    ------
    UserError
        When there are fewer images, or fewer of a class, than the splits need, or when nobody says
        how many test images there are.
    """
    where = f"data.{info.name}"
    indices: dict[str, np.ndarray] = {}
    rest = np.arange(len(labels))
    if given is not None:
        indices = {name: rest[given == name] for name in SPLITS[1:] if (given == name).any()}
        rest = rest[given == "train"]
    wanted = {"test": options.test_images, "val": options.val_images}
    missing = {name: count or 0 for name, count in wanted.items() if name not in indices}
    if missing.get("test") == 0:
        raise UserError(
            f"{where}.test_images is null, but there is no folder or file of test images: write "
            "how many of the images are kept for the test, or add such a folder."
        )
    learning = LEAST_PER_CLASS * info.num_classes
    needed = sum(missing.values()) + learning
    if len(rest) < needed:
        asked = "".join(f"{count} for {name}, " for name, count in missing.items())
        sizes = " or ".join(f"{where}.{name}_images" for name in missing)
        advice = f"lower {sizes}" if missing else "mark more images as train"
        raise UserError(
            f"{where} has {len(rest)} images to divide, but its settings need at least {needed}: "
            f"{asked}{learning} to train and search on; {advice}."
        )
    for name, count in missing.items():
        rest, indices[name] = _take(rest, labels, count, options, f"{where}.{name}_images")
    if "search_val" not in indices:
        fraction = options.search_val_fraction
        count = share_of(len(rest), fraction)
        place = f"{where}.search_val_fraction"
        rest, indices["search_val"] = _take(rest, labels, count, options, place)
    indices = {name: np.sort(found) for name, found in (indices | {"train": rest}).items()}
    tests = labels[indices["test"]]
    if tests[0] < tests[-1] and sorted_by_class(tests):
        # Slow attacks take the first test images, which must not all be of one class.
        shuffled = np.random.default_rng(options.split_seed).permutation(len(tests))
        indices["test"] = indices["test"][shuffled]
    return Splits(
        torch.from_numpy(np.ascontiguousarray(images)),
        torch.from_numpy(labels.astype(np.int64)),
        {name: torch.from_numpy(indices[name]) for name in SPLITS},
        info,
        sha256,
    )


def sorted_by_class(labels: np.ndarray) -> bool:
    """Return whether labels of shape (N,) never fall, so that the first ones are of few classes."""
    return bool((np.diff(labels) >= 0).all())


def share_of(count: int, fraction: float) -> int:
    """Return how many of `count` images that share is, one at least and never all."""
    return min(max(round(count * fraction), 1), count - 1)


def _take(
    rest: np.ndarray, labels: np.ndarray, count: int, options: SplitOptions, field: str
) -> tuple[np.ndarray, np.ndarray]:
    """Split `rest` into what stays and `count` indices that are taken."""
    if options.split == "contiguous":
        return rest[:-count], rest[-count:]
    # Imported here, because every stage reads splits and few cut them: it costs half the start-up.
    from sklearn.model_selection import train_test_split

    try:
        stays, taken = train_test_split(
            rest, test_size=count, stratify=labels[rest], random_state=options.split_seed
        )
    except ValueError as error:
        raise UserError(
            f"{field} asks for {count} of {len(rest)} images in equal class shares, which cannot "
            f"be had ({error}); change the number, or set split: contiguous."
        ) from None
    return stays, taken


def leaked(splits: Splits) -> tuple[int, int]:
    """Return how many test images are in another split too, and how many have a copy there."""
    test = splits.indices["test"]
    others = torch.cat([splits.indices[name] for name in SPLITS if name != "test"])
    known = set(_digests(splits.images, others))
    copies = sum(digest in known for digest in _digests(splits.images, test))
    return int(torch.isin(test, others).sum()), copies


def _digests(images: Tensor, indices: Tensor) -> Iterator[bytes]:
    """Yield a digest of each image, which takes less memory than the images and never a copy."""
    stored = images.contiguous().numpy()
    for index in indices.tolist():
        yield hashlib.blake2b(stored[index], digest_size=20).digest()


def save_splits(path: Path, splits: Splits) -> None:
    """Write `splits` to a safetensors file."""
    tensors = {"images": splits.images, "labels": splits.labels, **splits.indices}
    description: dict[str, Any] = {"info": dataclasses.asdict(splits.info)}
    description |= {"counts": splits.counts()}
    if splits.sha256 is not None:
        description["sha256"] = splits.sha256
    save_tensors(path, tensors, description)


class _Description(BaseModel):
    """What a file of splits says of itself."""

    info: DatasetInfo
    counts: dict[str, int]
    sha256: str | None = None


def load_splits(path: Path, name: str | None = None) -> Splits:
    """Read a file written by `save_splits`, verified; `name` is the dataset that it must be.

    Raises
    ------
    UserError
        When the file is missing, damaged, not one of splits or one of another dataset.
    """
    tensors, description = load_tensors(path)
    if OLDER_NAMES.keys() <= tensors.keys():
        older = " and ".join(OLDER_NAMES)
        raise UserError(f"{path} names its splits as earlier versions did ({older}): {REMAKE}.")
    if "info" not in description or not {"images", "labels", *SPLITS} <= tensors.keys():
        raise UserError(f"{path} does not hold a dataset's splits: {REMAKE}.")
    info, counts = _described(path, description, name)
    indices = {split: tensors[split] for split in SPLITS}
    digest = description.get("sha256")
    splits = Splits(tensors["images"], tensors["labels"], indices, info, digest)
    if problem := _misfit(splits, counts):
        raise UserError(f"{path} does not fit its description ({problem}): {REMAKE}.")
    return splits


def read_info(path: Path, name: str | None = None) -> tuple[DatasetInfo, dict[str, int]]:
    """Return what a dataset is and the sizes of its splits from the header of its splits."""
    return _described(path, read_description(path), name)


def _described(
    path: Path, description: Mapping[str, Any], name: str | None
) -> tuple[DatasetInfo, dict[str, int]]:
    """Return the checked content of a description."""
    check_form(path, description, _Description, REMAKE)
    info = DatasetInfo(**description["info"])
    if name is not None and info.name != name:
        raise UserError(f"{path} holds the dataset {info.name}, needed is {name}: {REMAKE}.")
    return info, dict(description["counts"])


def _misfit(splits: Splits, counts: Mapping[str, int]) -> str | None:
    """Return what is wrong with splits whose description is right, None if nothing is."""
    images, labels, info = splits.images, splits.labels, splits.info
    shape = (*labels.shape[:1], info.in_channels, info.image_size, info.image_size)
    if images.dtype != torch.uint8 or images.shape != shape or not images.numel():
        return f"images are {images.dtype} of shape {tuple(images.shape)}"
    if int(images.max()) > info.scale:
        return f"pixels reach {int(images.max())} where {info.scale} means 1.0"
    indices = {"labels": (labels, info.num_classes)}
    indices |= {split: (index, len(labels)) for split, index in splits.indices.items()}
    for name, (values, end) in indices.items():
        if values.dtype != torch.int64 or values.ndim != 1 or not len(values):
            return f"{name} are {values.dtype} of shape {tuple(values.shape)}"
        if int(values.min()) < 0 or int(values.max()) >= end:
            return f"{name} run from {int(values.min())} to {int(values.max())}"
    return None if splits.counts() == counts else "its splits have other sizes"
