"""Names of models in settings, and which of them have cells."""

from __future__ import annotations

from typing import Annotated

from arnas.runtime.registered import Registered
from arnas.spaces.published import GENOTYPES, ROBNETS

MODEL_NAMES = (
    *GENOTYPES,
    *ROBNETS,
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
)
ModelName = Annotated[str, Registered(MODEL_NAMES)]


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
