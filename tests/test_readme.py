"""The README tells the truth: its table, its graph, its commands."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import get_args

import pandas as pd
import pytest

from arnas.attacks.registry import ATTACKS
from arnas.config.load import load_params
from arnas.models.registry import MODELS
from arnas.pipeline.jobs import planned_jobs
from arnas.reporting.run.tables import overview, to_markdown
from arnas.search.options import Combine
from arnas.spaces.options import Kind
from arnas.training.registry import LOSSES

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_table_is_the_committed_one() -> None:
    table = pd.read_csv(ROOT / "results/tables/digits/whitebox.csv", dtype={"epsilon": str})
    shown = README.split("tests/test_readme.py -->\n")[1].split("<!-- end of table -->")[0]
    here = table[table["dataset"] == "digits"]
    expected = to_markdown(overview(here).drop(columns=["dataset", "seed", "epsilon"]))
    assert shown == expected, f"paste into README.md:\n{expected}"


def test_the_graph_is_the_plan() -> None:
    graph = re.search(r"```mermaid\n(.*?)```", README, re.S)
    assert graph is not None
    drawn = set()
    for line in graph[1].splitlines()[1:]:
        groups = [[name.strip() for name in part.split("&")] for part in line.split("-->")]
        for sources, targets in itertools.pairwise(groups):
            drawn |= set(itertools.product(sources, targets))
    planned = planned_jobs(load_params(ROOT / "params.yaml"))
    producer = {path: i.stage.name for i in planned for path in i.outputs.values()}
    expected = {(producer[path], i.stage.name) for i in planned for path in i.inputs.values()}
    assert drawn == expected


@pytest.mark.parametrize(
    ("row", "names"),
    [
        ("models", tuple(MODELS)),
        ("losses", tuple(LOSSES)),
        ("attacks", tuple(ATTACKS)),
        ("search directions", get_args(Combine)),
        ("cells by stage of resolution", get_args(Kind)),
    ],
)
def test_all_names_are_listed(row: str, names: tuple[str, ...]) -> None:
    line = re.search(rf"^\| {row} \|(.*)\|$", README, re.M)
    assert line is not None
    assert set(re.findall(r"`(\w+)`", line[1])) == set(names)


@pytest.mark.parametrize("target", re.findall(r"\bmake ([a-z-]+)", README))
def test_make_targets_exist(target: str) -> None:
    assert re.search(rf"^{target}:.*## ", (ROOT / "Makefile").read_text(), re.M)


@pytest.mark.parametrize("link", re.findall(r"\]\(([^)#:]+)\)", README))
def test_links_lead_somewhere(link: str) -> None:
    assert (ROOT / link).exists()
