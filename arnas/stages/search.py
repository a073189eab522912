"""Stages `search_adversarial` and `search_multiobjective`: the two stages of the search."""

from __future__ import annotations

from arnas.data.placement import placed
from arnas.data.splits import load_splits
from arnas.pipeline.runner import Job
from arnas.runtime.history import growing_history
from arnas.search.loop import SearchData, SearchTask, run_stage
from arnas.search.options import AdversarialStageOptions, MultiobjectiveStageOptions
from arnas.search.state import load_state, new_state, save_state
from arnas.search.step import StagePlan


def run_adversarial(job: Job) -> None:
    """Search on the adversarial loss, from fresh weights and tables."""
    _run(job, adversarial_plan(job.params.searches[job.axes["search"]].adversarial))


def run_multiobjective(job: Job) -> None:
    """Continue along the combination of natural and adversarial gradients."""
    _run(job, multiobjective_plan(job.params.searches[job.axes["search"]].multiobjective))


def adversarial_plan(options: AdversarialStageOptions) -> StagePlan:
    """Return what stage 1 does at a step."""
    return StagePlan(
        "adversarial",
        options.epochs,
        options.order,
        "adversarial",
        options.difference_radius,
        warmup_epochs=options.warmup_epochs,
    )


def multiobjective_plan(options: MultiobjectiveStageOptions) -> StagePlan:
    """Return what stage 2 does at a step."""
    return StagePlan(
        "multiobjective",
        options.epochs,
        options.order,
        options.combine,
        options.difference_radius,
        options.adversarial_weight,
    )


def _run(job: Job, plan: StagePlan) -> None:
    """Run one stage of the search and store its state and history."""
    params, search = job.params, job.axes["search"]
    splits = load_splits(job.inputs["splits"], params.run.search_dataset)
    run = {
        "run": params.name,
        "search": search,
        "seed": job.seed,
        "dataset": splits.info.name,
        "stage": plan.name,
    }
    state = new_state(
        params.supernet,
        params.searches[search].space,
        num_classes=splits.info.num_classes,
        in_channels=splits.info.in_channels,
        seed=job.seed,
        device=job.device,
    )
    if "before" in job.inputs:
        load_state(job.inputs["before"], state, run | {"stage": "adversarial"})
    task = SearchTask(
        plan,
        SearchData(
            placed(splits.subset("train"), job.device),
            placed(splits.subset("search_val"), job.device),
            splits.info.scale,
        ),
        params.supernet,
        params.threat[params.run.search_dataset].threat(),
        job.seed,
    )
    with growing_history(job.state, job.outputs["history"]) as record:
        run_stage(state, task, job.report, record, job.checkpointer)
    save_state(job.outputs["state"], state, run)
