"""Stages `blackbox_examples` and `blackbox`: examples made on one network, shown to the others."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from arnas.attacks.folding import folded
from arnas.attacks.reference import package_name
from arnas.evaluation.checks import run as checks
from arnas.evaluation.ledger import Ledger
from arnas.evaluation.outcomes import load_examples
from arnas.evaluation.transfer import opinion, square_examples, transfer_examples
from arnas.evaluation.whitebox import predict
from arnas.evaluation.witness import EvalMonitor
from arnas.models.registry import load_trained
from arnas.pipeline.jobs import named, producers
from arnas.pipeline.runner import StageContext
from arnas.runtime.files import save_tensors
from arnas.stages.attacked import images_to_attack


def make_examples(context: StageContext) -> None:
    """Make examples on one network for the others, and attack it with Square."""
    splits, x, y = images_to_attack(context)
    options = context.params.blackbox
    threat_options = context.params.threat[context.axes["dataset"]]
    threat = threat_options.threat()
    model, origin = load_trained(context.inputs["selected"], splits.info, *named(context.axes)[1:])
    context.placed(model)
    copy, ledger = folded(model), Ledger(context.checkpointer)
    x_adv = transfer_examples(
        copy,
        x,
        y,
        threat,
        steps=options.steps,
        batch_size=options.batch_size,
        seed=context.seed,
        ledger=ledger,
    )
    before = opinion(model, x, options.batch_size, y.device)
    after = opinion(model, x_adv, options.batch_size, y.device)
    robust = (before.predicted == y) & (after.predicted == y)
    context.report(1, 2, f"{100 * float(robust.float().mean()):.1f} % withstand their own examples")
    n = min(options.square_images, len(y))
    found = square_examples(
        copy,
        x[:n],
        y[:n],
        threat,
        queries=options.square_queries,
        batch_size=options.batch_size,
        ledger=ledger,
    )
    witness = EvalMonitor()
    witness.see(x, x_adv, threat)
    witness.see(x[:n], found, threat)
    verdict = checks.box_and_ball(witness)._replace(id="blackbox_box_and_ball")
    fooled = predict(model, found, options.batch_size, y.device) != y[:n]
    stands = (before.predicted[:n] == y[:n]) & ~fooled
    context.report(2, 2, f"{100 * float(stands.float().mean()):.1f} % of {n} withstand Square")
    save_tensors(
        context.outputs["examples"],
        {
            "x_adv": x_adv,
            "labels": y,
            "clean.predicted": before.predicted,
            "clean.confidence": before.confidence,
            "adversarial.predicted": after.predicted,
            "adversarial.confidence": after.confidence,
            "square": stands.to(torch.uint8),
        },
        {
            "dataset": dataclasses.asdict(splits.info),
            "network": context.axes["network"],
            "seed": context.seed,
            "loss": origin["loss"],
            "threat": threat_options.model_dump(mode="json") | {"text": str(threat)},
            "settings": options.model_dump(mode="json"),
            "square_package": package_name(),
            "checks": [verdict._asdict()],
        },
    )


def score(context: StageContext) -> None:
    """Show every source's examples to every target of the same seed."""
    splits, x, y = images_to_attack(context)
    cells = [
        producer.axes
        for producer in producers(context.job.stage, "retrain", context.axes, context.params)
    ]
    tensors: dict[str, Tensor] = {}
    described: dict[str, Any] = {"dataset": splits.info.name, "networks": []}
    described |= {"losses": {}, "checks": {}}
    for number, target in enumerate(cells):
        path = context.inputs[_key("retrain", target, "selected")]
        model, origin = load_trained(path, splits.info, *named(target)[1:])
        context.placed(model)
        clean = predict(model, x, context.params.blackbox.batch_size, y.device) == y
        for source in (cell for cell in cells if cell["seed"] == target["seed"]):
            path = context.inputs[_key("blackbox_examples", source, "examples")]
            examples, description = load_examples(path, *named(source), splits.part("test"))
            x_adv = examples["x_adv"].to(x.device)
            batch_size = context.params.blackbox.batch_size
            flags = clean & (predict(model, x_adv, batch_size, y.device) == y)
            name = f"{target['seed']}.{target['network']}.{source['network']}"
            tensors[name] = flags.to(torch.uint8)
            if source == target:
                tensors[f"{target['seed']}.{target['network']}.square"] = examples["square"]
                described["threat"] = description["threat"]
                described["settings"] = description["settings"]
                described["checks"][f"{target['seed']}.{target['network']}"] = description["checks"]
        if target["network"] not in described["networks"]:
            described["networks"].append(target["network"])
        described["losses"][target["network"]] = origin["loss"]
        context.report(number + 1, len(cells), f"{target['network']}, seed {target['seed']}")
    save_tensors(context.outputs["outcomes"], tensors, described)


def _key(command: str, axes: Any, key: str) -> str:
    """Return the name under which an aggregate has an input."""
    return "/".join([command, *axes.values(), key])
