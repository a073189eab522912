"""Where weights come from, as the header of a weight file says; that is read without PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel

from arnas.runtime.errors import UserError
from arnas.runtime.files import check_form, read_description

REMAKE = "rerun its training, or restore the file"
"""What to do about weights that are not what they should be."""


class Origin(BaseModel):
    """What every weight file of a run says."""

    dataset: str
    network: str
    seed: int
    loss: str


class _Sizes(BaseModel):
    image_size: int
    in_channels: int


class _Described(BaseModel):
    model: _Sizes
    provenance: Origin


def read_origin(
    path: Path, dataset: str, network: str, seed: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the model's description and its provenance from the header of a weight file.

    `dataset`, `network` and `seed` say what the weights must have been trained on and as.

    Raises
    ------
    UserError
        When the file is missing, damaged or holds other weights.
    """
    content = read_description(path)
    check_form(path, content, _Described, REMAKE)
    origin = content["provenance"]
    for key, value in (("dataset", dataset), ("network", network), ("seed", seed)):
        if origin[key] != value:
            raise UserError(
                f"{path} is that of another {key}, {origin[key]!r} where {value!r} is needed: "
                f"{REMAKE}."
            )
    return content["model"], origin
