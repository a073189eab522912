"""The report is one file that loads nothing, says what the tables say, and marks what failed."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Any

import assessment_cases as eval_cases
import pandas as pd
import pytest
import report_cases as cases
from html_page import Page, assert_self_contained

from arnas.evaluation.record import from_record, to_record
from arnas.pipeline.plan import FIGURES
from arnas.reporting.run.captions import CAPTIONS
from arnas.reporting.run.networks import Evaluated, links, render_networks
from arnas.reporting.run.page import (
    ReportContent,
    accuracies,
    check_matrix,
    layouts,
    published_rows,
    render,
)

ROOT = Path(__file__).parents[3]


def content(**changes: Any) -> ReportContent:
    tables = cases.tables() | changes.pop("tables", {})
    values: dict[str, Any] = {
        "name": "smoke",
        "tables": tables,
        "figures": dict.fromkeys(FIGURES, b"<svg/>"),
        "cells": {"dsara seed 0": b"<svg/>"},
        "described": ["Nothing <b>bold</b> was run."],
        "searches": ["dsara"],
        "search_dataset": "digits",
        "controls": {"control"},
        "settings": "name: smoke\n",
        "jobs": [],
        "versions": {"torch": "9.9"},
    }
    return ReportContent(**(values | changes))


def test_nothing_is_loaded_from_elsewhere() -> None:
    assert_self_contained(Page(render(content())))


def test_an_attack_that_no_registry_has_is_in_the_table() -> None:
    own = cases.whitebox().iloc[:1].assign(attack="my_code:attack", accuracy=12.3)
    (table, _) = accuracies(pd.concat([cases.whitebox(), own]))
    assert table["attacks"] == ["clean", "FGSM", "PGD-20", "my_code:attack", "union"]
    assert table["rows"][0]["cells"][3]["value"] == "12.3"


def test_each_network_s_evaluation_is_linked_and_has_a_place_on_its_page() -> None:
    evaluated = [Evaluated("digits", "a", 0, "selected"), Evaluated("digits", "b", 1, "last")]
    made = from_record(to_record(eval_cases.assessment()))
    page = Page(render_networks("run", dict.fromkeys(evaluated, made)))
    assert_self_contained(page)
    assert page.text.count("12 of 64 gradients are zero") == 4
    linked = Page(render(content(evaluations=links("networks.html", evaluated)))).links
    places = {one.removeprefix("networks.html#") for one in linked if "networks.html" in one}
    assert places == {"digits-a-0-selected", "digits-b-1-last"} <= set(page.ids)


def test_every_figure_is_shown_once_with_its_caption() -> None:
    html = render(content())
    for name in FIGURES:
        assert html.count(f'<figure id="{name}">') == 1
        assert CAPTIONS[name].text in html
    assert set(CAPTIONS) == set(FIGURES)


def test_text_is_escaped() -> None:
    html = render(content())
    assert "&lt;b&gt;bold&lt;/b&gt;" in html
    assert "<b>bold" not in html


def test_what_failed_is_marked() -> None:
    assert "unreliable</small>" not in render(content())
    failed = {"whitebox": cases.whitebox(status="unreliable"), "checks": cases.checks(True)}
    html = render(content(tables=failed))
    assert html.count("unreliable</small>") == 2 * len(cases.EXPECTED)
    assert "3 of 9 passes awake" in html
    assert "call eval()" in html


def test_each_dataset_has_its_table_with_the_selected_checkpoint_first() -> None:
    digits, shapes = accuracies(cases.whitebox())
    assert [digits["dataset"], shapes["dataset"]] == ["digits", "shapes"]
    assert [row["model"] for row in digits["rows"]][:2] == ["arnas", "arnas"]
    assert [row["checkpoint"].split(",")[0] for row in digits["rows"]][:2] == ["selected", "last"]
    assert digits["attacks"] == ["clean", "FGSM", "PGD-20", "union"]
    assert digits["rows"][0]["cells"][0] == {"value": "99.0", "interval": "[94.5, 99.8]", "n": ""}


def test_a_figure_over_fewer_images_says_so() -> None:
    table = cases.whitebox()
    few = table.iloc[:1].assign(attack="autoattack", **cases.accuracy(12, 16))
    found = accuracies(pd.concat([table, few]))[0]["rows"][0]["cells"]
    assert found[-2] == {"value": "75.0", "interval": "[50.5, 89.8]", "n": "n=16"}


def test_the_matrix_shows_the_worst_seed() -> None:
    table = pd.concat([cases.checks(), cases.checks(True).assign(seed=1)])
    matrix = check_matrix(table)
    assert matrix["rows"][0]["cells"]["digits", "arnas"] == "FAIL"
    assert matrix["rows"][0]["cells"]["digits", "dsara"] == "PASS"
    assert ["digits", "all"] in matrix["datasets"]


def test_a_layout_has_the_cells_in_order() -> None:
    table = pd.DataFrame(
        [
            {"model": "a", "seed": 0, "cell": cell, "kind": kind, "channels": 8, "side": 4}
            for cell, kind in ((0, "accurate"), (1, "reduction"), (2, "robust"))
            for _ in range(7)
        ]
    )
    (layout,) = layouts(table)
    assert [cell["kind"] for cell in layout["cells"]] == ["accurate", "reduction", "robust"]
    assert layouts(pd.DataFrame()) == []


def published(seeds: int = 2, **changes: Any) -> pd.DataFrame:
    """Return a row of each of two sources, as the table of a run is read back."""
    row = {
        "dataset": "photos",
        "model": "mine",
        "published_model": "resnet18",
        "training": "pgd",
        "checkpoint": "selected",
        "attack": "pgd20",
        "epsilon": "8/255",
        "n": 10_000,
        "seeds": seeds,
        "ours": 49.5,
        "sd": 0.71 if seeds > 1 else float("nan"),
        "published": 51.28,
        "difference": -1.78,
        "source": "One (arXiv 0000.00000)",
        "recipe": "as usual",
        "protocol": float("nan"),
    }
    other = {"source": "Two", "published": 48.0, "difference": 1.5, "protocol": "100 epochs; norm"}
    return pd.DataFrame([row | changes, row | other | changes])


def test_published_numbers_stand_beside_ours_with_what_differs() -> None:
    html = render(content(tables={"published": published()}))
    page = Page(html)
    assert "published" in page.ids
    assert "#published" in page.links
    for words in (
        "49.50 ± 0.71",
        "selected, 2 seeds, n=10,000",
        "51.28",
        "-1.78",
        "+1.50",
        "One (arXiv 0000.00000)",
        "100 epochs; norm",
        "nothing known",
        "ours minus published, in points",
        "ARNAS and DSARA have tables too, but these could not be read",
        "PGD-20",
    ):
        assert words in page.text, words
    assert not re.search(r"\bnan\b", page.text)


def test_one_seed_beside_published_numbers_has_no_deviation() -> None:
    (first, _) = published_rows(published(seeds=1))
    assert first["ours"] == "49.50"
    assert first["basis"] == "selected, one seed, n=10,000"


@pytest.mark.parametrize("empty", [pd.DataFrame(), published()[:0]], ids=["no file", "header"])
def test_a_report_without_anything_published_does_not_speak_of_it(empty: pd.DataFrame) -> None:
    html = render(content(tables={"published": empty}))
    assert "ublished number" not in html
    assert "published" not in Page(html).ids


@pytest.mark.parametrize("name", FIGURES)
def test_snakemake_s_captions_are_the_report_s(name: str) -> None:
    text = (ROOT / f"workflow/report/{name}.rst").read_text()
    assert text == textwrap.fill(CAPTIONS[name].text, 100) + "\n", "write it there too"
