"""Settings of the networks that are trained beside the searched ones."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from arnas.runtime.options import Options
from arnas.spaces.options import SpaceOptions
from arnas.spaces.published import GENOTYPES, ROBNETS

ModelName = Literal[
    "arnas",
    "advrush",
    "darts_v1",
    "darts_v2",
    "pdarts",
    "pc_darts",
    "racl",
    "robnet_large_v1",
    "robnet_large_v2",
    "robnet_free",
    "resnet18",
    "resnet34",
    "preact_resnet18",
    "densenet121",
    "vgg16_bn",
    "mobilenet_v2",
    "wrn28_10",
    "wrn34_10",
    "wrn34_12",
    "wrn34_r",
]
LossName = Literal["pgd", "trades", "mart", "natural"]


class NetworkOptions(Options):
    """A model of the zoo, its loss and its size."""

    model: ModelName
    """A name of the model registry."""
    loss: LossName = "pgd"
    """A name of the training losses."""
    channels: int | None = Field(default=None, ge=2)
    """Initial channels of a genotype or RobNet, width of a residual network's or VGG's first stage,
    or channels of the stem of the other models; null for the published size."""
    cells: int | None = Field(default=None, ge=3, le=1000)
    """Number of cells of a genotype or RobNet; null for the published size."""
    space: SpaceOptions | None = None
    """Another layout for a genotype; null for the published one. `kinds: [robust, robust,
    accurate]` exchanges the cells of ARNAS."""

    @model_validator(mode="after")
    def _cells_where_there_are_any(self) -> NetworkOptions:
        """Refuse cells and layouts for a model that cannot have them."""
        if reason := cells_refused(self.model, self.cells):
            raise ValueError(reason)
        if self.space is not None and self.model in ROBNETS:
            raise ValueError(f"{self.model} has a layout of its own, so it has no space: "
                             "leave it out")  # fmt: skip
        if self.space is not None and self.model not in GENOTYPES:
            raise ValueError(f"{self.model} has no cells, so it has no space: leave it out")
        return self


def cells_refused(model: str, cells: int | None) -> str | None:
    """Return why a model of the zoo cannot have so many cells; None where it can."""
    if cells is None or model in GENOTYPES:
        return None
    if model not in ROBNETS:
        return f"cells is {cells}, but {model} has no cells: leave it out"
    codes = len(ROBNETS[model].codes)
    if codes in (1, cells):
        return None
    return f"cells is {cells}, but {model} has {codes} cells, each of its own code: leave it out"
