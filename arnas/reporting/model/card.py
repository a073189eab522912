"""A model card: what a model is for and how robust it is, as a README of its weights.

The YAML at its head is what the Hugging Face hub reads (tags, datasets, metrics and the results of
``model-index``); the text follows the model cards of Mitchell et al. (FAT* 2019, arXiv 1810.03993).
License, training and description are not known to an evaluation: they are added by hand.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from arnas.evaluation.result import EvalResult, plain_json, worst_class
from arnas.evaluation.statistics import Accuracy
from arnas.reporting.format import interval, percent
from arnas.reporting.model.page import STATUSES, flat
from arnas.runtime.files import write_bytes

MARKUP = re.compile(r"([\\`*{}\[\]<>|~$]|(?<![^\W_])_|_(?![^\W_]))")
"""Signs that Markdown, HTML in it, formulas or a table give a meaning to; inside of a word an
underscore has none."""
FEW = 1000
"""Fewer images are named among the limitations."""
LIMITATIONS = (
    "Robust accuracy measured by attacks is an upper bound: a stronger attack can only lower it.",
    "It holds for the threat model, the images and the epsilon above. It says nothing of other "
    "perturbations, such as rotations, blur, patches or a larger epsilon.",
    "The images are those of one dataset. Accuracy on images from elsewhere is usually lower.",
)


def write_model_card(path: Path, result: EvalResult, command: str) -> None:
    """Write the card of the evaluated model, atomically; the same evaluation gives the same bytes.

    Parameters
    ----------
    path
        The hub looks for ``README.md`` beside the weights.
    result
        Of the evaluation; one with a failed check says so before any number.
    command
        What to type to evaluate the model again.
    """
    head = yaml.safe_dump(plain_json(card_head(result)), sort_keys=False, allow_unicode=True)
    text = f"---\n{head}---\n\n{card_text(result, command)}"
    write_bytes(path, text.encode("utf-8", "replace"))


def card_head(result: EvalResult) -> dict[str, Any]:
    """Return what the hub reads; accuracies are in percent."""
    dataset = _known(result, "data")
    unreliable = "" if result.reliable else ", unreliable"
    robust = f"robust accuracy, percent ({result.suite}, {result.threat}){unreliable}"
    metrics = [
        {"type": "accuracy", "value": round(value, 2), "name": name}
        for name, value in (("clean accuracy, percent", result.clean), (robust, result.robust))
    ]
    evaluated = {
        "task": {"type": "image-classification", "name": "Image classification"},
        "dataset": {"name": dataset or "unknown", "type": dataset or "unknown"},
        "metrics": metrics,
    }
    return {
        "library_name": "arnas",
        "pipeline_tag": "image-classification",
        "tags": ["arnas", "adversarial-robustness"],
        "datasets": [dataset] if dataset else [],
        "metrics": ["accuracy"],
        "model-index": [{"name": _known(result, "model") or "model", "results": [evaluated]}],
    }


def card_text(result: EvalResult, command: str) -> str:
    """Return the card below its head, as Markdown."""
    parts = [f"# {plain(_known(result, 'model') or 'model')}"]
    if result.failed:
        names = ", ".join(plain(name) for name in result.failed)
        parts.append(
            f"> **Unreliable:** these checks of the evaluation failed: {names}. Do not quote the "
            "robust accuracy below."
        )
    few = f"{result.n} images give wide intervals, as the results above show."
    parts += [
        "An image classifier, evaluated for adversarial robustness.",
        "## Intended use",
        "Research on adversarial robustness. It was not made for decisions about people or safety.",
        "## How it was evaluated",
        _list(_evaluated(result)),
        "## Results",
        _results(result),
        _worst(result),
        "## Checks of the evaluation",
        *_checks(result),
        "## Limitations",
        _list([*LIMITATIONS, *([few] if result.n < FEW else [])]),
        "## How to reproduce",
    ]
    fence = "`" * max([3, *(len(run) + 1 for run in re.findall("`+", command))])
    parts.append(f"{fence}sh\n{command.rstrip()}\n{fence}")
    rows = [
        f"| {plain(key)} | {plain(value) or 'none'} |" for key, value in flat(result.provenance)
    ]
    return "\n\n".join([*parts, "\n".join(["| what | value |", "|---|---|", *rows])]) + "\n"


def plain(text: object) -> str:
    """Return a text on one line without meaning to Markdown or HTML."""
    line = " ".join(str(text).split())
    visible = "".join(sign if sign.isprintable() else "\ufffd" for sign in line)
    return MARKUP.sub(r"\\\1", visible).replace("\\<", "&lt;")


def _known(result: EvalResult, key: str) -> str:
    """Return what the provenance calls the model or the dataset; empty if it does not."""
    return str(result.provenance.get(key) or "")


def _evaluated(result: EvalResult) -> list[str]:
    """Return threat, images and attacks in words."""
    left_out = result.provenance.get("suite_leaves_out")
    without = f" Left out of AutoAttack's standard suite: {plain(left_out)}." if left_out else ""
    return [
        f"Threat model: {plain(result.threat)} (pixels are in \\[0, 1\\]).",
        f"Images: {result.n:,} of {plain(_known(result, 'data') or 'unknown')}.",
        f"Attacks: suite {plain(result.suite)}; an image counts as robust if none of them breaks "
        f"it.{without}",
        *(
            f"{plain(attack.name)}: {plain(attack.settings)} ({plain(attack.citation)})."
            for attack in result.attacks.values()
        ),
    ]


def _results(result: EvalResult) -> str:
    """Return the table of accuracies."""
    rows: list[tuple[str, Accuracy]] = [("clean", result.clean_accuracy)]
    rows += [
        (f"after {plain(name)}", attack.robust_accuracy) for name, attack in result.attacks.items()
    ]
    rows += [("**robust** (all attacks)", result.robust_accuracy)]
    rows += [
        (f"robust at epsilon {plain(epsilon)}", found) for epsilon, found in result.curve.items()
    ]
    head = ["| accuracy | percent | 95 % interval (Wilson) | images |", "|---|---:|---|---:|"]
    body = [f"| {name} | {one.percent:.2f} | {interval(one)} | {one.n:,} |" for name, one in rows]
    return "\n".join([*head, *body])


def _worst(result: EvalResult) -> str:
    """Return the worst class in a sentence."""
    label = worst_class(result)
    clean, robust = result.per_class()[label]
    return (
        f"Worst class: {label}, {percent(robust)} robust ({interval(robust)}) and {percent(clean)} "
        f"clean on {clean.n} images."
    )


def _checks(result: EvalResult) -> list[str]:
    """Return the numbers of checks by status, and each that failed or warned."""
    statuses = [check.status for check in result.checks]
    counts = ", ".join(f"{statuses.count(status)} {status}" for status in STATUSES)
    remarks = [
        f"**{status}** {plain(check.id)}: {plain(check.evidence)}. Fix: {plain(check.advice)}."
        for status in ("FAIL", "WARN")
        for check in result.checks
        if check.status == status
    ]
    return [f"{len(statuses)} checks: {counts}.", *([_list(remarks)] if remarks else [])]


def _list(lines: Iterable[str]) -> str:
    """Return lines as a list."""
    return "\n".join(f"- {line}" for line in lines)
