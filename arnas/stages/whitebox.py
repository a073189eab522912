"""Stage `whitebox`: attacks on a trained network, outcome by outcome, and the checks of them."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from torch import Tensor, nn

from arnas.attacks.reference import package_name
from arnas.attacks.registry import ATTACKS
from arnas.attacks.threat import Threat, parse_amount
from arnas.data.splits import Splits, leaked
from arnas.evaluation.checks import run as checks
from arnas.evaluation.checks.run import Check
from arnas.evaluation.ledger import Ledger
from arnas.evaluation.options import AttackName
from arnas.evaluation.statistics import wilson
from arnas.evaluation.whitebox import accuracy_curve, evaluate, predict
from arnas.evaluation.witness import EvalMonitor
from arnas.models.registry import load_trained
from arnas.pipeline.jobs import named
from arnas.pipeline.runner import StageContext
from arnas.runtime.files import save_tensors
from arnas.runtime.progress import Report
from arnas.stages.attacked import images_to_attack
from arnas.training.losses import LOSSES

CURVE_ATTACK: AttackName = "pgd20"


def run(context: StageContext) -> None:
    """Attack the selected and the last checkpoint on the test images."""
    splits, x, y = images_to_attack(context)
    options = context.params.whitebox
    threat_options = context.params.threat[context.axes["dataset"]]
    threat = threat_options.threat()
    tensors: dict[str, Tensor] = {}
    provenance: dict[str, Any] = {}
    earlier: dict[str, Tensor] = {}
    verdicts: list[Check] = []
    seen, ledger = EvalMonitor(), Ledger(context.checkpointer)
    curve = [Threat(threat.norm, parse_amount(epsilon)) for epsilon in options.epsilon_curve]
    done, planned = 0, 2 + len(options.attacks) + len(options.last_attacks) + len(curve)
    for checkpoint, wanted in (("selected", options.attacks), ("last", options.last_attacks)):
        model, origin = load_trained(
            context.inputs[checkpoint], splits.info, *named(context.axes)[1:]
        )
        context.placed(model)
        attacks = options.chosen(wanted, context.axes["dataset"], LOSSES[origin["loss"]].defended)
        provenance[checkpoint] = origin
        known = earlier if _same_epoch(provenance) else {}
        found, witness = evaluate(
            model,
            x,
            y,
            threat,
            [name for name in attacks if name not in known],
            limit=options.autoattack_images,
            batch_size=options.batch_size,
            seed=context.seed,
            report=_joined(context.report, checkpoint, planned, done),
            ledger=ledger,
            scope=checkpoint,
        )
        done += 1 + len(attacks)
        for name in ("clean", *attacks):
            tensors[f"{checkpoint}.{name}"] = {**known, **found}[name]
        seen += witness
        if checkpoint == "selected":
            rows, witness = _curve(context, ledger, model, x, y, curve, planned, done)
            seen += witness
            done += len(curve)
            verdicts = [*_compared(found), *_ends(rows, curve, found["clean"], x, y)]
            verdicts.append(_selection(context, splits, model, origin))
            tensors["curve"] = rows
        earlier = found
    verdicts = [checks.eval_mode(seen), checks.box_and_ball(seen), *verdicts]
    for check in verdicts:
        context.report(planned, planned, f"{check.status} {check.id}: {check.figure}")
    description = {
        "dataset": dataclasses.asdict(splits.info),
        "network": context.axes["network"],
        "seed": context.seed,
        "threat": threat_options.model_dump(mode="json") | {"text": str(threat)},
        "checkpoints": provenance,
        "attacks": {
            name: {"settings": ATTACKS[name].settings, "citation": ATTACKS[name].citation}
            for name in dict.fromkeys([*options.attacks, *options.last_attacks])
        },
        "autoattack_package": package_name(),
        "epsilon_curve": [
            {"epsilon": text if isinstance(text, str) else f"{text:g}", "budget": threat.epsilon}
            for text, threat in zip(options.epsilon_curve, curve, strict=True)
        ],
        "curve_attack": CURVE_ATTACK,
        "checks": [check._asdict() for check in verdicts],
    }
    save_tensors(context.outputs["outcomes"], tensors, description)


def _curve(
    context: StageContext,
    ledger: Ledger,
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    curve: list[Threat],
    total: int,
    before: int,
) -> tuple[Tensor, EvalMonitor]:
    """Return who of the first test images withstands each budget of the curve."""
    options = context.params.whitebox
    n = options.curve_images
    return accuracy_curve(
        model,
        x[:n],
        y[:n],
        curve,
        attack=CURVE_ATTACK,
        batch_size=options.batch_size,
        seed=context.seed,
        report=_joined(context.report, "selected", total, before),
        ledger=ledger,
    )


def _compared(found: dict[str, Tensor]) -> list[Check]:
    """Return the checks between attacks."""
    verdicts = []
    for check, weaker, stronger in (
        (checks.iterative_not_weaker, "fgsm", "pgd20"),
        (checks.more_steps_not_weaker, "pgd20", "pgd100"),
        (checks.margin_not_stronger, "pgd100", "cw_inf"),
    ):
        if {weaker, stronger} <= found.keys():
            verdicts.append(check(found[weaker], found[stronger]))
        else:
            verdicts.append(
                checks.not_run(
                    check.__name__,
                    f"{weaker} and {stronger} were not both run",
                    f"name {weaker} and {stronger} in whitebox.attacks",
                )
            )
    return verdicts


def _ends(rows: Tensor, curve: list[Threat], clean: Tensor, x: Tensor, y: Tensor) -> list[Check]:
    """Return the checks at the ends of the curve: no budget, and one that allows every image."""
    advice = "add {} to whitebox.epsilon_curve"
    # For L2 the diagonal of the box, rounded up to be reached when it is typed in.
    whole = 1.0 if curve[-1].norm == "linf" else math.ceil(100 * math.sqrt(x[0].numel())) / 100
    n = rows.shape[1]
    if curve[0].epsilon == 0:
        first = checks.epsilon_zero(clean[:n], rows[0])
    else:
        first = checks.not_run("epsilon_zero", "the curve has no epsilon 0", advice.format(0))
    if curve[-1].epsilon >= whole:
        standing = wilson(int(rows[-1].sum()), n)
        last = checks.full_range(standing, f"{curve[-1].epsilon:g}", y[:n].cpu())
    else:
        text = f"the curve does not reach epsilon {whole:g}, which allows every image"
        last = checks.not_run("epsilon_one", text, advice.format(f"{whole:g}"))
    return [first, last]


def _selection(
    context: StageContext, splits: Splits, model: nn.Module, origin: dict[str, Any]
) -> Check:
    """Return the check that the checkpoint was chosen on images that are no test images."""
    images, y = splits.part("selection").to(context.device)
    right = predict(model, splits.pixels(images), context.params.whitebox.batch_size) == y
    measured = 100 * float(right.float().mean())
    return checks.selection_honest(origin["selection_clean"], measured, len(y), leaked(splits))


def _same_epoch(provenance: dict[str, Any]) -> bool:
    """Return whether the last checkpoint is the selected one, so that its outcomes are known."""
    epochs = {checkpoint["epoch"] for checkpoint in provenance.values()}
    return len(provenance) > 1 and len(epochs) == 1


def _joined(report: Report, checkpoint: str, total: int, before: int) -> Report:
    """Return a report that names the checkpoint and counts on from what was done before it."""

    def joined(done: int, _: int, text: str) -> None:
        report(before + done, total, f"{checkpoint} checkpoint, {text}")

    return joined
