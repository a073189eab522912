"""The report is one file that loads nothing, says what the tables say, and marks what failed."""

from __future__ import annotations

import re
import textwrap
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import report_cases as cases

from arnas.pipeline.plan import FIGURES
from arnas.reporting.published.sources import load_published
from arnas.reporting.run.captions import CAPTIONS
from arnas.reporting.run.page import (
    ReportContent,
    accuracies,
    beside_published,
    check_matrix,
    layouts,
    render,
)
from arnas.reporting.run.words import LABELS

ROOT = Path(__file__).parents[2]
VOID = {"meta", "img", "br", "link", "hr"}


class Page(HTMLParser):
    """Collects the text, the attributes that load something, and whether tags are balanced."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loaded: list[str] = []
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.texts: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name in {"src", "srcset", "data", "poster"} or (name == "href" and tag == "link"):
                self.loaded.append(value or "")
            if name == "id":
                self.ids.add(value or "")
            if name == "href" and tag == "a":
                self.links.append(value or "")
        assert tag != "script"

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in {"style", "pre"}:
            self.texts.append(data.strip())


def content(**changes: Any) -> ReportContent:
    empty = pd.DataFrame()
    tables = {
        "whitebox": cases.whitebox(),
        "blackbox": cases.blackbox(),
        "checks": cases.checks(),
        "models": cases.models(),
        "operations": empty,
        "published": empty,
    }
    tables |= changes.pop("tables", {})
    values: dict[str, Any] = {
        "name": "smoke",
        "tables": tables,
        "figures": dict.fromkeys(FIGURES, b"<svg/>"),
        "cells": {"dsara seed 0": b"<svg/>"},
        "described": ["Nothing <b>bold</b> was run."],
        "searches": ["dsara"],
        "search_dataset": "digits",
        "settings": "name: smoke\n",
        "instances": [],
        "versions": {"torch": "9.9"},
    }
    return ReportContent(**(values | changes))


def test_nothing_is_loaded_from_elsewhere() -> None:
    html = render(content())
    page = Page(html)
    assert not page.open, "every tag is closed"
    assert page.loaded
    assert all(url.startswith("data:image/svg+xml;base64,") for url in page.loaded)
    assert not re.search(r"https?:|//[a-z]|@import|url\(", re.sub(r"base64,[^\"]*", "", html))


def test_links_lead_to_places_of_the_page() -> None:
    page = Page(render(content()))
    assert page.links
    assert {link.removeprefix("#") for link in page.links} <= page.ids


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
    assert not page.open
    assert "published" in page.ids
    assert "#published" in page.links
    text = " ".join(page.texts)
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
        "92 values known from memory only are not shown",
        "ARNAS and DSARA have tables too, but these could not be read",
        "PGD-20",
    ):
        assert words in text, words
    assert not re.search(r"\bnan\b", text)


def test_one_seed_beside_published_numbers_has_no_deviation() -> None:
    (first, _) = beside_published(published(seeds=1))
    assert first["ours"] == "49.50"
    assert first["basis"] == "selected, one seed, n=10,000"


@pytest.mark.parametrize("empty", [pd.DataFrame(), published()[:0]], ids=["no file", "header"])
def test_a_report_without_anything_published_does_not_speak_of_it(empty: pd.DataFrame) -> None:
    html = render(content(tables={"published": empty}))
    assert "ublished number" not in html
    assert "memory" not in html
    assert "published" not in Page(html).ids


def test_a_report_of_everything_published_shows_no_value_from_memory() -> None:
    """A row of the section for each value that was read; none has a memory value in its place."""
    table = pd.DataFrame(
        [
            {
                **published().iloc[0].to_dict(),
                **{"dataset": row.dataset, "model": row.model, "training": row.training},
                **{"attack": attack, "published": value, "source": source.tag},
            }
            for source, row in load_published().seen()
            for attack, value in row.seen.items()
        ]
    )
    section = render(content(tables={"published": table})).split('<h2 id="published">')[1]
    body = section.split("<tbody>")[1].split("</tbody>")[0]
    rows = re.findall(r"<tr>(.*?)</tr>", body, re.S)
    assert len(rows) == len(table) == 150
    for source in load_published().sources:
        for row in source.values:
            start = f"{row.model}<small>{row.dataset}, {row.training}</small>"
            here = [text for text in rows if start in text and f"<td>{source.tag}<" in text]
            for attack, value in row.memory.items():
                label = f"<td>{LABELS[attack]}</td>"
                assert not [t for t in here if label in t and f">{value:.2f}<" in t]


@pytest.mark.parametrize("name", FIGURES)
def test_snakemake_s_captions_are_the_report_s(name: str) -> None:
    text = (ROOT / f"workflow/report/{name}.rst").read_text()
    assert text == textwrap.fill(CAPTIONS[name].text, 100) + "\n", "write it there too"
