"""RobNets: cells that are written as two bits for each edge (arXiv 1911.10695)."""

from __future__ import annotations

from collections.abc import Sequence

from arnas.runtime.errors import UserError
from arnas.spaces.genotype import EDGES, INPUTS, NODES, Cell, Edge
from arnas.spaces.layout import plan_cells
from arnas.spaces.network import CellNetwork
from arnas.spaces.published import DARTS_SPACE

BITS = ("skip_connect", "sep_conv_3x3")
"""What the left and the right bit of an edge stand for."""


def cell_from_code(code: str) -> Cell:
    """Read a cell from its code.

    Parameters
    ----------
    code
        28 characters 0 and 1: two for each of the 14 edges, in the order of the nodes, and for
        each node in that of the earlier states. 10 is the identity (a factorised reduction where
        the edge has a stride of 2), 01 a separable convolution 3x3, 11 the sum of both, 00 nothing.

    Raises
    ------
    UserError
        For any other text, or a node that nothing enters.
    """
    if len(code) != len(BITS) * EDGES or set(code) - {"0", "1"}:
        raise UserError(
            f"the code of a RobNet cell is '{code:.80}': needed are {len(BITS) * EDGES} characters "
            "0 and 1, two for each edge."
        )
    bits = iter(code)
    cell = []
    for node in range(NODES):
        edges = [
            Edge(primitive, state)
            for state in range(INPUTS + node)
            for primitive in BITS
            if next(bits) == "1"
        ]
        if not edges:
            raise UserError(
                f"the code of a RobNet cell is '{code}': nothing enters node {node + INPUTS}, give "
                "one of its edges another code than 00."
            )
        cell.append(tuple(edges))
    return tuple(cell)


class RobNet(CellNetwork):
    """Stem, cells from codes, global average pooling and a linear classifier.

    The batch normalisations in the cells learn no scale and no shift, as in the released code.
    Weights are drawn as PyTorch draws them, like there.

    Parameters
    ----------
    codes
        One for all cells, or one for each.
    cells
        Number of cells L.
    num_classes, in_channels, channels
        As for `CellNetwork`.

    Raises
    ------
    UserError
        When there are not as many codes as cells, a code is none, or the layout is impossible.
    """

    def __init__(
        self,
        codes: Sequence[str],
        *,
        num_classes: int,
        in_channels: int,
        channels: int,
        cells: int,
    ) -> None:
        if len(codes) not in (1, cells):
            raise UserError(
                f"cells is {cells}, but there are {len(codes)} codes: give one code for each cell, "
                "or one for all."
            )
        every = list(codes) * (cells if len(codes) == 1 else 1)
        super().__init__(
            [cell_from_code(code) for code in every],
            plan_cells(cells, channels, DARTS_SPACE),
            num_classes=num_classes,
            in_channels=in_channels,
            channels=channels,
            affine=False,
        )
