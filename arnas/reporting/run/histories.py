"""Reading the histories of searches and trainings, verified."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from arnas.runtime.errors import UserError
from arnas.runtime.files import check_form, read_json_lines


class _SearchEpoch(BaseModel):
    stage: str
    epoch: int
    learning_rate: float
    train_loss: float | None
    train_accuracy: float | None
    natural_loss: float | None
    adversarial_loss: float | None
    gamma: float | None
    cosine: float | None
    skips: dict[str, int]
    entropy: dict[str, float]
    collapsed: list[str]


class _TrainingEpoch(BaseModel):
    model_config = ConfigDict(extra="forbid")

    epoch: int
    learning_rate: float
    train_loss: float
    train_accuracy: float
    train_clean: float
    train_robust: float
    val_clean: float
    val_robust: float


def search_history(path: Path, stage: str) -> list[dict[str, Any]]:
    """Return the rows of a search's history, one for each epoch.

    `stage` is the part of the search that it must be of: adversarial or multiobjective.

    Raises
    ------
    UserError
        When the file is missing, damaged or another history.
    """
    way_out = f"rerun `python -m arnas search_{stage}`"
    rows = read_json_lines(path)
    for row in rows:
        check_form(path, row, _SearchEpoch, way_out)
        if row["stage"] != stage:
            raise UserError(f"{path} is the history of the stage '{row['stage']}': {way_out}.")
    return rows


def training_history(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a training's history, likewise."""
    rows = read_json_lines(path)
    for row in rows:
        check_form(path, row, _TrainingEpoch, "rerun `python -m arnas retrain`")
    return rows
