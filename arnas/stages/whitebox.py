"""Stage `whitebox`: attacks on a trained network, outcome by outcome."""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import Tensor

from arnas.attacks.registry import ATTACKS
from arnas.attacks.standard import package_name
from arnas.data.splits import load_splits
from arnas.evaluation.whitebox import evaluate
from arnas.models.registry import load_weights
from arnas.runtime.device import use_full_float32
from arnas.runtime.files import save_tensors
from arnas.runtime.progress import Report
from arnas.stages.run import Job
from arnas.training.losses import LOSSES


def run(job: Job) -> None:
    """Attack the selected and the last checkpoint on the test images."""
    use_full_float32()
    splits = load_splits(job.inputs["splits"])
    images, y = splits.part("test").to(job.device)
    x = splits.pixels(images)
    options = job.params.whitebox
    threat_options = job.params.threat[job.axes["dataset"]]
    threat = threat_options.threat()
    tensors: dict[str, Tensor] = {}
    provenance: dict[str, Any] = {}
    earlier: dict[str, Tensor] = {}
    planned = 2 + len(options.attacks) + len(options.last_attacks)
    for checkpoint, wanted in (("selected", options.attacks), ("last", options.last_attacks)):
        model, origin = load_weights(job.inputs[checkpoint])
        defended = LOSSES[origin["loss"]].defended or options.autoattack_on == "all"
        attacks = [name for name in wanted if defended or name != "autoattack"]
        provenance[checkpoint] = origin
        known = earlier if _same_epoch(provenance) else {}
        found = evaluate(
            model.to(job.device),
            x,
            y,
            threat,
            [name for name in attacks if name not in known],
            limit=options.autoattack_images,
            batch_size=options.batch_size,
            seed=job.seed,
            report=_joined(job.report, checkpoint, planned, len(tensors)),
        )
        for name in ("clean", *attacks):
            tensors[f"{checkpoint}.{name}"] = {**known, **found}[name]
        earlier = found
    description = {
        "dataset": dataclasses.asdict(splits.info),
        "network": job.axes["network"],
        "seed": job.seed,
        "threat": threat_options.model_dump(mode="json") | {"text": str(threat)},
        "checkpoints": provenance,
        "attacks": {
            name: {"settings": ATTACKS[name].settings, "citation": ATTACKS[name].citation}
            for name in dict.fromkeys([*options.attacks, *options.last_attacks])
        },
        "autoattack_package": package_name(),
    }
    save_tensors(job.outputs["outcomes"], tensors, description)


def _same_epoch(provenance: dict[str, Any]) -> bool:
    """Return whether the last checkpoint is the selected one, so that its outcomes are known."""
    epochs = {checkpoint["epoch"] for checkpoint in provenance.values()}
    return len(provenance) > 1 and len(epochs) == 1


def _joined(report: Report, checkpoint: str, total: int, before: int) -> Report:
    """Return a report that names the checkpoint and counts on from what was done before it."""

    def joined(done: int, _: int, text: str) -> None:
        report(before + done, total, f"{checkpoint} checkpoint, {text}")

    return joined
