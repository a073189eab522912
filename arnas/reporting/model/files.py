"""An evaluation for a terminal, for continuous integration and for image viewers."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree as ET

import numpy as np
import torch
from rich.table import Table
from rich.text import Text
from torch import Tensor, nn

from arnas.attacks.oracle import misclassified
from arnas.attacks.projection import length
from arnas.evaluation.predict import logits
from arnas.evaluation.result import Check, EvalResult
from arnas.evaluation.statistics import Accuracy, wilson
from arnas.reporting.format import accuracy_text, interval, percent
from arnas.reporting.model.page import broken_flags, check_images, pixels, png_bytes
from arnas.runtime.errors import UserError
from arnas.runtime.files import write_bytes

PICTURE = re.compile(r"\d+_\d+(_\d+)?\.png")
"""Name of the PNG of an example."""
OUTSIDE = 1e-6
"""Rounding that float32 adds to the ball."""
NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML 1.0 does not allow, not even escaped."""
LEVELS = 255


class Rounded(NamedTuple):
    """What is left of the examples when they are stored with 8 bits."""

    accuracy: Accuracy
    """Of the model on all examples, rounded."""
    outside: int
    """Examples that rounding moves out of the ball."""
    farthest: float
    """Largest distance of a rounded example from its image, in the norm of the threat."""


def gate(
    result: EvalResult, fail_under: float | None, *, allow_flagged: bool = False
) -> str | None:
    """Return why an evaluation does not pass, in one sentence, or None if it does.

    Parameters
    ----------
    fail_under
        Least robust accuracy in percent; None asks only for checks that did not fail.
    allow_flagged
        Whether it may pass although a check failed.

    Raises
    ------
    UserError
        When `fail_under` is no percentage.
    """
    if fail_under is not None:
        check_percentage(fail_under)
    robust = result.robust_accuracy
    if result.failed and not allow_flagged:
        return (
            f"The robust accuracy of {percent(robust)} is unreliable, because these checks failed: "
            f"{', '.join(result.failed)}."
        )
    if fail_under is not None and robust.percent < fail_under:
        return (
            f"The robust accuracy is {percent(robust)} ({robust.correct} of {robust.n} images), "
            f"which is below {fail_under:g} %."
        )
    return None


def check_percentage(value: float) -> None:
    """Raise unless a threshold is a percentage; a share such as 0.4 would let everything pass."""
    if not 0 <= value <= 100 or 0 < value < 1:
        fix = f"; write {100 * value:g} if a share is meant" if 0 < value < 1 else ""
        raise UserError(f"fail-under is {value:g}: allowed are 0, or 1 to 100 percent{fix}.")


def write_junit(
    path: Path,
    result: EvalResult,
    fail_under: float | None = None,
    *,
    allow_flagged: bool = False,
) -> None:
    """Write the checks and the gate as a JUnit test suite, atomically.

    As Jenkins and GitLab read it: a failed check and a gate that does not pass are failures, a
    check that does not apply is skipped, a warning passes and says so in its output. The
    parameters are those of `gate`.

    Raises
    ------
    UserError
        When `fail_under` is no percentage, or the file cannot be written.
    """
    refusal = gate(result, fail_under, allow_flagged=allow_flagged)
    statuses = [check.status for check in result.checks]
    totals = {
        "name": "arnas evaluation",
        "tests": str(len(statuses) + 1),
        "failures": str(statuses.count("FAIL") + (refusal is not None)),
        "errors": "0",
        "skipped": str(statuses.count("SKIP")),
    }
    root = ET.Element("testsuites", {k: v for k, v in totals.items() if k != "skipped"})
    suite = ET.SubElement(root, "testsuite", totals)
    properties = ET.SubElement(suite, "properties")
    for name, value in {
        "threat": str(result.threat),
        "suite": result.suite,
        "images": str(result.n),
        "clean accuracy": accuracy_text(result.clean_accuracy),
        "robust accuracy": accuracy_text(result.robust_accuracy),
    }.items():
        ET.SubElement(properties, "property", {"name": name, "value": _xml(value)})
    for check in result.checks:
        _add_check(suite, check)
    parts = [] if allow_flagged else ["no check failed"]
    if fail_under is not None:
        parts.append(f"robust accuracy is at least {fail_under:g} percent")
    names = {"classname": "arnas.gate", "name": " and ".join(parts) or "evaluated"}
    case = ET.SubElement(suite, "testcase", names)
    if refusal:
        ET.SubElement(case, "failure", {"type": "gate", "message": _xml(refusal)})
    ET.indent(root)
    write_bytes(path, ET.tostring(root, encoding="utf-8", xml_declaration=True) + b"\n")


def _add_check(suite: ET.Element, check: Check) -> None:
    """Add the test case of one check."""
    case = ET.SubElement(suite, "testcase", {"classname": "arnas.checks", "name": _xml(check.id)})
    evidence, fix = _xml(check.evidence), _xml(f" Fix: {check.advice}.")
    if check.status == "FAIL":
        failure = ET.SubElement(case, "failure", {"type": "check", "message": evidence})
        failure.text = f"{evidence}.{fix}"
    elif check.status == "SKIP":
        ET.SubElement(case, "skipped", {"message": evidence})
    else:
        output = ET.SubElement(case, "system-out")
        output.text = f"{check.status}: {evidence}.{fix if check.status == 'WARN' else ''}"


def _xml(text: str) -> str:
    """Return a text without the characters that XML does not allow."""
    return NOT_XML.sub("\ufffd", text)


def as_table(result: EvalResult, title: str = "") -> Table:
    """Return an evaluation as one table for a terminal.

    `title` names the model and the data. Names are shown as they are: square brackets in them are
    no markup.
    """
    failed = result.failed
    warned = sum(check.status == "WARN" for check in result.checks)
    caption = f"{len(result.checks)} checks: {len(failed)} failed, {warned} warned"
    if failed:
        caption += f"; UNRELIABLE, because these failed: {', '.join(failed)}"
    what = f"{result.suite}, {result.threat}, {result.n} images"
    table = Table(
        title=Text("\n".join(filter(None, (title, what)))),
        caption=Text(caption, style="bold red" if failed else ""),
    )
    table.add_column("attack")
    for name in ("accuracy after it", "95 % interval", "attacked", "broken", "passes"):
        table.add_column(name, justify="right")
    table.add_row("clean", *_cells(result.clean_accuracy), "", "", "")
    for attack in result.attacks.values():
        table.add_row(
            Text(attack.name),
            *_cells(attack.robust_accuracy),
            str(attack.attacked),
            str(attack.broken),
            f"{attack.forwards + attack.backwards:,}",
        )
    table.add_section()
    last = Text("robust, unreliable", "bold red") if failed else Text("robust", "bold")
    table.add_row(last, *_cells(result.robust_accuracy), "", "", "")
    return table


def _cells(accuracy: Accuracy) -> tuple[str, str]:
    """Return the cells of an accuracy."""
    return percent(accuracy), interval(accuracy)


def recount_rounded(model: nn.Module, result: EvalResult, x: Tensor, batch_size: int) -> Rounded:
    """Classify the examples again as an image file holds them: rounded to 8 bits.

    Rounding moves a pixel by up to half a grey level. It may undo an attack, and take an example
    out of the ball where epsilon is no whole number of grey levels or the image is not on their
    grid.

    Parameters
    ----------
    x
        The images that were evaluated, float of shape (n, C, H, W) in [0, 1].
    batch_size
        Images that go through the model together.

    Raises
    ------
    UserError
        When the evaluation has no examples, or `x` is not its images.
    """
    _check_examples(result, x)
    x_adv = result.x_adv.detach().cpu()
    rounded = (x_adv.clamp(0, 1) * LEVELS).round() / LEVELS
    wrong = misclassified(logits(model, rounded, batch_size), result.labels.cpu())
    broken = broken_flags(result).cpu()
    change = rounded[broken].double() - x.detach().cpu()[broken].double()
    distance = length(change, result.threat.norm)
    return Rounded(
        wilson(int((~wrong).sum()), result.n),
        int((distance > result.threat.epsilon + OUTSIDE).sum()),
        float(distance.max()) if len(distance) else 0.0,
    )


def export_examples(
    folder: Path, result: EvalResult, x: Tensor, predicted: Tensor | None = None
) -> list[Path]:
    """Write the examples as an archive of arrays, those of broken images as PNGs; return the paths.

    Parameters
    ----------
    folder
        Where ``examples.npz`` goes with ``x_adv`` (float32), ``x`` (float32), ``y`` (int64) and
        ``outcomes`` (uint8, a row for ``clean`` and each attack, which ``attacks`` names); and
        ``INDEX_TRUE_PREDICTED.png`` for each broken image, of 1 or 3 channels. A path that ends
        in ``.npz`` is the archive itself, without PNGs. Those of an earlier call are removed.
    x
        The images, float of shape (n, C, H, W) in [0, 1].
    predicted
        int64 of shape (n,): what the model says of the examples (`predict`); without it the names
        of the PNGs end with the true class.

    Raises
    ------
    UserError
        When the evaluation has no examples, `x` is not its images, or a file cannot be written.
    """
    _check_examples(result, x, predicted)
    only_archive = folder.suffix == ".npz"
    archive = folder if only_archive else folder / "examples.npz"
    stream = io.BytesIO()
    np.savez_compressed(
        stream,
        x_adv=result.x_adv.detach().cpu().float().numpy(),
        x=x.detach().cpu().float().numpy(),
        y=result.labels.cpu().numpy(),
        outcomes=torch.stack([*result.outcomes.values()]).cpu().numpy(),
        attacks=np.array([*result.outcomes]),
    )
    earlier = archive.exists()
    write_bytes(archive, stream.getvalue())
    written = [archive]
    if only_archive:
        return written
    if earlier:  # pictures of another evaluation must not stand beside those of this one
        for path in folder.iterdir():
            if PICTURE.fullmatch(path.name):
                path.unlink()
    if result.x_adv.shape[1] not in (1, 3):
        return written
    width = len(str(result.n - 1))
    for place in broken_flags(result).nonzero().flatten().tolist():
        name = f"{place:0{width}}_{int(result.labels[place])}"
        name += "" if predicted is None else f"_{int(predicted[place])}"
        path = folder / f"{name}.png"
        write_bytes(path, png_bytes(pixels(result.x_adv[place].detach().cpu().float())))
        written.append(path)
    return written


def _check_examples(result: EvalResult, x: Tensor, predicted: Tensor | None = None) -> None:
    """Raise unless there are examples, and images and predictions fit them."""
    if len(result.x_adv) != result.n:
        raise UserError(
            "the evaluation was read from a record, which holds no examples: evaluate the model "
            "again and export them then."
        )
    check_images(result, x, predicted)
