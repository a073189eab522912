"""Stages `search_adversarial` and `search_multiobjective`: the two stages of the search."""

from __future__ import annotations

from arnas.data.placement import placed
from arnas.data.splits import load_splits
from arnas.pipeline.runner import StageContext
from arnas.runtime.history import growing_history
from arnas.search.loop import SearchData, SearchTask, run_stage
from arnas.search.options import AdversarialStageOptions, MultiobjectiveStageOptions
from arnas.search.state import load_state, new_state, save_state
from arnas.search.step import StagePlan


def run_adversarial(context: StageContext) -> None:
    """Search on the adversarial loss, from fresh weights and tables."""
    _run(context, adversarial_plan(context.params.searches[context.axes["search"]].adversarial))


def run_multiobjective(context: StageContext) -> None:
    """Continue along the combination of natural and adversarial gradients."""
    _run(
        context, multiobjective_plan(context.params.searches[context.axes["search"]].multiobjective)
    )


def adversarial_plan(options: AdversarialStageOptions) -> StagePlan:
    """Return what stage 1 does at a step."""
    return StagePlan("adversarial", combine="adversarial", **options.model_dump())


def multiobjective_plan(options: MultiobjectiveStageOptions) -> StagePlan:
    """Return what stage 2 does at a step."""
    return StagePlan("multiobjective", **options.model_dump())


def _run(context: StageContext, plan: StagePlan) -> None:
    """Run one stage of the search and store its state and history."""
    params, search = context.params, context.axes["search"]
    splits = load_splits(context.inputs["splits"], params.run.search_dataset)
    run = {
        "run": params.name,
        "search": search,
        "seed": context.seed,
        "dataset": splits.info.name,
        "stage": plan.name,
    }
    state = new_state(
        params.supernet,
        params.searches[search].space,
        num_classes=splits.info.num_classes,
        in_channels=splits.info.in_channels,
        seed=context.seed,
        device=context.device,
    )
    if "before" in context.inputs:
        load_state(context.inputs["before"], state, run | {"stage": "adversarial"})
    task = SearchTask(
        plan,
        SearchData(
            placed(splits.subset("train"), context.device),
            placed(splits.subset("search_val"), context.device),
            splits.info.scale,
        ),
        params.supernet,
        params.threat[params.run.search_dataset].threat(),
        context.seed,
    )
    with growing_history(context.state, context.outputs["history"]) as record:
        run_stage(state, task, context.report, record, context.checkpointer)
    save_state(context.outputs["state"], state, run)
