"""An evaluation as an entry of RobustBench's leaderboards (arXiv 2010.09670)."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, Field

from arnas.attacks.suites import SUITES
from arnas.attacks.threat import GREY_LEVELS, Threat
from arnas.evaluation.result import EvalResult
from arnas.runtime.errors import UserError, one_line
from arnas.runtime.files import write_json

STANDARD = "standard"
STANDARD_ATTACKS = SUITES[STANDARD]
EXACT = 1e-6
"""Relative difference of two budgets that are one."""


class Board(NamedTuple):
    """What a leaderboard asks for."""

    epsilon: float
    images: int


BOARDS: Mapping[tuple[str, str], Board] = {
    ("cifar10", "linf"): Board(8 / 255, 10_000),
    ("cifar10", "l2"): Board(0.5, 10_000),
    ("cifar100", "linf"): Board(8 / 255, 10_000),
    ("imagenet", "linf"): Board(4 / 255, 5_000),
}
"""Dataset and norm to the leaderboard; ImageNet's images are a fixed list."""
CORRUPTED = ("cifar10", "cifar100", "imagenet")
"""Datasets with a leaderboard of common corruptions."""


class BoardEntry(BaseModel, frozen=True, extra="forbid"):
    """What an evaluation does not know of a model that is submitted; empty where it is not said."""

    name: str = ""
    """Title of the paper."""
    authors: str = ""
    link: str = ""
    """Of the paper."""
    venue: str = ""
    architecture: str = ""
    """By default the model's name in the provenance."""
    dataset: str = ""
    """`cifar10`, `cifar100` or `imagenet`; by default the provenance's ``data``."""
    additional_data: bool = False
    """Whether more than the training images of the dataset were used."""
    number_forward_passes: int = Field(default=1, ge=1)
    """Passes that a prediction takes."""
    reported: float | None = Field(default=None, ge=0, le=100)
    """Robust accuracy that the paper prints, in percent; by default the one found here."""
    corruptions_acc: float | None = Field(default=None, ge=0, le=100)
    """Accuracy on the corrupted images of the dataset's ``-C`` set, in percent: makes it an entry
    of the leaderboard of common corruptions, with the clean accuracy found here."""
    footnote: str = ""


def write_robustbench(
    path: Path,
    assessment: EvalResult,
    meta: BoardEntry | None = None,
    *,
    force: bool = False,
) -> list[str]:
    """Write an entry as in RobustBench's folder ``model_info``, atomically.

    Accuracies and epsilon are strings there. The entry is marked unreliable if a check failed.

    Parameters
    ----------
    path
        Ends in ``.json``.
    assessment
        Of the standard suite on all images of a board.
    meta
        What the evaluation does not know.
    force
        Write it although the board asks for something else; the footnote then says so.

    Returns
    -------
    list of str
        What to keep in mind: what is missing where `force` is set, and which fields are empty.

    Raises
    ------
    UserError
        When something is missing and `force` is not set, or the file cannot be written.
    """
    meta = meta or BoardEntry()
    missing = missing_for_board(assessment, meta)
    if missing and not force:
        raise UserError(
            f"the evaluation is no entry for RobustBench: {'; '.join(missing)}; evaluate so, or "
            "force it, and the entry says that it deviates."
        )
    write_json(path, board_entry(assessment, meta, missing))
    required = ("name", "authors", "link", "venue")
    empty = [key for key in required if not getattr(meta, key)]
    return [*missing, *([f"fill in by hand: {', '.join(empty)}"] if empty else [])]


def missing_for_board(assessment: EvalResult, meta: BoardEntry) -> list[str]:
    """Return what keeps an evaluation from being an entry, in parts of a sentence."""
    dataset = _dataset(assessment, meta)
    if meta.corruptions_acc is not None:
        return [] if dataset in CORRUPTED else [f"the dataset is {_named(dataset)}, {_boards()}"]
    found = []
    board = BOARDS.get((dataset, assessment.threat.norm))
    if board is None:
        found.append(
            f"the dataset is {_named(dataset)} under {assessment.threat.norm}, {_boards()}"
        )
    else:
        if not math.isclose(assessment.threat.epsilon, board.epsilon, rel_tol=EXACT):
            wanted = Threat(assessment.threat.norm, board.epsilon)
            found.append(
                f"epsilon is {epsilon_text(assessment.threat)}, the board's is "
                f"{epsilon_text(wanted)}"
            )
        if assessment.n != board.images:
            found.append(
                f"{assessment.n:,} images were evaluated, the board's are {board.images:,}"
            )
    if assessment.suite != STANDARD:
        found.append(f"the suite is {one_line(assessment.suite, 60)}, the board's is {STANDARD}")
    if assessment.provenance.get("replaced"):
        found.append("attacks of the suite were replaced")
    random = [check for check in assessment.checks if check.id == "determinism"]
    if random and random[0].status in ("FAIL", "WARN"):
        found.append("the model draws random numbers, which the board does not admit")
    return found


def board_entry(
    assessment: EvalResult, meta: BoardEntry, missing: list[str] | None = None
) -> dict[str, Any]:
    """Return the entry; `missing` is what its footnote says of it.

    Returns
    -------
    dict
        With RobustBench's keys.
    """
    failed = assessment.failed
    footnote = [meta.footnote] if meta.footnote else []
    if missing:
        footnote.append(f"Not the board's protocol: {'; '.join(missing)}.")
    if failed:
        footnote.append(f"Checks that failed: {', '.join(failed)}.")
    robust, key = meta.corruptions_acc, "corruptions_acc"
    epsilon, external = None, None
    if robust is None:
        robust, key = standard_accuracy(assessment), "autoattack_acc"
        epsilon, external = epsilon_text(assessment.threat), assessment.robust
    entry: dict[str, Any] = {
        "link": meta.link,
        "name": meta.name,
        "authors": meta.authors,
        "additional_data": meta.additional_data,
        "number_forward_passes": meta.number_forward_passes,
        "dataset": _dataset(assessment, meta),
        "venue": meta.venue,
        "architecture": meta.architecture or str(assessment.provenance.get("model", "")),
        "eps": epsilon,
        "clean_acc": f"{assessment.clean:.2f}",
        "reported": f"{robust if meta.reported is None else meta.reported:.2f}",
        key: f"{robust:.2f}",
        "unreliable": bool(failed),
    }
    if external is not None and external < robust:
        entry["external"] = f"{external:.2f}"
    return {**entry, "footnote": " ".join(footnote)} if footnote else entry


def standard_accuracy(assessment: EvalResult) -> float:
    """Return the robust accuracy after AutoAttack's standard attacks, in percent.

    Attacks after them, as those with examples of other models, make the ``external`` accuracy,
    which the boards print where it is lower.
    """
    results = [*assessment.attacks.values()]
    first = results[: len(STANDARD_ATTACKS)]
    if tuple(result.name for result in first) == STANDARD_ATTACKS:
        return first[-1].accuracy
    return assessment.robust


def epsilon_text(threat: Threat) -> str:
    """Return a budget as boards write it: 8/255 for linf, 0.5 otherwise."""
    levels = threat.epsilon * GREY_LEVELS
    if threat.norm == "linf" and math.isclose(levels, round(levels), abs_tol=1e-6):
        return f"{round(levels)}/{GREY_LEVELS}"
    return f"{threat.epsilon:g}"


def _dataset(assessment: EvalResult, meta: BoardEntry) -> str:
    """Return the dataset as the boards call it."""
    name = meta.dataset or str(assessment.provenance.get("data", ""))
    return re.sub("[^a-z0-9]", "", name.lower())


def _named(dataset: str) -> str:
    """Return what to call a dataset."""
    return one_line(dataset, 40) or "not named"


def _boards() -> str:
    """Return which leaderboards there are."""
    names = ", ".join(f"{dataset} under {norm}" for dataset, norm in BOARDS)
    return f"and there are boards of {names}"
