"""Stage `retrain`: training of a searched genotype or of a model of the zoo."""

from __future__ import annotations

from typing import Any

from arnas.data.placement import placed
from arnas.data.splits import load_splits
from arnas.models.registry import (
    can_have_auxiliary,
    describe_model,
    model_from_description,
    save_weights,
)
from arnas.runtime.history import growing_history
from arnas.runtime.seeds import seeded
from arnas.spaces.genotype import Genotype, load_genotype
from arnas.spaces.options import SpaceOptions
from arnas.stages.run import Job
from arnas.training.loop import TrainingData, TrainingTask, train


def run(job: Job) -> None:
    """Train the network of the axis and store its selected and last checkpoint."""
    dataset, network = job.axes["dataset"], job.axes["network"]
    splits = load_splits(job.inputs["splits"], dataset)
    info = splits.info
    model_name, space, sizes = _network(job)
    description = describe_model(
        model_name,
        num_classes=info.num_classes,
        image_size=info.image_size,
        in_channels=info.in_channels,
        channels=sizes.channels,
        cells=sizes.cells,
        space=space,
    )
    recipe = job.params.retrain[dataset]
    auxiliary = recipe.auxiliary_weight > 0 and can_have_auxiliary(model_name)
    with seeded("retrain", "weights", job.seed):
        model = model_from_description(description, network, auxiliary=auxiliary)
    job.placed(model, trained=True)

    task = TrainingTask(
        sizes.loss,
        TrainingData(
            placed(splits.part("train", "search_validation"), job.device),
            placed(splits.part("selection"), job.device),
            info.scale,
        ),
        recipe,
        job.params.threat[dataset].threat(),
        ("retrain", job.seed),
    )
    with growing_history(job.state, job.outputs["history"]) as record:
        result = train(model, task, job.report, record, job.keeper)
    for key, checkpoint in (("last", result.last), ("selected", result.selected)):
        model.load_state_dict(checkpoint.weights)
        provenance = {
            "run": job.params.name,
            "dataset": dataset,
            "network": network,
            "seed": job.seed,
            "loss": sizes.loss,
            "checkpoint": key,
            "epoch": checkpoint.epoch,
            "epochs": len(result.history),
            "selection_clean": checkpoint.selection_clean,
            "selection_robust": checkpoint.selection_robust,
        }
        save_weights(job.outputs[key], model, description, provenance)


def _network(job: Job) -> tuple[str | Genotype, SpaceOptions | None, Any]:
    """Return the model's name or genotype, its layout, and the options with loss and sizes."""
    network = job.axes["network"]
    if network in job.params.searches:
        search = job.params.searches[network]
        return load_genotype(job.inputs["genotype"]), search.space, search.network
    options = job.params.networks[network]
    return options.model, options.space, options
