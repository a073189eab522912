"""scikit-learn's handwritten digits."""

from __future__ import annotations

import numpy as np

from arnas.data.sources.raw import RawImages


def read_digits(where: str) -> RawImages:
    """Read the digits; 17 grey levels, stored as 0 to 16."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = digits.images.astype(np.uint8)[:, None]
    return RawImages(images, digits.target.astype(np.int64), 10, 16)
