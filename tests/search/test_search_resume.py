"""A stage of the search that is cut short anywhere ends with the same bytes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from cut_runs import Cut, Stop
from loop_cases import ADVERSARIAL, DATA, MULTIOBJECTIVE, OPTIONS, STEPS, THREAT, fresh
from search_cases import bits

from arnas.runtime.progress import silent
from arnas.runtime.resume import NO_CHECKPOINT, Checkpointer
from arnas.search.loop import SearchTask, run_stage
from arnas.search.state import state_tensors
from arnas.search.step import StagePlan

EPOCHS = 2
OFFERS = EPOCHS * (STEPS + 1)
PLANS = {
    "adversarial": replace(ADVERSARIAL, epochs=EPOCHS, warmup_epochs=1),
    "multiobjective": replace(MULTIOBJECTIVE, epochs=EPOCHS),
}


def run(plan: StagePlan, checkpointer: Checkpointer = NO_CHECKPOINT) -> object:
    """Search from the same beginning and return all that is left, as bytes and text."""
    state = fresh()
    rows: list[str] = []
    task = SearchTask(plan, DATA, OPTIONS, THREAT, 0)
    history = run_stage(state, task, silent, lambda row: rows.append(json.dumps(row)), checkpointer)
    assert rows == [json.dumps(row) for row in history]
    return rows, {name: bits(value) for name, value in state_tensors(state).items()}


@pytest.mark.parametrize("name", PLANS)
def test_cut_short_after_any_step(name: str, tmp_path: Path) -> None:
    whole = run(PLANS[name])
    for stop in (1, STEPS, STEPS + 1, OFFERS - 1):
        path = tmp_path / str(stop) / "state.safetensors"
        with pytest.raises(Stop):
            run(PLANS[name], Cut(path, stop))
        second = Cut(path)
        assert run(PLANS[name], second) == whole
        assert second.offers == OFFERS - stop, "nothing is done twice"
