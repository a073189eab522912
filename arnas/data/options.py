"""Settings of the datasets: one block `data.<dataset>` for each."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from arnas.runtime.options import Options


class SplitOptions(Options):
    """How a dataset is divided; the same four parts for every dataset."""

    split: Literal["stratified", "contiguous"] = "stratified"
    """`stratified`: seeded, equal class shares. `contiguous`: in stored order, test last; the
    digits are stored by writer, so this keeps the test writers out of training."""
    split_seed: int = Field(default=0, ge=0, lt=2**32)
    """Seed of the stratified split."""
    test_images: int = Field(ge=1)
    """Images in `test`, read by the attacks only."""
    selection_images: int = Field(ge=1)
    """Images in `selection`, which picks the checkpoint and nothing else."""
    search_validation_fraction: float = Field(default=0.5, gt=0, lt=1)
    """Share of the remaining images that gives the search its architecture batches."""


class DigitsOptions(SplitOptions):
    """scikit-learn's handwritten digits: 1,797 real scans of 8x8, grey, 10 classes."""

    source: Literal["sklearn_digits"]


class ShapesOptions(SplitOptions):
    """A synthetic set of coloured shapes in 10 classes, drawn from a seed."""

    source: Literal["shapes"]
    image_size: int = Field(default=16, ge=8, le=256)
    """Side of the square images in pixels."""
    images: int = Field(default=2400, ge=40)
    """How many images are drawn, the classes in turn."""
    images_seed: int = Field(default=0, ge=0)
    """Seed of the drawing."""


class NpzOptions(SplitOptions):
    """An npz file of the user's own with `images`, `labels` and optionally `split`."""

    source: Literal["npz"]
    path: str = Field(min_length=1)
    """The file, relative to the project's folder or absolute."""
    sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    """Checked when given; also how a changed file becomes visible to DVC."""
    num_classes: int | None = Field(default=None, ge=2)
    """Number of classes; by default the largest label plus one."""


DatasetOptions = Annotated[
    DigitsOptions | ShapesOptions | NpzOptions, Field(discriminator="source")
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
