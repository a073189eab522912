"""What `python -m arnas attack` leaves: a table, a JSON, a page, and what else was asked for."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from arnas.evaluation.predict import predict
from arnas.evaluation.record import write_record
from arnas.evaluation.result import EvalResult
from arnas.pipeline.attack import EvalConfig, EvalTarget, assess, default_stem, load_target
from arnas.reporting.model.card import write_model_card
from arnas.reporting.model.files import (
    as_table,
    check_percentage,
    export_examples,
    gate,
    recount_rounded,
    write_junit,
)
from arnas.reporting.model.page import write_page
from arnas.reporting.model.robustbench import write_robustbench
from arnas.runtime.errors import UserError, one_line

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class Outputs:
    """What to write, and when to refuse."""

    stem: Path | None = None
    """Where ``STEM.json`` and ``STEM.html`` go; by default named by what is evaluated."""
    fail_under: float | None = None
    """Least robust accuracy, in percent."""
    junit: Path | None = None
    examples: Path | None = None
    robustbench: Path | None = None
    card: Path | None = None
    allow_flagged: bool = False


LONGEST_NAME = 200
"""Of a file, in bytes: what systems allow less the endings."""


class Done(NamedTuple):
    """What the command line prints."""

    table: Table
    lines: list[str]
    refusal: str | None
    """Why the gate is shut, if it is."""


def attack_and_write(config: EvalConfig, outputs: Outputs) -> Done | None:
    """Evaluate what a config names and write what was asked for; None in a rank other than 0.

    Raises
    ------
    UserError
        For whatever is invalid, before anything is attacked where that can be known.
    """
    if outputs.fail_under is not None:
        check_percentage(outputs.fail_under)
    if outputs.stem is not None:
        _check_name(outputs.stem)
    target = load_target(config)
    start = time.monotonic()
    with assess(target) as found:
        if found is None:
            return None
        took = f"Took {time.monotonic() - start:.0f} s."
        lines = [*_remarks(found), *_written(target, found, outputs), took, found.summary()]
    refusal = None
    if outputs.fail_under is not None:
        refusal = gate(found, outputs.fail_under, allow_flagged=outputs.allow_flagged)
    return Done(as_table(found, target.title), lines, refusal)


def _check_name(stem: Path) -> None:
    """Refuse a name that no file can have, before anything is attacked."""
    name = stem.name
    if name in {"", ".."}:
        raise UserError(
            f"out is '{one_line(stem)}', a folder: name the files without their ending, as in "
            "results/mine."
        )
    try:
        long = len(name.encode()) > LONGEST_NAME
    except UnicodeEncodeError:
        raise UserError(f"out is '{one_line(stem)}': write its name in UTF-8.") from None
    if long:
        raise UserError(
            f"out has a name of {len(name)} characters: allowed are {LONGEST_NAME} bytes."
        )


def _remarks(assessment: EvalResult) -> Iterator[str]:
    """Yield a line about every check that does not pass, and about what was left out."""
    for check in assessment.checks:
        if check.status in {"WARN", "FAIL"}:
            yield f"{check.status} {check.id}: {check.evidence}. Fix: {check.advice}."
    left_out = assessment.provenance.get("suite_leaves_out")
    if left_out:
        yield f"Left out of the standard suite: {left_out}. Not for a table beside full ones."
    if assessment.curve:
        points = (f"{key}: {found.percent:.2f} %" for key, found in assessment.curve.items())
        yield f"Accuracy against epsilon: {', '.join(points)}"


def _written(target: EvalTarget, assessment: EvalResult, outputs: Outputs) -> Iterator[str]:
    """Write every file and yield a line about each."""
    stem = outputs.stem or default_stem(target)
    if stem.suffix in {".json", ".html"}:
        stem = stem.with_suffix("")
    record, page = (stem.with_name(stem.name + ending) for ending in (".json", ".html"))
    images, model = target.images, target.model.model
    predicted = predict(model, assessment.x_adv, target.config.batch_size)
    write_record(record, assessment)
    yield f"JSON: {record}"
    write_page(page, assessment, target.title, x=images.x, predicted=predicted)
    yield f"Page: {page}"
    if outputs.junit is not None:
        write_junit(
            outputs.junit, assessment, outputs.fail_under, allow_flagged=outputs.allow_flagged
        )
        yield f"JUnit: {outputs.junit}"
    if outputs.examples is not None:
        files = export_examples(outputs.examples, assessment, images.x, predicted)
        rounded = recount_rounded(model, assessment, images.x, target.config.batch_size)
        yield (
            f"Examples: {outputs.examples} ({len(files)} files); rounded to 8 bits as in the "
            f"pictures the accuracy is {rounded.accuracy.percent:.2f} %, and {rounded.outside} "
            "examples leave the ball"
        )
    if outputs.robustbench is not None:
        for note in write_robustbench(outputs.robustbench, assessment):
            yield f"RobustBench: {note}"
        yield f"RobustBench entry: {outputs.robustbench}"
    if outputs.card is not None:
        command = f"python -m arnas {shlex.join(sys.argv[1:])}"
        write_model_card(outputs.card, assessment, command)
        yield f"Model card: {outputs.card}"
