"""A search's state in memory and in its file."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from loop_cases import (
    ADVERSARIAL,
    MULTIOBJECTIVE,
    ONE_STEP,
    OPTIONS,
    fresh,
    search,
    state_bits,
    table_bits,
    task,
    weight_bits,
)
from search_cases import bits

from arnas.runtime.errors import UserError
from arnas.runtime.files import load_tensors, save_tensors
from arnas.runtime.progress import silent
from arnas.search.loop import run_stage
from arnas.search.options import AlphaOptions
from arnas.search.state import SearchState, load_state, load_trajectory, save_state


def test_a_new_state_depends_on_its_seed_only() -> None:
    first = fresh(seed=3)
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    second = fresh(seed=3)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert state_bits(first) == state_bits(second)
    other = fresh(seed=4)
    assert table_bits(first) != table_bits(other)
    assert weight_bits(first) != weight_bits(other)


def test_tables_begin_with_the_spread_that_is_set() -> None:
    options = OPTIONS.model_copy(update={"alphas": AlphaOptions(init_scale=0.5)})
    values = torch.cat([t.flatten() for t in fresh(options=options).supernet.tables().values()])
    assert values.std().item() == pytest.approx(0.5, rel=0.15)
    assert abs(values.mean().item()) < 0.1


@pytest.fixture(scope="module")
def first_stage(tmp_path_factory: pytest.TempPathFactory) -> tuple[SearchState, Path]:
    """A state after stage 1 and the file it was saved to."""
    state = search(ADVERSARIAL, data=ONE_STEP)
    path = tmp_path_factory.mktemp("state") / "state.safetensors"
    save_state(path, state, {"search": "a test"})
    return state, path


def test_everything_comes_back_from_a_file(first_stage: tuple[SearchState, Path]) -> None:
    """Into a state of another seed, so that nothing may be left from before."""
    state, path = first_stage
    other = fresh(seed=8)
    load_state(path, other)
    assert state_bits(other) == state_bits(state)
    assert other.epochs == 1
    assert all(math.isnan(gamma) for gamma in other.gammas)
    assert load_tensors(path).description == {"epochs": 1, "search": "a test"}


def test_a_search_continued_from_its_file_ends_with_the_same_bits(
    first_stage: tuple[SearchState, Path], tmp_path: Path
) -> None:
    """Against both stages in memory, never saved; also the files agree byte for byte."""
    _, path = first_stage
    interrupted, whole = fresh(seed=5), search(ADVERSARIAL, data=ONE_STEP)
    load_state(path, interrupted)
    rows = [
        run_stage(state, task(MULTIOBJECTIVE, data=ONE_STEP), silent)
        for state in (interrupted, whole)
    ]
    assert rows[0] == rows[1]
    assert state_bits(interrupted) == state_bits(whole)
    files = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    for file, state in zip(files, (interrupted, whole), strict=True):
        save_state(file, state, {})
    assert files[0].read_bytes() == files[1].read_bytes()


def test_the_trajectory_can_be_read_alone(first_stage: tuple[SearchState, Path]) -> None:
    state, path = first_stage
    found, gammas = load_trajectory(path)
    assert len(found) == 2
    assert bits(gammas) == bits(torch.tensor(state.gammas, dtype=torch.float64))
    for own, tables in zip(state.trajectory, found, strict=True):
        assert {k: bits(v) for k, v in own.items()} == {k: bits(v) for k, v in tables.items()}


@pytest.mark.parametrize(
    ("changes", "space"),
    [
        ({"channels": 4}, {}),
        ({"cells": 5}, {}),
        ({}, {"kinds": ["normal", "normal", "normal"]}),
        ({}, {"widths": [1, 2, 4]}),
    ],
    ids=["channels", "cells", "kinds", "widths"],
)
def test_a_state_of_another_supernet_is_refused(
    changes: dict[str, Any], space: dict[str, Any], first_stage: tuple[SearchState, Path]
) -> None:
    _, path = first_stage
    other = fresh(options=OPTIONS.model_copy(update=changes), **space)
    with pytest.raises(UserError, match="belongs to another supernet") as caught:
        load_state(path, other)
    assert str(path) in str(caught.value)
    assert "search_adversarial" in str(caught.value)


def test_a_file_without_tables_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_tensors(path, {"weight": torch.zeros(3)}, {})
    with pytest.raises(UserError, match="no architecture parameters"):
        load_trajectory(path)
