"""The macro layout: the kind, width and resolution of every cell of a network."""

from __future__ import annotations

from typing import NamedTuple

from arnas.runtime.errors import UserError
from arnas.spaces.options import SpaceOptions

MIN_CELLS = 3
MIN_CHANNELS = 2


class CellPlan(NamedTuple):
    """Where a cell stands."""

    kind: str
    """One of `arnas.spaces.genotype.KINDS`."""
    channels: int
    """Channels of each node; the cell puts out four times as many."""
    reduction: bool
    """Whether the cell halves the resolution."""
    after_reduction: bool
    """Whether the cell before it did, so that its older input is twice as large."""


def plan_cells(cells: int, channels: int, space: SpaceOptions) -> tuple[CellPlan, ...]:
    """Return the plan of each of `cells` cells.

    Cells L//3 and 2L//3 (from 0) halve the resolution and open the second and third stage
    (arXiv 2405.05502; DARTS, arXiv 1806.09055).

    Parameters
    ----------
    cells
        Number of cells, L, from 3 up.
    channels
        Initial channels C; a stage's nodes have C times its width.
    space
        Kinds and widths of the stages.

    Raises
    ------
    UserError
        For fewer than 3 cells or no channels.
    """
    if cells < MIN_CELLS:
        raise UserError(
            f"cells is {cells}: allowed are {MIN_CELLS} and more, because cells L//3 and 2L//3 "
            "halve the resolution."
        )
    if channels < MIN_CHANNELS:
        raise UserError(
            f"channels is {channels}: allowed are {MIN_CHANNELS} and more, because halving the "
            "resolution joins two halves of the channels."
        )
    reductions = (cells // 3, 2 * cells // 3)
    plans = []
    for index in range(cells):
        stage = sum(index >= reduction for reduction in reductions)
        reduction = index in reductions
        plans.append(
            CellPlan(
                "reduction" if reduction else space.kinds[stage],
                channels * space.widths[stage],
                reduction,
                index - 1 in reductions,
            )
        )
    return tuple(plans)
