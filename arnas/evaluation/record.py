"""The record of an evaluation: all of it but the examples, as JSON that holds its own sha256."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from arnas.attacks.threat import Threat, parse_amount
from arnas.evaluation.result import (
    BROKEN,
    FORMAT,
    AttackResult,
    Check,
    Combine,
    EvalResult,
    robust_images,
    to_record,
    worst_class,
)
from arnas.evaluation.statistics import Accuracy, Count, wilson
from arnas.runtime.errors import UserError, one_line
from arnas.runtime.files import SEAL, check_form, read_json, write_sealed

AGAIN = "run the evaluation again"
SAME = 1e-9
"""Relative difference below which two budgets are one, and two accuracies in percent."""
ROUNDED = 0.02
"""Relative difference below which two budgets look like one budget and its rounded value."""
ZERO = ord("0")


class _Form(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class _Threat(_Form):
    norm: str
    epsilon: float
    text: str


class _Class(_Form):
    label: Count
    clean: Accuracy
    robust: Accuracy


class _Point(_Form):
    epsilon: str
    accuracy: Accuracy


class _Record(_Form):
    format: Literal["arnas evaluation 2"]
    threat: _Threat
    suite: str
    combine: Combine
    n: Annotated[Count, Field(ge=1)]
    clean: Accuracy
    robust: Accuracy
    reliable: bool
    attacks: list[AttackResult]
    outcomes: dict[str, Annotated[str, Field(pattern="^[012]+$")]]
    labels: Annotated[str, Field(pattern="^[0-9]{1,9}( [0-9]{1,9})*$")]
    per_class: list[_Class]
    worst_class: Count
    checks: list[Check]
    curve: list[_Point]
    provenance: dict[str, Any]


def write_record(path: Path, evaluation: EvalResult) -> None:
    """Write the record of an evaluation, atomically; the same evaluation gives the same bytes.

    Raises
    ------
    UserError
        When the file cannot be written.
    """
    write_sealed(path, to_record(evaluation))


def read_record(path: Path) -> EvalResult:
    """Read the record of an evaluation, verified by the sha256 in it.

    Raises
    ------
    UserError
        When the file is missing, damaged, edited, or something else than a record of this format,
        such as the state file of AutoAttack.
    """
    content = read_json(path)
    evaluation = from_record(content, path)
    # `read_json` verifies a seal and takes it off; a file that never had one gets through.
    if SEAL not in json.loads(path.read_bytes()):
        raise UserError(
            f"{path} does not hold the sha256 of its own content ({SEAL}), so that nothing shows "
            f"whether it was edited: {AGAIN}."
        )
    return evaluation


def from_record(content: object, path: Path = Path("the record")) -> EvalResult:
    """Return the evaluation that a record describes, as `to_record` has returned it.

    `path` names the record in errors. The evaluation's `x_adv` is empty, of shape (0, 0, 0, 0).

    Raises
    ------
    UserError
        When it is no record of this format, or its numbers contradict each other.
    """
    _check_kind(content, path)
    check_form(path, content, _Record, AGAIN)
    record = _Record.model_validate(content)
    try:
        threat = Threat(record.threat.norm, record.threat.epsilon)
        for point in record.curve:
            parse_amount(point.epsilon)
    except UserError as error:
        raise UserError(f"{path} holds an impossible threat: {one_line(error)}") from None
    found = EvalResult(
        threat=threat,
        suite=record.suite,
        combine=record.combine,
        clean_accuracy=record.clean,
        robust_accuracy=record.robust,
        attacks={attack.name: attack for attack in record.attacks},
        # A file sorts its keys; the attacks are listed in their order.
        outcomes={
            name: _flags(record.outcomes[name])
            for name in ["clean", *(attack.name for attack in record.attacks)]
            if name in record.outcomes
        },
        labels=torch.tensor([int(label) for label in record.labels.split(" ")]),
        x_adv=torch.empty((0, 0, 0, 0)),
        checks=tuple(record.checks),
        provenance=record.provenance,
        curve={point.epsilon: point.accuracy for point in record.curve},
    )
    contradiction = _contradiction(record, found)
    if contradiction:
        raise UserError(f"{path} contradicts itself, for {contradiction}: {AGAIN}.")
    return found


def mixed_units(evaluations: Iterable[EvalResult]) -> str | None:
    """Return in one sentence how the norms or budgets of evaluations differ, or None.

    Then their accuracies do not belong in one table. Boards mark an epsilon of 0.031 with a
    footnote, because 8/255 is 0.031373.
    """
    first: Threat | None = None
    for evaluation in evaluations:
        threat = evaluation.threat
        first = first or threat
        if threat.norm != first.norm:
            return (
                f"The accuracies belong to different norms, {first.norm} and {threat.norm}: put "
                "them into tables of their own."
            )
        if not math.isclose(threat.epsilon, first.epsilon, rel_tol=SAME):
            close = math.isclose(threat.epsilon, first.epsilon, rel_tol=ROUNDED)
            return (
                f"The accuracies belong to different budgets, {first} and {threat}"
                + (", of which one looks like a rounded value of the other" if close else "")
                + ": evaluate all of them with one epsilon, written as a fraction such as 8/255."
            )
    return None


def _check_kind(content: object, path: Path) -> None:
    """Raise unless JSON values claim to be a record of this format."""
    if not isinstance(content, dict):
        raise UserError(f"{path} is no record of an evaluation: {AGAIN}.")
    if {"_robust_flags", "_run_attacks"} & content.keys():
        raise UserError(
            f"{path} is a state file of AutoAttack, which names neither the model nor the images, "
            f"the norm or the epsilon that its flags belong to, so it is no record: {AGAIN} with "
            "arnas."
        )
    claimed = content.get("format")
    if claimed == FORMAT:
        return
    if isinstance(claimed, str) and claimed.startswith(FORMAT.rstrip("0123456789")):
        raise UserError(
            f"{path} has the format '{one_line(claimed, 40)}', this version of arnas reads "
            f"'{FORMAT}': use the version that wrote it, or {AGAIN}."
        )
    raise UserError(f"{path} is no record of an evaluation, for its format is not '{FORMAT}'.")


def _contradiction(record: _Record, found: EvalResult) -> str | None:
    """Return which numbers of a record do not fit each other, in words, or None."""
    if len(found.attacks) < len(record.attacks) or "clean" in found.attacks:
        return "two of its attacks have one name"
    if record.threat.text != str(found.threat):
        return "its threat reads otherwise in words"
    if len(found.curve) < len(record.curve):
        return "an epsilon stands twice in its curve"
    if record.outcomes.keys() != {"clean", *found.attacks}:
        return "its outcomes are not those of its attacks"
    lengths = {len(found.labels), *(len(text) for text in record.outcomes.values())}
    if lengths != {record.n} or "2" in record.outcomes["clean"]:
        return f"its outcomes are not those of {record.n} images"
    return _miscounted(found) or _inexact(record, found)


def _miscounted(found: EvalResult) -> str | None:
    """Return which count is not that of the outcomes, in words, or None."""
    seen = {"clean": found.outcomes["clean"]}
    counts = [("clean", found.clean_accuracy, robust_images(seen))]
    for name, result in found.attacks.items():
        seen[name] = found.outcomes[name]
        counts.append((name, result.robust_accuracy, robust_images(seen)))
        broken = int((seen[name] == BROKEN).sum())
        if result.broken > min(result.attacked, broken) or result.attacked > found.n:
            return f"{one_line(name, 40)} broke more images than it attacked or than were broken"
    counts.append(("robust", found.robust_accuracy, robust_images(seen)))
    for name, accuracy, robust in counts:
        if accuracy.correct != int(robust.sum()) or accuracy.n != found.n:
            return f"the accuracy of {one_line(name, 40)} is not that of its outcomes"
    return None


def _inexact(record: _Record, found: EvalResult) -> str | None:
    """Return which derived values of a record are not those of its counts, or None."""
    classes = [(c.label, c.clean[:2], c.robust[:2]) for c in record.per_class]
    if classes != [(k, c[:2], r[:2]) for k, (c, r) in found.per_class().items()]:
        return "the accuracies of its classes are not those of its outcomes"
    if record.worst_class != worst_class(found):
        return "its worst class is another one"
    if record.reliable != found.reliable:
        return "whether it is reliable is not what its checks say"
    accuracies = [record.clean, record.robust, *(a.robust_accuracy for a in record.attacks)]
    accuracies += [point.accuracy for point in record.curve]
    accuracies += [accuracy for c in record.per_class for accuracy in (c.clean, c.robust)]
    for accuracy in accuracies:
        if accuracy.correct > accuracy.n or not all(
            math.isclose(own, right, rel_tol=SAME, abs_tol=100 * SAME)
            for own, right in zip(accuracy, wilson(accuracy.correct, accuracy.n), strict=True)
        ):
            return f"{accuracy.correct} of {accuracy.n} images are not {accuracy.percent:g} %"
    return None


def _flags(digits: str) -> Tensor:
    """Return outcomes of shape (n,), uint8."""
    return torch.frombuffer(bytearray(digits.encode()), dtype=torch.uint8) - ZERO
