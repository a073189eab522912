"""A training that is cut short anywhere ends with the same bytes as one that is not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cut_runs import Cut, Stop
from training_cases import bits, small_net, task

from arnas.runtime.progress import silent
from arnas.runtime.resume import NO_CHECKPOINT, Checkpointer
from arnas.training.loop import train

EPOCHS, STEPS = 3, 2
OFFERS = EPOCHS * (STEPS + 1)
"""After each step and after each epoch."""


def run(checkpointer: Checkpointer = NO_CHECKPOINT, **changes: Any) -> object:
    """Train a fresh network and return all that the training left, as bytes and text."""
    model = small_net()
    rows: list[str] = []
    what = task(epochs=EPOCHS, **changes)
    result = train(model, what, silent, lambda row: rows.append(json.dumps(row)), checkpointer)
    assert rows == [json.dumps(row) for row in result.history]
    return (
        rows,
        bits(model.state_dict()),
        [
            (c.epoch, c.val_clean, c.val_robust, bits(c.weights))
            for c in (result.last, result.selected)
        ],
    )


@pytest.mark.parametrize("stop", range(1, OFFERS + 1))
def test_cut_short_after_any_step(stop: int, tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    with pytest.raises(Stop):
        run(Cut(path, stop))
    second = Cut(path)
    assert run(second) == run()
    assert second.offers == OFFERS - stop, "nothing is done twice"


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"optimiser": "adam", "learning_rate": 0.01, "average_decay": 0.5, "no_decay": ["bias"]},
        {"weight_perturbation": 0.01},
    ],
)
def test_cut_short_again_and_again(changes: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    for _ in range(OFFERS):
        with pytest.raises(Stop):
            run(Cut(path, 1), **changes)
    assert run(Cut(path), **changes) == run(**changes)


def test_the_case_has_a_selected_checkpoint_from_before_the_last_cut() -> None:
    found: Any = run()
    last, selected = found[2]
    assert (last[0], selected[0]) == (EPOCHS, 1)
