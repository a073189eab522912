"""The page with the evaluations of all networks of a run, to which the report links."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from arnas.evaluation.result import EvalResult
from arnas.reporting.html import render_page
from arnas.reporting.model.page import render_evaluation

TEMPLATE = "run/networks.html.j2"


class Evaluated(NamedTuple):
    """What was evaluated."""

    dataset: str
    network: str
    seed: int
    name: str
    """Of the evaluation: the checkpoint, and the suite where it is one of its own."""

    @property
    def place(self) -> str:
        """Return its id on the page."""
        return "-".join(map(str, self))

    def __str__(self) -> str:
        """Return what it is in words."""
        return f"{self.network} on {self.dataset}, seed {self.seed}, {self.name.replace('_', ', ')}"


def render_networks(title: str, results: Mapping[Evaluated, EvalResult]) -> str:
    """Return the HTML of the page with these evaluations."""
    sections = [
        {"id": one.place, "title": str(one), "body": render_evaluation(result, f"{one.place}-")}
        for one, result in results.items()
    ]
    return render_page(TEMPLATE, title=title, sections=sections)


def links(page: str, evaluated: Sequence[Evaluated]) -> list[tuple[str, str]]:
    """Return addresses on the page of a file name, each with its text."""
    return [(f"{page}#{one.place}", str(one)) for one in evaluated]
