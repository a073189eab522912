"""Stage `retrain`: training of a searched genotype or of a model of the zoo."""

from __future__ import annotations

from arnas.data.placement import placed
from arnas.data.splits import load_splits
from arnas.models.weight_files import save_weights
from arnas.pipeline.network import plan_network
from arnas.pipeline.runner import StageContext
from arnas.runtime.history import growing_history
from arnas.runtime.seeds import seeded
from arnas.spaces.genotype import load_genotype
from arnas.training.loop import TrainingData, TrainingTask, train


def run(context: StageContext) -> None:
    """Train the network of the axis and store its selected and last checkpoint."""
    dataset, network = context.axes["dataset"], context.axes["network"]
    splits = load_splits(context.inputs["splits"], dataset)
    info = splits.info
    plan = plan_network(
        context.params, dataset, network, info, lambda: load_genotype(context.inputs["genotype"])
    )
    with seeded("retrain", "weights", context.seed):
        model = plan.build(network)
    context.placed(model, trained=True)

    task = TrainingTask(
        plan.loss,
        TrainingData(
            placed(splits.subset("train", "search_val"), context.device),
            placed(splits.subset("val"), context.device),
            info.scale,
        ),
        context.params.recipe(dataset, network),
        context.threat.threat(),
        ("retrain", context.seed),
    )
    with growing_history(context.state, context.outputs["history"]) as record:
        result = train(model, task, context.report, record, context.checkpointer)
    for key, checkpoint in (("last", result.last), ("selected", result.selected)):
        model.load_state_dict(checkpoint.weights)
        provenance = {
            "run": context.params.name,
            "dataset": dataset,
            "network": network,
            "seed": context.seed,
            "loss": plan.loss.name,
            "checkpoint": key,
            "epoch": checkpoint.epoch,
            "epochs": len(result.history),
            "val_clean": checkpoint.val_clean,
            "val_robust": checkpoint.val_robust,
        }
        save_weights(context.outputs[key], model, plan.spec, provenance)
