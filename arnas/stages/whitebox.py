"""Stage `whitebox`: attacks on a trained network, outcome by outcome, and the checks of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from arnas.attacks.registry import attack_entry
from arnas.attacks.threat import parse_amount, unbounded
from arnas.data.splits import Splits, leaked
from arnas.evaluation.checks import run as checks
from arnas.evaluation.evaluate import evaluate
from arnas.evaluation.options import AUTOATTACK, Tier
from arnas.evaluation.predict import predict
from arnas.evaluation.result import BROKEN, FURTHER, ROBUST, Check, EvalResult, to_record
from arnas.models.weight_files import load_trained
from arnas.pipeline.jobs import named
from arnas.pipeline.runner import StageContext
from arnas.runtime.files import save_tensors
from arnas.runtime.progress import Report
from arnas.runtime.resume import Section, Sections
from arnas.stages.attacked import images_to_attack
from arnas.training.registry import loss_entry

CURVE_ATTACK = "apgd"
ENVIRONMENT = ("packages", "python", "git", "device", "threads", "deterministic", "compiled")
"""Of a record's provenance; in the pipeline the manifest has it."""
RANKS = ("SKIP", "PASS", "WARN", "FAIL")


def run(context: StageContext) -> None:
    """Attack the selected and the last checkpoint on the test images."""
    splits, x, y = images_to_attack(context)
    options = context.params.whitebox
    tensors: dict[str, Tensor] = {}
    origins: dict[str, dict[str, Any]] = {}
    results: dict[str, EvalResult] = {}
    sections = Sections(context.checkpointer)
    for checkpoint, wanted in (("selected", options.attacks), ("last", options.last_attacks)):
        model, origin = load_trained(
            context.inputs[checkpoint], splits.info, *named(context.axes)[1:]
        )
        origins[checkpoint] = origin
        attacks = options.chosen(
            wanted, context.axes["dataset"], loss_entry(origin["loss"]).defended
        )
        same = checkpoint == "last" and origin["epoch"] == origins["selected"]["epoch"]
        if same and {f"selected.{name}" for name in attacks} <= tensors.keys():
            for name in ("clean", *attacks):
                tensors[f"last.{name}"] = tensors[f"selected.{name}"]
            continue
        found = _evaluate(context, sections, checkpoint, context.placed(model), x, y, attacks)
        results |= found
        tensors |= _flags(checkpoint, found)
        if checkpoint == "selected":
            tensors["curve"] = found["selected"].curve_robust.to(torch.uint8)
            own = [
                *_end_of_curve(found["selected"], x, y),
                _selection(context, splits, model, origin),
            ]
    results_of_checks = [*_worst(result.checks for result in results.values()), *own]
    for check in results_of_checks:
        context.report(1, 1, f"{check.status} {check.id}: {check.evidence}")
    description = {
        "dataset": dataclasses.asdict(splits.info),
        "network": context.axes["network"],
        "seed": context.seed,
        "threat": context.threat.model_dump(mode="json") | {"text": str(context.threat.threat())},
        "checkpoints": origins,
        "attacks": {
            name: {"settings": attack_entry(name).settings, "citation": attack_entry(name).citation}
            for name in dict.fromkeys(key.split(".", 1)[-1] for key in tensors)
            if name not in ("clean", "curve", FURTHER)
        },
        "autoattack": options.suite,
        "epsilon_curve": [
            {
                "epsilon": text if isinstance(text, str) else f"{text:g}",
                "budget": parse_amount(text),
            }
            for text in options.epsilon_curve
        ],
        "curve_attack": CURVE_ATTACK,
        "checks": [check._asdict() for check in results_of_checks],
        "evaluations": {name: _record(result) for name, result in results.items()},
    }
    save_tensors(context.outputs["outcomes"], tensors, description)


def _evaluate(
    context: StageContext,
    sections: Sections,
    checkpoint: str,
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    attacks: list[str],
) -> dict[str, EvalResult]:
    """Evaluate a checkpoint: each attack on all images, and AutoAttack on the first of them."""
    options = context.params.whitebox
    selected = checkpoint == "selected"

    def one(name: str, suite: str, n: int | None, tier: Tier, **more: Any) -> EvalResult:
        return evaluate(
            model,
            x[:n],
            y[:n],
            context.threat.threat(),
            suite,
            checks=tier,
            seed=context.seed,
            batch_size=options.batch_size,
            known={
                "model": f"{context.axes['network']}, {checkpoint} checkpoint",
                "data": context.axes["dataset"],
                "dataset_size": len(y),
                "epsilon_written": str(context.threat.epsilon),
            },
            checkpointer=Section(sections, name),
            report=_named(context.report, name),
            **more,
        )

    cheap: Tier = "none" if options.checks == "none" else "cheap"
    found = {
        checkpoint: one(
            checkpoint,
            ",".join(name for name in attacks if name != AUTOATTACK),
            None,
            options.checks if selected else cheap,
            combine="each",
            curve=options.epsilon_curve if selected else (),
            curve_images=options.curve_images,
        )
    }
    if AUTOATTACK in attacks:
        name = f"{checkpoint}_{AUTOATTACK}"
        found[name] = one(name, options.suite, options.autoattack_images, cheap)
    return found


def _flags(checkpoint: str, found: Mapping[str, EvalResult]) -> dict[str, Tensor]:
    """Return which images each attack left robust, uint8: 1 where it did."""
    outcomes = found[checkpoint].outcomes
    correct = outcomes["clean"] == ROBUST
    tensors = {  # an image that an attack skipped is as it was
        f"{checkpoint}.{name}": (correct & (outcome != BROKEN)).to(torch.uint8)
        for name, outcome in outcomes.items()
    }
    autoattack = found.get(f"{checkpoint}_{AUTOATTACK}")
    if autoattack is not None:
        tensors[f"{checkpoint}.{AUTOATTACK}"] = autoattack.robust_flags.to(torch.uint8)
    return tensors


def _record(result: EvalResult) -> dict[str, Any]:
    """Return the record of an evaluation without what the manifest says."""
    record = to_record(result)
    known = record["provenance"].items()
    return record | {"provenance": {k: v for k, v in known if k not in ENVIRONMENT}}


def _worst(found: Iterable[Iterable[Check]]) -> list[Check]:
    """Return each check once, with its worst status in any of the evaluations."""
    worst: dict[str, Check] = {}
    for check in (check for some in found for check in some):
        known = worst.setdefault(check.id, check)
        if RANKS.index(check.status) > RANKS.index(known.status):
            worst[check.id] = check
    return list(worst.values())


def _end_of_curve(result: EvalResult, x: Tensor, y: Tensor) -> list[Check]:
    """Return the check at the end of the curve, if that budget allows every image."""
    if not result.curve or any(check.id == "unbounded_attack" for check in result.checks):
        return []
    text = max(result.curve, key=parse_amount)
    if parse_amount(text) < unbounded(result.threat.norm, x[0].numel()).epsilon:
        return []
    robust = result.curve[text]
    return [checks.full_range(robust, text, y[: robust.n])]


def _selection(
    context: StageContext, splits: Splits, model: nn.Module, origin: dict[str, Any]
) -> Check:
    """Return the check that the checkpoint was chosen on images that are no test images."""
    images, y = splits.subset("val")
    right = predict(model, splits.pixels(images), context.params.whitebox.batch_size) == y
    measured = 100 * float(right.float().mean())
    return checks.selection_not_test(origin["val_clean"], measured, len(y), leaked(splits))


def _named(report: Report, name: str) -> Report:
    """Return a report that names the evaluation."""

    def named(done: int, total: int, text: str) -> None:
        report(done, total, f"{name.replace('_', ', ')}: {text}")

    return named
