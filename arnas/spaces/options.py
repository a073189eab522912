"""Settings of the search space."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from arnas.runtime.options import Options
from arnas.runtime.registered import Registered
from arnas.spaces.registry import OPERATIONS, PRIMITIVES

Kind = Literal["accurate", "robust", "normal"]
Width = Annotated[int, Field(ge=1)]
PrimitiveName = Annotated[str, Registered(OPERATIONS)]


class SpaceOptions(Options):
    """Which kind of cell each stage has, and how wide it is."""

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


class SearchSpaceOptions(SpaceOptions):
    """The space of a search: the layout of its cells, and the operations to choose from."""

    primitives: Annotated[list[PrimitiveName], Field(min_length=1)] = list(PRIMITIVES)
    """Operations of every edge: some of the default ones, and functions of your own as
    `package.module:function`, which take channels and stride and return a module."""

    @model_validator(mode="after")
    def _primitives_differ(self) -> SearchSpaceOptions:
        """Refuse an operation that is named twice."""
        if len(set(self.primitives)) < len(self.primitives):
            raise ValueError(f"primitives are {', '.join(self.primitives)}: name each once")
        return self

    def layout(self) -> SpaceOptions:
        """Return the part that the networks of its genotypes need."""
        return SpaceOptions(kinds=self.kinds, widths=self.widths)
