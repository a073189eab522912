"""Settings of the report, and of what a rerun of the tables must confirm."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from arnas.runtime.options import Options


class Ordering(Options):
    """A conclusion that every rerun must confirm: one network is more robust than another."""

    dataset: str
    attack: str
    better: str
    """Name of the network with the higher accuracy of the selected checkpoint."""
    worse: str
    by: Annotated[float, Field(ge=0)] = 0.0
    """Least difference in percentage points."""


class ReproductionOptions(Options):
    """What a rerun of the tables must confirm besides the accuracies."""

    orderings: list[Ordering] = []
    """Conclusions by name, checked by `make reproduce`."""


class ReportOptions(Options):
    """What the report shows."""

    example_images: Annotated[int, Field(ge=1, le=32)] = 6
    """So many test images, the first ones, are shown with their perturbations."""
