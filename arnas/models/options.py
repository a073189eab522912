"""Settings of the networks that are trained beside the searched ones."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from arnas.runtime.options import Options
from arnas.spaces.options import SpaceOptions

ModelName = Literal[
    "arnas", "advrush", "darts_v1", "darts_v2", "pdarts", "pc_darts", "racl", "resnet18"
]
LossName = Literal["pgd", "trades", "mart", "natural"]


class NetworkOptions(Options):
    """A model of the zoo, its loss and its size."""

    model: ModelName
    """A name of the model registry."""
    loss: LossName = "pgd"
    """A name of the training losses."""
    channels: int | None = Field(default=None, ge=2)
    """Initial channels, or width of a residual network's first stage; null for the published
    size."""
    cells: int | None = Field(default=None, ge=3, le=1000)
    """Number of cells of a genotype; null for the published size."""
    space: SpaceOptions | None = None
    """Another layout for a genotype; null for the published one. `kinds: [robust, robust,
    accurate]` exchanges the cells of ARNAS."""

    @model_validator(mode="after")
    def _cells_where_there_are_any(self) -> NetworkOptions:
        """Refuse cells for a model that has none."""
        if self.model == "resnet18" and self.cells is not None:
            raise ValueError(f"cells is {self.cells}, but resnet18 has no cells: leave it out")
        if self.model == "resnet18" and self.space is not None:
            raise ValueError("resnet18 has no cells, so it has no space: leave it out")
        return self
