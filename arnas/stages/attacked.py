"""What the stages that attack have in common."""

from __future__ import annotations

from torch import Tensor

from arnas.data.splits import Splits, load_splits
from arnas.pipeline.runner import StageContext


def images_to_attack(context: StageContext) -> tuple[Splits, Tensor, Tensor]:
    """Return the dataset of the job with its test images and labels.

    Returns
    -------
    splits, x, y
        float32 of shape (N, C, H, W) in [0, 1] and int64 of shape (N,), on the CPU: the values
        that `python -m arnas attack` reads.
    """
    splits = load_splits(context.inputs["splits"], context.axes["dataset"])
    images, y = splits.subset("test")
    return splits, splits.pixels(images), y
