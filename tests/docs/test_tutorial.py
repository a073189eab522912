"""The interactive tour runs from its first cell to its last and shows what it says it shows."""

from __future__ import annotations

import sys

import pytest
from docs_pages import DOCS

sys.path.insert(0, str(DOCS))

from percent_notebook import Result, cells, page, run

NOTEBOOK = (DOCS / "tutorial.py").read_text()


@pytest.fixture(scope="module")
def tour() -> Result:
    return run(NOTEBOOK)


def test_cells_are_told_apart() -> None:
    notebook = "# %% [markdown]\n# # Title\n#\n# Text.\n\n# %%\nx = 1\nprint(x)\n# %%\ny = x\n"
    found = list(cells(notebook))
    assert [cell.markdown for cell in found] == [True, False, False]
    assert found[0].text == "# Title\n\nText."
    assert run(notebook).namespace["y"] == 1
    assert run(notebook).printed == ["1\n", ""]
    assert page(notebook).count("```") == 6, "a block for each code cell and one for the output"


@pytest.mark.long
def test_the_network_learns(tour: Result) -> None:
    seen = tour.namespace
    assert seen["net"].training is False
    assert seen["honest"]["clean"].float().mean() > 0.85
    assert 0.3 < seen["honest"]["pgd20"].float().mean() < seen["honest"]["clean"].float().mean()


@pytest.mark.long
def test_scaled_logits_fool_the_cross_entropy_but_not_the_margin(tour: Result) -> None:
    honest, masked = tour.namespace["honest"], tour.namespace["looks_robust"]
    assert (masked["clean"] == honest["clean"]).all()
    gained = int(masked["pgd20"].sum()) - int(honest["pgd20"].sum())
    assert gained > 15
    assert abs(int(masked["cw_inf"].sum()) - int(honest["cw_inf"].sum())) <= 2


@pytest.mark.long
def test_the_checks_tell_the_two_networks_apart(tour: Result) -> None:
    """By FAIL; a few images between two attacks are a WARN, and depend on the processor."""
    results = tour.namespace["results"]
    assert "FAIL" not in {check.status for check in results["honest"]}
    assert {check.status for check in results["masked"]} == {"FAIL"}


@pytest.mark.long
def test_the_page_shows_what_was_printed(tour: Result) -> None:
    shown = page(NOTEBOOK)
    assert len(tour.printed) > 8
    for text in tour.printed:
        assert text.rstrip() in shown
