"""A genotype: for each kind of cell, which two operations enter each of its four nodes.

States 0 and 1 are the cell's inputs (the older output first), states 2 to 5 its nodes; the cell's
output is the concatenation of the nodes (DARTS, arXiv 1806.09055, section 2.1).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from arnas.runtime.errors import UserError, one_line
from arnas.runtime.files import read_json, write_json
from arnas.runtime.references import is_reference
from arnas.spaces.registry import OPERATIONS

NODES = 4
"""Intermediate nodes of a cell."""
INPUTS = 2
"""Input states of a cell."""
EDGES = sum(INPUTS + node for node in range(NODES))
"""Edges of a cell in the search: every earlier state to every node, 14."""

KINDS = ("accurate", "robust", "normal", "reduction")
"""Names of cell kinds; `normal` is the one kind of spaces that do not tell the first two apart."""


class Edge(NamedTuple):
    """One operation from an earlier state into a node."""

    primitive: str
    state: int


Cell = tuple[tuple[Edge, ...], ...]
"""For each of the four nodes, the edges that enter it."""


def edge_index(node: int, state: int) -> int:
    """Return the row of the architecture table for the edge from `state` to `node` (0 to 3)."""
    return sum(INPUTS + earlier for earlier in range(node)) + state


@dataclass(frozen=True)
class Genotype:
    """The cells of an architecture.

    Raises
    ------
    UserError
        When a kind, a primitive or an input is not one of the space.
    """

    cells: Mapping[str, Cell]
    """Kind of cell (one of `KINDS`) to its edges; `reduction` is always among them."""
    origin: str
    """Citation, or the run that found it."""

    def __post_init__(self) -> None:
        unknown = sorted(set(self.cells) - set(KINDS))
        if unknown or "reduction" not in self.cells:
            raise UserError(
                f"genotype from {self.origin}: kinds are {sorted(self.cells)}, allowed are "
                f"{', '.join(KINDS)}, and reduction is needed."
            )
        for kind, cell in self.cells.items():
            if len(cell) != NODES:
                raise UserError(
                    f"genotype from {self.origin}: the {kind} cell has {len(cell)} nodes, "
                    f"allowed are {NODES}."
                )
            for node, edges in enumerate(cell):
                where = f"genotype from {self.origin}: {kind} node {node + 2}"
                if not edges:
                    raise UserError(f"{where} has no edges, needed are one or more.")
                for edge in edges:
                    _check_edge(edge, node, where)

    def to_json(self) -> dict[str, Any]:
        """Return JSON values that `genotype_from_json` reads."""
        cells = {
            kind: [[[edge.primitive, edge.state] for edge in edges] for edges in cell]
            for kind, cell in self.cells.items()
        }
        return {"cells": cells, "origin": self.origin}


def _check_edge(edge: Edge, node: int, where: str) -> None:
    """Raise unless the edge may enter the node."""
    if edge.primitive not in OPERATIONS and not is_reference(edge.primitive):
        raise UserError(
            f"{where} has the operation '{edge.primitive}', allowed are {', '.join(OPERATIONS)}."
        )
    if not 0 <= edge.state < INPUTS + node:
        raise UserError(f"{where} takes state {edge.state}, allowed are 0 to {INPUTS + node - 1}.")


def genotype_from_json(value: Any, source: str) -> Genotype:
    """Build a genotype from what `Genotype.to_json` returned; `source` names it in errors."""
    try:
        if unknown := sorted(value.keys() - {"cells", "origin"}):
            raise ValueError(f"it has '{unknown[0]}'")
        cells = {
            str(kind): tuple(
                tuple(Edge(str(primitive), _whole(state)) for primitive, state in edges)
                for edges in cell
            )
            for kind, cell in value["cells"].items()
        }
        origin = str(value.get("origin", source))
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise UserError(
            f"{source} is not a genotype ({type(error).__name__}: {one_line(error)}): needed is "
            '{"cells": {kind: four lists of [operation, state]}, "origin": text}; correct it, or '
            "rerun `python -m arnas derive`."
        ) from None
    try:
        return Genotype(cells, origin)
    except UserError as error:
        raise UserError(
            f"{source}: {one_line(error).rstrip('.')}; correct it, or rerun `python -m arnas "
            "derive`."
        ) from None


def _whole(value: Any) -> int:
    """Return a whole number as it is; rounding 1.9 would build another architecture."""
    if type(value) is not int:
        raise TypeError(f"a state is {value!r}, needed is a whole number")
    return value


def load_genotype(path: Path) -> Genotype:
    """Read a genotype file, written by a search or by hand.

    Raises
    ------
    UserError
        When the file is missing or damaged, or holds no genotype.
    """
    return genotype_from_json(read_json(path), str(path))


def save_genotype(path: Path, genotype: Genotype) -> None:
    """Write a genotype file, atomically."""
    write_json(path, genotype.to_json())
