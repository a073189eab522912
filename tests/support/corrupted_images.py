"""Images for the tests of the corruptions."""

from __future__ import annotations

import itertools
from functools import cache

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import Tensor

from arnas.data.sources.shapes import draw_shapes


@cache
def shapes(count: int = 12, side: int = 32) -> Tensor:
    return torch.from_numpy(draw_shapes(count, side, 0)[0])


@cache
def photographs(side: int = 32, crop: int = 100) -> Tensor:
    """Return tiles of two photographs, shrunk."""
    tiles = []
    for photograph in load_sample_images().images:
        whole = Image.fromarray(photograph)
        for top, left in itertools.product(range(0, 401, crop), range(0, 501, crop)):
            tile = whole.crop((left, top, left + crop, top + crop))
            tiles.append(np.array(tile.resize((side, side), Image.Resampling.BOX)))
    return torch.from_numpy(np.stack(tiles)).permute(0, 3, 1, 2).contiguous()


def flat(level: int, count: int = 8, side: int = 32, channels: int = 3) -> Tensor:
    return torch.full((count, channels, side, side), level, dtype=torch.uint8)


def pixels(image: Tensor) -> np.ndarray:
    """Return (H, W, C)."""
    return image.permute(1, 2, 0).numpy()
