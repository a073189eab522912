"""The overview of a run as text."""

from __future__ import annotations

import time

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from arnas.config.params import Params
from arnas.pipeline.status import Overview, State, overview
from arnas.runtime.abandoned import age

COLOURS: dict[State, str] = {
    "done": "green",
    "running": "cyan",
    "partial": "yellow",
    "stale": "red",
    "missing": "red",
    "waiting": "dim",
}
ROOM = {"detail": 0, "figure": 110, "age": 70, "device": 130}
"""Columns besides the first two, and how wide the terminal must be to show them."""
NARROW = 70
"""Columns below which a job's name may take several lines."""
REFRESH = 1.0
"""Seconds between two looks."""
PATIENCE = 20.0
"""Seconds without any process at work after which a run is over: engines pause between two jobs."""


def follow(params: Params, console: Console) -> None:
    """Show the overview, and what changes in it, until nothing has been running for a while."""
    last = time.monotonic()
    with Live(console=console, auto_refresh=False) as live:
        while True:
            found = overview(params)
            live.update(as_text(found, console.width), refresh=True)
            last = time.monotonic() if found.running else last
            if time.monotonic() - last >= PATIENCE or set(found.counts) == {"done"}:
                return
            time.sleep(REFRESH)


def as_text(found: Overview, width: int) -> RenderableType:
    """Return the overview for a terminal of so many columns."""
    shown = [name for name, least in ROOM.items() if width >= least]
    table = Table(title=f"Run {found.name}", title_justify="left", box=None, pad_edge=False)
    table.add_column("job", overflow="fold", no_wrap=width >= NARROW)
    for name in ["state", *shown]:
        table.add_column(name, overflow="fold")
    for status in found.jobs:
        cells = {
            "detail": status.detail,
            "figure": status.figure,
            "age": "" if status.made is None else age(status.made),
            "device": status.device,
        }
        state = Text(status.state, style=COLOURS[status.state])
        table.add_row(Text(status.job), state, *(Text(cells[name]) for name in shown))
    return Group(table, *(Text(line) for line in _last_lines(found)))


def _last_lines(found: Overview) -> list[str]:
    """Return what stands below the table."""
    lines = [f"also running: {text}" for text in found.elsewhere]
    counts = ", ".join(f"{count} {state}" for state, count in found.counts.items())
    lines.append(f"{len(found.jobs)} jobs: {counts}")
    if found.unknown_to_dvc and not found.running:
        lines.append(
            f"DVC does not know {found.unknown_to_dvc} of the results that are done: "
            "`python -m arnas adopt` tells it."
        )
    return lines
