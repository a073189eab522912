"""Stages `blackbox_examples` and `blackbox`: examples made on one network, shown to the others."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

from arnas.attacks.suites import build_suite
from arnas.evaluation.checks import run as checks
from arnas.evaluation.outcomes import load_examples
from arnas.evaluation.predict import logits, predict
from arnas.evaluation.runner import SuiteRun, SuiteState
from arnas.evaluation.transfer import transfer_examples
from arnas.models.weight_files import load_trained
from arnas.pipeline.jobs import named
from arnas.pipeline.runner import StageContext
from arnas.runtime.device import full_float32
from arnas.runtime.files import save_tensors
from arnas.runtime.resume import Section, Sections
from arnas.stages.attacked import images_to_attack


def make_examples(context: StageContext) -> None:
    """Make examples on one network for the others, and attack it with Square."""
    splits, x, y = images_to_attack(context)
    options, threat = context.params.blackbox, context.threat.threat()
    model, origin = load_trained(context.inputs["selected"], splits.info, *named(context.axes)[1:])
    context.placed(model)
    sections, size = Sections(context.checkpointer), options.batch_size
    with full_float32():
        x_adv = transfer_examples(
            model,
            x,
            y,
            threat,
            steps=options.steps,
            batch_size=size,
            seed=context.seed,
            checkpointer=Section(sections, "transfer"),
        )
        context.report(1, 2, "examples for other networks")
        square = _square(context, Section(sections, "square"), model, x, y)
        clean, adversarial = (
            logits(model, images, size).softmax(1).max(1) for images in (x, x_adv)
        )
    monitor = dataclasses.replace(square.monitor)
    monitor.see(x, x_adv, threat)
    robust = square.tensors["square"] == 1
    share = 100 * float(robust.float().mean())
    context.report(2, 2, f"Square: {share:.1f} % of {len(robust)} images robust")
    save_tensors(
        context.outputs["examples"],
        {
            "x_adv": x_adv,
            "labels": y,
            "clean.predicted": clean.indices,
            "clean.confidence": clean.values,
            "adversarial.predicted": adversarial.indices,
            "adversarial.confidence": adversarial.values,
            "square": robust.to(torch.uint8),
        },
        {
            "dataset": dataclasses.asdict(splits.info),
            "network": context.axes["network"],
            "seed": context.seed,
            "loss": origin["loss"],
            "threat": context.threat.model_dump(mode="json") | {"text": str(threat)},
            "settings": options.model_dump(mode="json"),
            "checks": [checks.blackbox_ball_and_box(monitor)._asdict()],
        },
    )


def _square(
    context: StageContext, section: Section, model: nn.Module, x: Tensor, y: Tensor
) -> SuiteState:
    """Attack the first images with Square; its own state is kept."""
    options, threat = context.params.blackbox, context.threat.threat()
    n = min(options.square_images, len(y))
    suite = build_suite(
        "square",
        threat.norm,
        max(int(y.max()) + 1, 2),
        queries=options.square_queries,
        rescale_schedule=True,
    )
    run = SuiteRun(
        model,
        x[:n],
        y[:n],
        torch.arange(n),
        threat,
        suite,
        context.seed,
        options.batch_size,
        checkpointer=section,
    )
    state = SuiteState.load(section)
    run.finish(state)
    return state


def score(context: StageContext) -> None:
    """Show every source's examples to every target of the same seed."""
    splits, x, y = images_to_attack(context)
    cells = [producer.axes for producer in context.gather("retrain")]
    tensors: dict[str, Tensor] = {}
    described: dict[str, Any] = {"dataset": splits.info.name, "networks": []}
    described |= {"losses": {}, "checks": {}}
    batch_size = context.params.blackbox.batch_size
    for number, target in enumerate(cells):
        path = context.inputs[_key("retrain", target, "selected")]
        model, origin = load_trained(path, splits.info, *named(target)[1:])
        context.placed(model)
        clean = predict(model, x, batch_size) == y
        for source in (cell for cell in cells if cell["seed"] == target["seed"]):
            path = context.inputs[_key("blackbox_examples", source, "examples")]
            examples, description = load_examples(path, *named(source), splits.subset("test"))
            x_adv = torch.from_numpy(examples["x_adv"])
            flags = clean & (predict(model, x_adv, batch_size) == y)
            name = f"{target['seed']}.{target['network']}"
            tensors[f"{name}.{source['network']}"] = flags.to(torch.uint8)
            if source == target:
                tensors[f"{name}.square"] = torch.from_numpy(examples["square"])
                described["threat"] = description["threat"]
                described["settings"] = description["settings"]
                described["checks"][name] = description["checks"]
        if target["network"] not in described["networks"]:
            described["networks"].append(target["network"])
        described["losses"][target["network"]] = origin["loss"]
        context.report(number + 1, len(cells), f"{target['network']}, seed {target['seed']}")
    save_tensors(context.outputs["outcomes"], tensors, described)


def _key(command: str, axes: Any, key: str) -> str:
    """Return the name under which an aggregate has an input."""
    return "/".join([command, *axes.values(), key])
