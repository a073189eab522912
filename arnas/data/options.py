"""Settings of the datasets: one block `data.<dataset>` for each."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from arnas.runtime.options import Options


class SplitOptions(Options):
    """How a dataset is divided; the same four splits for every dataset."""

    split: Literal["stratified", "contiguous"] = "stratified"
    """`stratified`: seeded, equal class shares. `contiguous`: in stored order, test last; the
    digits are stored by writer, so this keeps the test writers out of training."""
    split_seed: int = Field(default=0, ge=0, lt=2**32)
    """Seed of the stratified split."""
    test_images: int | None = Field(default=None, ge=1)
    """Images in `test`, read by the attacks only: its first so many; all of it by default."""
    val_images: int = Field(ge=1)
    """Images in `val`, which picks the checkpoint and nothing else."""
    search_val_fraction: float = Field(default=0.5, gt=0, lt=1)
    """Share of the remaining images that gives the search its architecture batches."""


class NoTestSetOptions(SplitOptions):
    """How a dataset without a test set of its own is divided."""

    test_images: int = Field(ge=1)
    """Images in `test`, read by the attacks only."""


class DigitsOptions(NoTestSetOptions):
    """scikit-learn's handwritten digits: 1,797 real scans of 8x8, grey, 10 classes."""

    source: Literal["sklearn_digits"]


class ShapesOptions(NoTestSetOptions):
    """A synthetic set of coloured shapes in 10 classes, drawn from a seed."""

    source: Literal["shapes"]
    image_size: int = Field(default=16, ge=8, le=256)
    """Side of the square images in pixels."""
    images: int = Field(default=2400, ge=40)
    """How many images are drawn, the classes in turn."""
    images_seed: int = Field(default=0, ge=0)
    """Seed of the drawing."""


class NpzOptions(NoTestSetOptions):
    """An npz file of the user's own with `images`, `labels` and optionally `split`."""

    source: Literal["npz"]
    path: str = Field(min_length=1)
    """The file, relative to the project's folder or absolute."""
    sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    """Checked when given; also how a changed file becomes visible to DVC."""
    num_classes: int | None = Field(default=None, ge=2)
    """Number of classes; by default the largest label plus one."""


class OfficialSize(NamedTuple):
    """What the authors of a dataset state."""

    train: int
    test: int
    num_classes: int
    image_size: int
    """Side in pixels."""


OFFICIAL = {
    "cifar10": OfficialSize(50_000, 10_000, 10, 32),
    "cifar100": OfficialSize(50_000, 10_000, 100, 32),
    "svhn": OfficialSize(73_257, 26_032, 10, 32),
    "tiny_imagenet": OfficialSize(100_000, 10_000, 200, 64),
}
"""Source to size; the test set of Tiny-ImageNet is its validation set."""
LEAST_PER_CLASS = 2
"""Images of each class that must be left to train and search on."""


class OfficialOptions(SplitOptions):
    """A public dataset in the files of its authors; the official test images are `test`."""

    root: str | None = Field(default=None, min_length=1)
    """Folder that holds it; by default `ARNAS_DATA`, else `datasets` in the project's folder."""
    download: bool = True
    """Fetch what is missing there from the authors' site."""

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        """Refuse sizes that the dataset does not have, before it is fetched."""
        size = OFFICIAL[self.source]  # type: ignore[attr-defined]
        if self.test_images is not None and self.test_images > size.test:
            raise ValueError(
                f"test_images is {self.test_images}, but the official test set has {size.test} "
                "images: lower it, or leave it out for all of them"
            )
        most = size.train - LEAST_PER_CLASS * size.num_classes
        if self.val_images > most:
            raise ValueError(f"val_images is {self.val_images}: allowed are 1 to {most}")
        return self


class Cifar10Options(OfficialOptions):
    """CIFAR-10: 50,000 + 10,000 photographs of 32x32 in 10 classes."""

    source: Literal["cifar10"]


class Cifar100Options(OfficialOptions):
    """CIFAR-100: 50,000 + 10,000 photographs of 32x32 in 100 (fine) classes."""

    source: Literal["cifar100"]


class SvhnOptions(OfficialOptions):
    """SVHN, cropped house numbers: 73,257 + 26,032 photographs of 32x32 in 10 classes."""

    source: Literal["svhn"]
    extra: bool = False
    """Train on the 531,131 easier images of the extra set too."""


class TinyImageNetOptions(OfficialOptions):
    """Tiny-ImageNet-200: 100,000 + 10,000 photographs of 64x64 in 200 classes."""

    source: Literal["tiny_imagenet"]


class ImageFolderOptions(SplitOptions):
    """Image files of the user's own, a folder for each class."""

    source: Literal["image_folder"]
    path: str = Field(min_length=1)
    """The folder, relative to the project's folder or absolute: it holds either a folder for each
    class, or `train` and perhaps `test` and `val` with such folders in each."""
    image_size: int | None = Field(default=None, ge=8, le=1024)
    """Side in pixels: the shorter side is resized to it, the centre kept. By default the images
    must be squares of one size."""
    grey: bool = False
    """Read one channel instead of three."""
    sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    """Digest of all images, which the stage `data` prints. Checked when given; also how a changed
    image becomes visible to the engines."""


DatasetOptions = Annotated[
    DigitsOptions
    | ShapesOptions
    | NpzOptions
    | Cifar10Options
    | Cifar100Options
    | SvhnOptions
    | TinyImageNetOptions
    | ImageFolderOptions,
    Field(discriminator="source"),
]


class AugmentOptions(Options):
    """Random changes of training images, drawn per (seed, epoch) on the device."""

    crop_padding: int = Field(default=0, ge=0)
    """Pad by so many zero pixels on each side and crop back at a random place; 0 is off."""
    flip: bool = False
    """Mirror each image left to right with probability 1/2."""
    cutout: int = Field(default=0, ge=0)
    """Side in pixels of a zeroed square at a random centre (arXiv 1708.04552); 0 is off."""


def user_file(name: str | Path) -> Path:
    """Return where a file of the user's own is: here, or in the main checkout.

    DVC runs queued experiments in copies of the checkout that lack what git ignores, and names the
    checkout in ``DVC_ROOT``.
    """
    here, there = Path(name), Path(os.environ.get("DVC_ROOT", "."), name)
    # os.path, which finds no fault with names that are too long
    return there if not os.path.exists(here) and os.path.isfile(there) else here  # noqa: PTH110, PTH113


def user_folder(name: str | Path) -> Path:
    """Return where a folder of the user's own is, likewise; ``~`` is the home folder."""
    name = os.path.expanduser(name)  # noqa: PTH111 -- a home that is not known is no error
    here, there = Path(name), Path(os.environ.get("DVC_ROOT", "."), name)
    return there if not os.path.exists(here) and os.path.isdir(there) else here  # noqa: PTH110, PTH112


def dataset_root(root: str | None) -> Path:
    """Return the absolute path of the folder that holds the public datasets.

    It is the setting, else ``ARNAS_DATA``, else ``datasets``; ``~`` is the home folder. In a copy
    of the checkout that lacks it, it is that of the main checkout, so that nothing is fetched
    twice.

    Parameters
    ----------
    root
        The setting `root` of a dataset.
    """
    # A home that is not known stays ~, and is no error here.
    name = os.path.expanduser(root or os.environ.get("ARNAS_DATA") or "datasets")  # noqa: PTH111
    here = Path(name).absolute()
    if os.path.isdir(here):  # noqa: PTH112
        return here
    return Path(os.environ.get("DVC_ROOT") or ".", name).absolute()
