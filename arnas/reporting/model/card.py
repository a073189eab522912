"""A model card: what a model is for and how robust it was found to be, as a README of its weights.

The YAML at its head is what the Hugging Face hub reads (license, tags, datasets, metrics and the
results of ``model-index``); the text follows the model cards of Mitchell et al. (FAT* 2019, arXiv
1810.03993).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, Field

from arnas.evaluation.record import plain_json, worst_class
from arnas.evaluation.result import EvalResult
from arnas.evaluation.statistics import Accuracy
from arnas.reporting.model.page import class_name, flat
from arnas.runtime.files import write_bytes

MARKUP = re.compile(r"([\\`*{}\[\]<>|~$]|(?<![^\W_])_|_(?![^\W_]))")
"""Signs that Markdown, HTML in it, formulas or a table give a meaning to; inside of a word an
underscore has none."""
UNKNOWN = "unknown"
LIMITATIONS = (
    "Robust accuracy found by attacks is an upper bound: a stronger attack can only lower it.",
    "It holds for the threat model, the images and the epsilon above. It says nothing of other "
    "perturbations, such as rotations, blur, patches or a larger epsilon.",
    "The images are those of one dataset. Accuracy on images from elsewhere is usually lower.",
)


class CardMeta(BaseModel, frozen=True, extra="forbid"):
    """What an evaluation does not know of a model; what is empty is left out or said to be so."""

    name: str = ""
    """By default the model's name in the provenance."""
    license: str = ""
    """Of the weights, as the hub abbreviates it, such as ``apache-2.0``."""
    description: str = ""
    """Markdown, as are the two below and the limitations: it is left as it is written."""
    intended_use: str = ""
    training: str = ""
    limitations: list[str] = Field(default_factory=list)
    """In addition to those of every evaluation."""
    dataset: str = ""
    """The dataset's name for people; by default the provenance's ``data``."""
    dataset_id: str = ""
    """The dataset's name on the hub, such as ``uoft-cs/cifar10``."""
    split: str = "test"
    tags: list[str] = Field(default_factory=list)
    """In addition to ``arnas`` and ``adversarial-robustness``."""
    command: str = ""
    """What to type to evaluate it again."""
    class_names: list[str] = Field(default_factory=list)


def write_model_card(path: Path, assessment: EvalResult, meta: CardMeta | None = None) -> None:
    """Write the card of the evaluated model, atomically; the same evaluation gives the same bytes.

    Parameters
    ----------
    path
        The hub looks for ``README.md`` beside the weights.
    assessment
        What came out; one with a failed check says so before any figure.
    meta
        What it does not know.

    Raises
    ------
    UserError
        When the file cannot be written.
    """
    meta = meta or CardMeta()
    fields = plain_json(card_head(assessment, meta))
    head = yaml.safe_dump(fields, sort_keys=False, allow_unicode=True)
    text = f"---\n{head}---\n\n{card_text(assessment, meta)}"
    write_bytes(path, text.encode("utf-8", "replace"))


def card_head(assessment: EvalResult, meta: CardMeta) -> dict[str, Any]:
    """Return what the hub reads; accuracies are in percent."""
    dataset = _dataset(assessment, meta)
    results = [
        {
            "type": "accuracy",
            "value": round(assessment.clean, 2),
            "name": "clean accuracy, percent",
        },
        {
            "type": "accuracy",
            "value": round(assessment.robust, 2),
            "name": f"robust accuracy, percent ({assessment.suite}, {assessment.threat})"
            + (", unreliable" if not assessment.reliable else ""),
        },
    ]
    head: dict[str, Any] = {"license": meta.license} if meta.license else {}
    return head | {
        "library_name": "arnas",
        "pipeline_tag": "image-classification",
        "tags": [*dict.fromkeys(["arnas", "adversarial-robustness", *meta.tags])],
        "datasets": [] if dataset == UNKNOWN else [meta.dataset_id or dataset],
        "metrics": ["accuracy"],
        "model-index": [
            {
                "name": _name(assessment, meta),
                "results": [
                    {
                        "task": {"type": "image-classification", "name": "Image classification"},
                        "dataset": {
                            "name": dataset,
                            "type": meta.dataset_id or dataset,
                            "split": meta.split,
                        },
                        "metrics": results,
                    }
                ],
            }
        ],
    }


def card_text(assessment: EvalResult, meta: CardMeta) -> str:
    """Return the card below its head, as Markdown."""
    parts = [f"# {plain(_name(assessment, meta))}"]
    failed = assessment.failed
    if failed:
        names = ", ".join(plain(name) for name in failed)
        parts.append(
            f"> **Unreliable:** these checks of the evaluation failed: {names}. Do not quote the "
            "robust accuracy below."
        )
    parts += [
        meta.description or "An image classifier, evaluated for adversarial robustness.",
        "## Intended use",
        meta.intended_use
        or "Research on adversarial robustness. It was not made for decisions about people or "
        "safety.",
    ]
    if meta.training:
        parts += ["## Training", meta.training]
    parts += ["## How it was evaluated", _evaluated(assessment, meta)]
    parts += ["## Results", _results(assessment), _worst(assessment, meta)]
    parts += ["## Checks of the evaluation", _checks(assessment)]
    parts += ["## Limitations", _list(_limitations(assessment, meta))]
    parts += ["## How to reproduce", _reproduce(assessment, meta)]
    return "\n\n".join(parts) + "\n"


def plain(text: object) -> str:
    """Return a text on one line without meaning to Markdown or HTML."""
    line = " ".join(str(text).split())
    visible = "".join(sign if sign.isprintable() else "\ufffd" for sign in line)
    return MARKUP.sub(r"\\\1", visible).replace("\\<", "&lt;")


def _name(assessment: EvalResult, meta: CardMeta) -> str:
    """Return what the model is called."""
    return meta.name or str(assessment.provenance.get("model") or "model")


def _dataset(assessment: EvalResult, meta: CardMeta) -> str:
    """Return what the dataset is called."""
    return meta.dataset or str(assessment.provenance.get("data") or UNKNOWN)


def _evaluated(assessment: EvalResult, meta: CardMeta) -> str:
    """Return threat, images and attacks in words."""
    left_out = assessment.provenance.get("suite_leaves_out")
    lines = [
        f"Threat model: {plain(assessment.threat)} (pixels are in \\[0, 1\\]).",
        f"Images: {assessment.n:,} of {plain(_dataset(assessment, meta))}, {plain(meta.split)} "
        "part.",
        f"Attacks: suite {plain(assessment.suite)}; an image counts as robust if it withstands "
        "all of them."
        + (f" Left out beside AutoAttack's standard: {plain(left_out)}." if left_out else ""),
    ]
    for result in assessment.attacks.values():
        lines.append(f"{plain(result.name)}: {plain(result.settings)} ({plain(result.citation)}).")
    return _list(lines)


def _results(assessment: EvalResult) -> str:
    """Return the table of accuracies."""
    rows = [("clean", assessment.clean_accuracy)]
    rows += [(f"after {name}", found.standing) for name, found in assessment.attacks.items()]
    rows += [("**robust** (all attacks)", assessment.robust_accuracy)]
    rows += [(f"robust at epsilon {epsilon}", found) for epsilon, found in assessment.curve.items()]
    body = [
        f"| {name if name.startswith('**') else plain(name)} | {_figures(found)} |"
        for name, found in rows
    ]
    head = ["| accuracy | percent | 95 % interval (Wilson) | images |", "|---|---:|---|---:|"]
    return "\n".join([*head, *body])


def _figures(found: Accuracy) -> str:
    """Return the cells of an accuracy."""
    return f"{found.percent:.2f} | {found.low:.2f} to {found.high:.2f} | {found.n:,}"


def _worst(assessment: EvalResult, meta: CardMeta) -> str:
    """Return the worst class in a sentence."""
    label = worst_class(assessment)
    clean, robust = assessment.per_class()[label]
    return (
        f"Worst class: {plain(class_name(label, meta.class_names))}, {robust.percent:.2f} % robust "
        f"({robust.low:.2f} to {robust.high:.2f}) and {clean.percent:.2f} % clean on {clean.n} "
        "images."
    )


def _checks(assessment: EvalResult) -> str:
    """Return how the checks came out, and each that failed or warned."""
    counts = {
        status: sum(check.status == status for check in assessment.checks)
        for status in ("PASS", "WARN", "FAIL", "SKIP")
    }
    summary = (
        f"{len(assessment.checks)} checks ran: {counts['PASS']} passed, {counts['WARN']} warned, "
        f"{counts['FAIL']} failed, {counts['SKIP']} had nothing to look at."
    )
    remarks = [
        f"**{check.status}** {plain(check.id)}: {plain(check.evidence)}. "
        f"Fix: {plain(check.advice)}."
        for status in ("FAIL", "WARN")
        for check in assessment.checks
        if check.status == status
    ]
    return "\n\n".join([summary, _list(remarks)] if remarks else [summary])


def _limitations(assessment: EvalResult, meta: CardMeta) -> list[str]:
    """Return what the figures do not say."""
    found = [*LIMITATIONS]
    if assessment.n < 1000:
        found.append(
            f"{assessment.n} images fix the accuracy only to the intervals above, which are wide."
        )
    return [*found, *meta.limitations]


def _reproduce(assessment: EvalResult, meta: CardMeta) -> str:
    """Return the command, if it is known, and the provenance."""
    parts = []
    if meta.command:
        fence = "`" * (max((len(run) for run in re.findall("`+", meta.command)), default=2) + 1)
        fence = fence if len(fence) > 2 else "```"
        parts.append(f"{fence}sh\n{meta.command.rstrip()}\n{fence}")
    rows = [
        f"| {plain(key)} | {plain(value) or 'none'} |" for key, value in flat(assessment.provenance)
    ]
    return "\n\n".join([*parts, "\n".join(["| what | value |", "|---|---|", *rows])])


def _list(lines: Iterable[str] | Sequence[str]) -> str:
    """Return lines as a list."""
    return "\n".join(f"- {line}" for line in lines)
