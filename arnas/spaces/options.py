"""Settings of the search space."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from arnas.runtime.options import Options

Kind = Literal["accurate", "robust", "normal"]
Width = Annotated[int, Field(ge=1)]


class SpaceOptions(Options):
    """Which kind of cell stands where, and how wide; both searches and networks follow it."""

    kinds: Annotated[list[Kind], Field(min_length=3, max_length=3)] = [
        "accurate",
        "accurate",
        "robust",
    ]
    """Kind of the cells in each of the three stages of resolution. ARNAS: accurate, accurate,
    robust. For a search the names only say which stages share a cell: two kinds of cells, as in
    DARTS, are normal three times. For a published genotype they place its cells: ARNAS's with
    both exchanged are robust, robust, accurate."""
    widths: Annotated[list[Width], Field(min_length=3, max_length=3)] = [1, 2, 2]
    """Width of the three stages in units of the initial channels. ARNAS has 1, 2, 2,
    DARTS 1, 2, 4."""

    def searched_kinds(self) -> tuple[str, ...]:
        """Return the kinds that have an architecture table, each once."""
        return (*dict.fromkeys(self.kinds), "reduction")
