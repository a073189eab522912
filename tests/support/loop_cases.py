"""Tiny searches in float32 and what they leave, shared by the tests of loop and state."""

from __future__ import annotations

from typing import Any

import torch
from search_cases import bits, module_bits, optimiser_bits

from arnas.attacks.threat import Threat
from arnas.data.options import AugmentOptions
from arnas.data.splits import LabelledImages
from arnas.runtime.progress import silent
from arnas.search.loop import SearchData, SearchTask, run_stage
from arnas.search.options import (
    AlphaOptions,
    SearchAttackOptions,
    SupernetOptions,
    WeightOptions,
)
from arnas.search.state import SearchState, new_state
from arnas.search.step import StagePlan
from arnas.spaces.options import SearchSpaceOptions

CPU = torch.device("cpu")
THREAT = Threat("linf", 0.1)
SCALE = 16
BATCH = 4
STEPS = 2
"""Batches of an epoch: nine images make two of four."""
OPTIONS = SupernetOptions(
    channels=2,
    cells=4,
    batch_size=BATCH,
    attack=SearchAttackOptions(steps=1, step_size="0.05"),
    weights=WeightOptions(learning_rate=0.1, schedule_epochs=4),
    alphas=AlphaOptions(learning_rate=0.02),
    augment=AugmentOptions(crop_padding=1),
)


def images(count: int, labels: tuple[int, ...], seed: int) -> LabelledImages:
    """Return grey 8x8 images whose labels tell which part they belong to."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(0, SCALE + 1, (count, 1, 8, 8), generator=generator, dtype=torch.uint8)
    return LabelledImages(x, torch.tensor(labels).repeat(count)[:count])


DATA = SearchData(images(9, (0, 1), 1), images(7, (2, 3), 2), SCALE)
ONE_STEP = DATA._replace(train=images(BATCH, (0, 1), 3))
ADVERSARIAL = StagePlan("adversarial", 1, "second", "adversarial")
MULTIOBJECTIVE = StagePlan("multiobjective", 1, "second", "min_norm", adversarial_weight=0.5)


def fresh(seed: int = 0, options: SupernetOptions = OPTIONS, **space: Any) -> SearchState:
    return new_state(
        options, SearchSpaceOptions(**space), num_classes=4, in_channels=1, seed=seed, device=CPU
    )


def task(
    plan: StagePlan,
    seed: int = 0,
    data: SearchData = DATA,
    options: SupernetOptions = OPTIONS,
) -> SearchTask:
    return SearchTask(plan, data, options, THREAT, seed)


def search(plan: StagePlan, **changes: Any) -> SearchState:
    """Run one stage on a fresh state and return what it left."""
    state = fresh(options=changes.get("options", OPTIONS))
    run_stage(state, task(plan, **changes), silent)
    return state


def state_bits(state: SearchState) -> dict[str, object]:
    """Return everything a search carries on, so that two states can be compared bit for bit."""
    weights, alphas = state.supernet.weights(), list(state.supernet.alphas.values())
    return {
        "supernet": module_bits(state.supernet),
        "sgd": optimiser_bits(state.weight_optimiser, weights),
        "adam": optimiser_bits(state.alpha_optimiser, alphas),
        "trajectory": [
            {kind: bits(table) for kind, table in tables.items()} for tables in state.trajectory
        ],
        "gammas": bits(torch.tensor(state.gammas, dtype=torch.float64)),
    }


def table_bits(state: SearchState) -> dict[str, bytes | None]:
    return {kind: bits(table) for kind, table in state.supernet.tables().items()}


def weight_bits(state: SearchState) -> list[bytes | None]:
    return [bits(weight) for weight in state.supernet.weights()]
