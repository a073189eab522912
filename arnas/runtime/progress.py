"""Progress: a bar with ETA on a terminal, otherwise one plain line per epoch or attack."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

EARLIEST_ETA = 0.03
"""Share of the work from which on a remaining time can be told."""


class Report(Protocol):
    """What a library loop calls after each unit of work; the library itself never prints."""

    def __call__(self, done: int, total: int, text: str, /) -> None:
        """Say that `done` of `total` units are finished, with their figures in `text`."""


def silent(done: int, total: int, text: str) -> None:
    """Report nothing."""


@contextmanager
def console_report(title: str) -> Iterator[Report]:
    """Yield a `Report` for the command line, each line headed by `title`.

    On a terminal it is a rich progress bar; elsewhere (log files, pipes) one line a unit with the
    time remaining, estimated from the units done so far once they are a few percent.
    """
    start = time.monotonic()
    if not sys.stderr.isatty():

        def lines(done: int, total: int, text: str) -> None:
            eta = ""
            if EARLIEST_ETA * total <= done < total:
                eta = f", {(time.monotonic() - start) / done * (total - done):.0f} s left"
            sys.stderr.write(f"[{title}] {done}/{total} {text}{eta}\n")
            sys.stderr.flush()

        yield lines
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), Remaining())
    with Progress(*columns, TextColumn("{task.description}"), console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=None)

        def update(done: int, total: int, text: str) -> None:
            bar.update(task, completed=done, total=total, description=text)

        yield update
