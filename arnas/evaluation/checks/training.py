"""Checks of what is known besides: how the model was trained and chosen, and what is recorded."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from arnas.evaluation.checks.base import CheckContext, NotApplicableError
from arnas.evaluation.checks.grades import grade
from arnas.evaluation.result import Check, failed_checks
from arnas.runtime.errors import one_line

COLLAPSE = 20.0
"""Points of robust accuracy lost in one epoch that are called catastrophic overfitting."""
NEEDED = {
    "the model's digest": ("model_sha256",),
    "the images' digest": ("data_sha256", "data_source_sha256"),
    "the versions of the packages": ("packages",),
    "the device": ("device",),
}
"""What a row must say, and the keys of `CheckContext.known` that say it."""


def selection(context: CheckContext) -> Check:
    """Warn if the checkpoint was chosen on the images that it is evaluated on."""
    how = context.known.get("selection")
    if how is None:
        raise NotApplicableError("it is not known how the checkpoint was chosen")
    words = one_line(how, 120)
    tested = re.search(r"\btest", words, re.I) and not re.search(r"\b(no|not|never)\b", words, re.I)
    evidence = f"the checkpoint was chosen as: {words}"
    best, last = (context.known.get(key) for key in ("best_robust", "last_robust"))
    epochs = _epoch_robustness(context.known.get("training_history"))
    if best is None and last is None and epochs:
        best, last = max(epochs), epochs[-1]
    if best is not None and last is not None:
        evidence += (
            f"; best {float(best):.2f} %, last {float(last):.2f} % robust, a gap of "
            f"{float(best) - float(last):.2f} points"
        )
    return Check(
        "selection",
        grade(warn=tested),
        evidence,
        "choose the checkpoint on images of its own, and report the last one beside it",
    )


def _epoch_robustness(history: Any) -> list[float]:
    """Return the robust accuracies of epochs, which are numbers or rows of a training history."""
    if not isinstance(history, Sequence) or isinstance(history, str):
        return []
    rows = [
        row.get("val_robust", row.get("selection_robust")) if isinstance(row, Mapping) else row
        for row in history
    ]
    return [float(value) for value in rows if value is not None]


def catastrophic_overfitting(context: CheckContext) -> Check:
    """Warn if robust accuracy fell by over 20 points in one epoch of training."""
    epochs = _epoch_robustness(context.known.get("training_history"))
    if len(epochs) < 2:
        raise NotApplicableError("the robust accuracies of the training's epochs are not known")
    drops = [before - after for before, after in pairwise(epochs)]
    worst = max(range(len(drops)), key=drops.__getitem__)
    return Check(
        "catastrophic_overfitting",
        grade(warn=drops[worst] > COLLAPSE),
        f"over {len(epochs)} epochs robust accuracy fell by {max(drops[worst], 0.0):.2f} points at "
        f"most from one to the next, from {epochs[worst]:.2f} % before epoch {worst + 2} to "
        f"{epochs[worst + 1]:.2f} %",
        "training with one step has overfitted to it: use smaller or more steps, or stop earlier",
    )


def corruptions(context: CheckContext) -> Check:
    """Warn if the accuracy on corrupted images is that of images of another size."""
    found = context.known.get("corruptions")
    if not isinstance(found, Mapping) or not {"mean", "size"} <= set(found):
        raise NotApplicableError("no accuracy on corrupted images is known")
    size, own = int(found["size"]), context.x.shape[-1]
    return Check(
        "corruptions",
        grade(warn=size != own),
        f"mean accuracy {float(found['mean']):.2f} % on corrupted images of {size} pixels a side; "
        f"the model is evaluated on {own}",
        "corrupt images of the size that the model takes: resizing afterwards changes ranks",
    )


def provenance(context: CheckContext) -> Check:
    """Warn if a digest, a version, the device or an attack's settings are not recorded."""
    missing = [name for name, keys in NEEDED.items() if not any(map(context.known.get, keys))]
    if not context.attacks or not all(a.settings and a.citation for a in context.attacks.values()):
        missing.append("the attacks' settings")
    return Check(
        "provenance",
        grade(warn=missing),
        f"{len(context.y)} images, seed {context.seed}, {len(context.attacks)} attacks; "
        + (f"missing: {', '.join(missing)}" if missing else "nothing is missing"),
        "evaluate from files, through the command line, so that their digests are recorded",
    )


def ranking(context: CheckContext) -> Check:
    """Warn if a check has failed, so that the row is kept out of rankings."""
    if "checks" not in context.notes:
        raise NotApplicableError("no other check was made")
    failed = failed_checks(context.notes["checks"])
    return Check(
        "ranking",
        grade(warn=failed),
        f"unreliable because of {', '.join(failed)}" if failed else "no check has failed",
        "written, but kept out of rankings unless flagged rows are allowed",
    )
