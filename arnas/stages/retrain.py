"""Stage `retrain`: training of a searched genotype or of a model of the zoo."""

from __future__ import annotations

from arnas.data.placement import placed
from arnas.data.splits import load_splits
from arnas.models.weight_files import save_weights
from arnas.pipeline.network import plan_network
from arnas.pipeline.runner import Job
from arnas.runtime.history import growing_history
from arnas.runtime.seeds import seeded
from arnas.spaces.genotype import load_genotype
from arnas.training.loop import TrainingData, TrainingTask, train


def run(job: Job) -> None:
    """Train the network of the axis and store its selected and last checkpoint."""
    dataset, network = job.axes["dataset"], job.axes["network"]
    splits = load_splits(job.inputs["splits"], dataset)
    info = splits.info
    plan = plan_network(
        job.params, dataset, network, info, lambda: load_genotype(job.inputs["genotype"])
    )
    with seeded("retrain", "weights", job.seed):
        model = plan.build(network)
    job.placed(model, trained=True)

    task = TrainingTask(
        plan.loss,
        TrainingData(
            placed(splits.subset("train", "search_val"), job.device),
            placed(splits.subset("val"), job.device),
            info.scale,
        ),
        job.params.retrain[dataset],
        job.params.threat[dataset].threat(),
        ("retrain", job.seed),
    )
    with growing_history(job.state, job.outputs["history"]) as record:
        result = train(model, task, job.report, record, job.checkpointer)
    for key, checkpoint in (("last", result.last), ("selected", result.selected)):
        model.load_state_dict(checkpoint.weights)
        provenance = {
            "run": job.params.name,
            "dataset": dataset,
            "network": network,
            "seed": job.seed,
            "loss": plan.loss.name,
            "checkpoint": key,
            "epoch": checkpoint.epoch,
            "epochs": len(result.history),
            "val_clean": checkpoint.val_clean,
            "val_robust": checkpoint.val_robust,
        }
        save_weights(job.outputs[key], model, plan.spec, provenance)
