"""An evaluation as an entry of RobustBench's leaderboards (arXiv 2010.09670)."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from arnas.attacks.registry import SUITES
from arnas.attacks.threat import GREY_LEVELS, Threat
from arnas.evaluation.result import EvalResult
from arnas.runtime.errors import one_line
from arnas.runtime.files import write_json

STANDARD = "standard"
STANDARD_ATTACKS = SUITES[STANDARD]
EXACT = 1e-6
"""Relative difference below which two budgets are equal."""
BY_HAND = ("name", "authors", "link", "venue")
"""Fields about the paper, which an evaluation does not know and leaves empty."""


BOARDS: Mapping[tuple[str, str], tuple[float, int]] = {
    ("cifar10", "linf"): (8 / 255, 10_000),
    ("cifar10", "l2"): (0.5, 10_000),
    ("cifar100", "linf"): (8 / 255, 10_000),
    ("imagenet", "linf"): (4 / 255, 5_000),
}
"""Dataset and norm of a leaderboard to its epsilon and its number of images, which for ImageNet are
a fixed list."""


def write_robustbench(path: Path, result: EvalResult) -> list[str]:
    """Write an entry as in RobustBench's folder ``model_info``, atomically.

    Accuracies and epsilon are strings there. The entry is marked unreliable if a check failed, and
    its footnote says where the evaluation deviates from the board's protocol.

    Returns
    -------
    list of str
        What deviates, and which fields to fill in.

    Raises
    ------
    UserError
        When the file cannot be written.
    """
    missing = missing_for_board(result)
    write_json(path, board_entry(result, missing))
    return [*missing, f"fill in by hand: {', '.join(BY_HAND)}"]


def missing_for_board(result: EvalResult) -> list[str]:
    """Return what keeps an evaluation from being an entry, in parts of a sentence."""
    dataset, missing = _dataset(result), []
    board = BOARDS.get((dataset, result.threat.norm))
    if board is None:
        boards = ", ".join(f"{name} under {norm}" for name, norm in BOARDS)
        missing.append(
            f"the dataset is {one_line(dataset, 40) or 'not named'} under {result.threat.norm}, "
            f"and there are boards of {boards}"
        )
    else:
        epsilon, images = board
        if not math.isclose(result.threat.epsilon, epsilon, rel_tol=EXACT):
            wanted = Threat(result.threat.norm, epsilon)
            missing.append(
                f"epsilon is {epsilon_text(result.threat)}, the board's is {epsilon_text(wanted)}"
            )
        if result.n != images:
            missing.append(f"{result.n:,} images were evaluated, the board's are {images:,}")
    if result.suite != STANDARD:
        missing.append(f"the suite is {one_line(result.suite, 60)}, the board's is {STANDARD}")
    if result.provenance.get("replaced"):
        missing.append("attacks of the suite were replaced")
    if any(
        check.id == "determinism" and check.status in ("FAIL", "WARN") for check in result.checks
    ):
        missing.append("the model draws random numbers, which the board does not admit")
    return missing


def board_entry(result: EvalResult, missing: Sequence[str] = ()) -> dict[str, Any]:
    """Return the entry with RobustBench's keys; its footnote names what is `missing`."""
    footnote = [f"Not the board's protocol: {'; '.join(missing)}."] if missing else []
    if result.failed:
        footnote.append(f"Checks that failed: {', '.join(result.failed)}.")
    robust = standard_accuracy(result)
    entry: dict[str, Any] = {
        **dict.fromkeys(BY_HAND, ""),
        "additional_data": False,
        "number_forward_passes": 1,
        "dataset": _dataset(result),
        "architecture": str(result.provenance.get("model", "")),
        "eps": epsilon_text(result.threat),
        "clean_acc": f"{result.clean:.2f}",
        "reported": f"{robust:.2f}",
        "autoattack_acc": f"{robust:.2f}",
        "unreliable": bool(result.failed),
    }
    if result.robust < robust:
        entry["external"] = f"{result.robust:.2f}"
    return {**entry, "footnote": " ".join(footnote)} if footnote else entry


def standard_accuracy(result: EvalResult) -> float:
    """Return the robust accuracy after AutoAttack's standard attacks, in percent.

    Attacks after them, as those with examples of other models, make the ``external`` accuracy,
    which the boards print where it is lower.
    """
    first = [*result.attacks.values()][: len(STANDARD_ATTACKS)]
    if tuple(attack.name for attack in first) == STANDARD_ATTACKS:
        return first[-1].accuracy
    return result.robust


def epsilon_text(threat: Threat) -> str:
    """Return a budget as boards write it: 8/255 for linf, 0.5 otherwise."""
    levels = threat.epsilon * GREY_LEVELS
    if threat.norm == "linf" and math.isclose(levels, round(levels), abs_tol=1e-6):
        return f"{round(levels)}/{GREY_LEVELS}"
    return f"{threat.epsilon:g}"


def _dataset(result: EvalResult) -> str:
    """Return the dataset as the boards call it; empty if the provenance does not name one."""
    return re.sub("[^a-z0-9]", "", str(result.provenance.get("data", "")).lower())
