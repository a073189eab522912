"""Claims of the explanation pages that no other test covers."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import pytest
import torch
from docs_pages import ROOT

from arnas import Threat
from arnas.data.splits import LabelledImages
from arnas.evaluation.statistics import wilson
from arnas.reporting.run.reproduction import tolerance
from arnas.runtime.progress import silent
from arnas.search.loop import SearchData, SearchTask, run_stage
from arnas.search.min_norm import min_norm
from arnas.search.options import SearchAttackOptions, SupernetOptions
from arnas.search.state import SearchState, new_state
from arnas.search.step import StagePlan
from arnas.spaces.options import SearchSpaceOptions


def searched(kinds: list[str]) -> SearchState:
    """Return a tiny search after an epoch of its second stage."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 17, (12, 1, 8, 8), generator=generator, dtype=torch.uint8)
    part = LabelledImages(images, torch.arange(12) % 4)
    attack = SearchAttackOptions(steps=1, step_size=0.05)
    options = SupernetOptions(channels=2, cells=6, batch_size=4, attack=attack)
    space = SearchSpaceOptions.model_validate({"kinds": kinds})
    device = torch.device("cpu")
    state = new_state(options, space, num_classes=4, in_channels=1, seed=0, device=device)
    plan = StagePlan("multiobjective", 1, "first", "min_norm", adversarial_weight=0.1)
    data = SearchData(part, part, 16)
    run_stage(state, SearchTask(plan, data, options, Threat("linf", 0.1), 0), silent)
    return state


def test_exchanged_names_of_kinds_give_the_same_search() -> None:
    plain = searched(["accurate", "accurate", "robust"]).supernet.tables()
    swapped = searched(["robust", "robust", "accurate"]).supernet.tables()
    moved = searched(["accurate", "robust", "robust"]).supernet.tables()
    assert torch.equal(plain["accurate"], swapped["robust"])
    assert torch.equal(plain["robust"], swapped["accurate"])
    assert not torch.equal(plain["accurate"], moved["accurate"])


def test_a_weight_of_a_tenth_hands_the_steps_to_the_adversarial_gradient() -> None:
    """At equal lengths and the cosine that the digits show; a balanced weight shares them."""
    natural, adversarial = torch.tensor([1.0, 0.0]), torch.tensor([0.45, math.sqrt(1 - 0.45**2)])
    assert min_norm(natural, 0.1 * adversarial).gamma == 0
    assert min_norm(natural, adversarial).gamma == pytest.approx(0.5)


def test_the_search_on_digits_shows_it() -> None:
    table = pd.read_csv(ROOT / "results/tables/digits/search.csv")
    second = table[table["stage"] == "multiobjective"]
    assert len(second)
    assert (second["gamma"] < 0.05).all()
    assert second["cosine"].between(0.35, 0.55).all()


def test_the_table_of_intervals() -> None:
    lines = [
        line
        for line in Path(ROOT / "docs/pages/explanation/numbers.md").read_text().splitlines()
        if line.startswith(("| 50 %", "| 90 %", "| 0 %"))
    ]
    assert len(lines) == 3
    for line in lines:
        percent, *found = (cell.strip() for cell in line.strip("|").split("|"))
        for n, text in zip((50, 360, 1000, 10000), found, strict=True):
            accuracy = wilson(round(int(percent.removesuffix("%")) * n / 100), n)
            low, high = map(float, text.split(" to "))
            assert abs(low - accuracy.low) < 0.06 and abs(high - accuracy.high) < 0.06
    assert tolerance(90, 90, 360) == pytest.approx(7.8, abs=0.05)
