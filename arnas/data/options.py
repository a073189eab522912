"""Settings of the datasets, one block `data.<dataset>` for each, and of augmentation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Union

from pydantic import Field

from arnas.data.sources.registry import SOURCES, SplitOptions
from arnas.runtime.options import Options

if TYPE_CHECKING:
    DatasetOptions = SplitOptions
else:
    DatasetOptions = Annotated[
        Union[tuple(source.options for source in SOURCES.values())],  # noqa: UP007
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
