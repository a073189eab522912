"""What a run would cost: a few steps of every kind, measured on the present device.

Steps go through the code of the stages, on images of noise in the shape of the dataset, so neither
the files of a public dataset nor any earlier result is needed. Attacks are counted as if they
broke no image: an upper bound, because broken images leave the batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache

import torch

from arnas.config.params import Params
from arnas.cost.networks import BYTES, TINY, Cell, Part, Speed, bytes_of, network_costs
from arnas.cost.stopwatch import Timing, time_or_reason
from arnas.cost.table import Cost
from arnas.data.batches import batches_per_epoch
from arnas.data.sizes import DatasetSize, dataset_size
from arnas.pipeline.plan import STAGES
from arnas.runtime.device import full_float32
from arnas.runtime.progress import silent
from arnas.search.loop import SearchData, SearchTask, run_stage
from arnas.search.state import SearchState, new_state, state_tensors
from arnas.search.step import StagePlan
from arnas.stages.search import adversarial_plan, multiobjective_plan

Tell = Callable[[str], None]


@full_float32()
def estimate(params: Params, device: torch.device, tell: Tell) -> list[Cost]:
    """Measure what the run of these settings costs on one device.

    Parameters
    ----------
    params
        The settings; the cells of `run` are counted.
    device
        Where is measured.
    tell
        Called with what is measured next.

    Returns
    -------
    list of Cost
        In the order of the pipeline. Derivation, analysis, tables and report take seconds and are
        left out.

    Raises
    ------
    UserError
        When a dataset of the user's own cannot be read, or a network is impossible.
    """

    @cache
    def size(name: str) -> DatasetSize:
        return dataset_size(name, params.data[name])

    run = params.run
    rows = [_data_cost(name, size(name)) for name in run.datasets]
    for search in run.searches:
        tell(f"search {search}")
        rows += _search_costs(params, search, size(run.search_dataset), device)
    cells = [(d, n) for d in run.networks_on for n in run.networks]
    cells += [(d, n) for d in run.searches_on for n in run.searches]
    speeds: dict[str, list[Speed]] = {}
    for dataset, network in cells:
        tell(f"network {network} on {dataset}")
        found, speed = network_costs(Cell(params, dataset, network, size(dataset), device))
        rows += found
        if speed is not None:
            speeds.setdefault(dataset, []).append(speed)
    rows += [_blackbox_cost(params, d, size(d), speeds[d]) for d in speeds]
    order = list(dict.fromkeys(stage.command for stage in STAGES))
    return sorted(rows, key=lambda row: order.index(row.stage))


def _data_cost(name: str, size: DatasetSize) -> Cost:
    """Return the cost of preparing a dataset, which is room on the disk."""
    image = math.prod(size.shape)
    return Cost("data", name, "", 1, 0, None, None, size.images * (image + 2 * BYTES))


def _search_costs(
    params: Params, search: str, size: DatasetSize, device: torch.device
) -> Iterator[Cost]:
    """Yield the cost of both stages of a search."""
    options = params.searches[search]
    seeds = len(params.run.seeds)
    plans = adversarial_plan(options.adversarial), multiobjective_plan(options.multiobjective)
    for plan in plans:
        state = new_state(
            params.supernet,
            options.space,
            num_classes=size.num_classes,
            in_channels=size.in_channels,
            seed=0,
            device=device,
        )
        steps = plan.epochs * batches_per_epoch(size.train, params.supernet.batch_size)
        found: Timing | None = None
        note = f"{plan.warmup_epochs} epochs of warm-up cost less" if plan.warmup_epochs else ""
        if steps:
            work = _search_work(params, state, replace(plan, epochs=1, warmup_epochs=0), size)
            found, reason = time_or_reason(work, device)
            note = reason or note
        yield Cost(
            f"search_{plan.name}",
            params.run.search_dataset,
            search,
            seeds,
            steps,
            found.seconds if found else None,
            found.memory if found else None,
            seeds * (bytes_of(state_tensors(state).values()) + BYTES * steps),
            note,
        )


def _search_work(
    params: Params, state: SearchState, plan: StagePlan, size: DatasetSize
) -> Callable[[int], object]:
    """Return a function that takes so many steps of a search."""
    batch = min(params.supernet.batch_size, size.train)
    device = next(state.supernet.parameters()).device
    threat = params.threat[params.run.search_dataset].threat()
    rates = {"learning_rate": TINY, "final_learning_rate": TINY}
    weights = params.supernet.weights.model_copy(update=rates)
    options = params.supernet.model_copy(update={"weights": weights})

    def work(steps: int) -> None:
        validation = size.noise(min(batch, size.search_val), device)
        data = SearchData(size.noise(steps * batch, device), validation, 255)
        run_stage(state, SearchTask(plan, data, options, threat, 0), silent)

    return work


def _blackbox_cost(params: Params, dataset: str, size: DatasetSize, speeds: list[Speed]) -> Cost:
    """Return the cost of showing every network the examples of all, and the clean images."""
    networks, seeds = len(speeds), len(params.run.seeds)
    shown = Part(size.test, params.blackbox.batch_size, 0, seeds * (networks + 1))
    seconds = sum(speed.seconds([shown]) for speed in speeds)
    steps = networks * shown.steps
    stored = seeds * networks * (networks + 1) * size.test
    return Cost("blackbox", dataset, "", 1, steps, seconds / steps, None, stored)
