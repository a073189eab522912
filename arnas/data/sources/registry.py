"""Where images come from: one entry for each source, with its citation.

A source turns its options into arrays; `arnas.data.splits.cut` divides them. A new source is one
option model, one reader here and one line in `SOURCES`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from torchvision.datasets import CIFAR10, CIFAR100, SVHN

from arnas.data.options import DatasetOptions, DigitsOptions, ShapesOptions
from arnas.data.sources.image_folder import read_image_folder
from arnas.data.sources.npz import read_npz
from arnas.data.sources.raw import RawImages
from arnas.data.sources.shapes import draw_shapes
from arnas.data.sources.tiny_imagenet import TINY_IMAGENET, read_tiny_imagenet
from arnas.data.sources.torchvision_sets import read_cifar, read_svhn
from arnas.data.splits import DatasetInfo, Splits, cut


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


CIFAR = (
    "A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, University of Toronto, "
    "2009"
)

SOURCES: dict[str, Source] = {
    "sklearn_digits": Source(
        read_digits,
        synthetic=False,
        citation="E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI "
        "Machine Learning Repository, 1998; the copy in scikit-learn",
    ),
    "shapes": Source(read_shapes, synthetic=True, citation="drawn by arnas.data.sources.shapes"),
    "npz": Source(read_npz, synthetic=False, citation="the user's own file"),
    "cifar10": Source(partial(read_cifar, reader=CIFAR10), synthetic=False, citation=CIFAR),
    "cifar100": Source(partial(read_cifar, reader=CIFAR100), synthetic=False, citation=CIFAR),
    "svhn": Source(
        partial(read_svhn, reader=SVHN),
        synthetic=False,
        citation="Y. Netzer, T. Wang, A. Coates, A. Bissacco, B. Wu and A. Y. Ng, Reading Digits "
        "in Natural Images with Unsupervised Feature Learning, NIPS Workshop on Deep Learning and "
        "Unsupervised Feature Learning, 2011",
    ),
    "tiny_imagenet": Source(
        partial(read_tiny_imagenet, form=TINY_IMAGENET),
        synthetic=False,
        citation="Y. Le and X. Yang, Tiny ImageNet Visual Recognition Challenge, CS 231N, "
        "Stanford University, 2015",
    ),
    "image_folder": Source(read_image_folder, synthetic=False, citation="the user's own files"),
}


def load_dataset(name: str, options: DatasetOptions) -> Splits:
    """Read the dataset `name` and cut it into its splits.

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
    return cut(raw.images, raw.labels, info, options, raw.split, raw.sha256)
