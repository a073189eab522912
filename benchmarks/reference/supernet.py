"""The supernet edge by edge, as the DARTS family writes it, and its match with the batched one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pkgutil import resolve_name
from typing import NamedTuple

import torch
from torch import Tensor, nn

from arnas.search.supernet import StateEdges, Supernet
from benchmarks.reference.layers import (
    PRIMITIVE_NAMES,
    PlainFactorizedReduce,
    primitive,
    relu_conv,
)


class MixedOp(nn.Module):
    """All operations on one edge; pools are normalised here only.

    A name with a colon is a reference to a function of channels and stride.
    """

    def __init__(self, channels: int, stride: int, names: Sequence[str]) -> None:
        super().__init__()
        self.operations = nn.ModuleDict()
        for name in names:
            operation = (
                resolve_name(name)(channels, stride)
                if ":" in name
                else primitive(name, channels, stride, affine=False)
            )
            if "pool" in name:
                operation = nn.Sequential(operation, nn.BatchNorm2d(channels, affine=False))
            self.operations[name] = operation

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        """Return the weighted sum of the operations."""
        pairs = zip(weights, self.operations.values(), strict=True)
        return sum(weight * operation(x) for weight, operation in pairs)


class PlainCell(nn.Module):
    """Two inputs, four nodes; row r of the table belongs to the r-th edge of the double loop."""

    def __init__(
        self,
        kind: str,
        channels: int,
        older: int,
        newer: int,
        shrunk: bool,
        names: Sequence[str],
    ) -> None:
        super().__init__()
        self.kind = kind
        self.before0 = (
            PlainFactorizedReduce(older, channels, affine=False)
            if shrunk
            else relu_conv(older, channels, affine=False)
        )
        self.before1 = relu_conv(newer, channels, affine=False)
        self.edges = nn.ModuleList()
        self.ends: list[tuple[int, int]] = []
        for target in range(2, 6):
            for source in range(target):
                stride = 2 if kind == "reduction" and source < 2 else 1
                self.edges.append(MixedOp(channels, stride, names))
                self.ends.append((source, target))

    def forward(self, older: Tensor, newer: Tensor, weights: Tensor) -> Tensor:
        """Map the outputs of the two cells before to the four nodes side by side."""
        states = [self.before0(older), self.before1(newer)]
        for target in range(2, 6):
            terms = [
                edge(states[source], row)
                for edge, row, (source, end) in zip(self.edges, weights, self.ends, strict=True)
                if end == target
            ]
            states.append(sum(terms[1:], terms[0]))
        return torch.cat(states[2:], dim=1)


class PlainSupernet(nn.Module):
    """Stem, cells, mean over the map, linear classifier."""

    def __init__(
        self,
        kinds: Sequence[str],
        widths: Sequence[int],
        cells: int,
        channels: int,
        in_channels: int,
        num_classes: int,
        names: Sequence[str] = PRIMITIVE_NAMES,
    ) -> None:
        super().__init__()
        older = newer = 3 * channels
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, newer, 3, padding=1, bias=False), nn.BatchNorm2d(newer)
        )
        self.cells = nn.ModuleList()
        stage, shrunk = 0, False
        for index in range(cells):
            reduces = index in (cells // 3, 2 * cells // 3)
            stage += reduces
            kind, width = "reduction" if reduces else kinds[stage], channels * widths[stage]
            self.cells.append(PlainCell(kind, width, older, newer, shrunk, names))
            older, newer, shrunk = newer, 4 * width, reduces
        self.classifier = nn.Linear(newer, num_classes)
        tables = {kind: torch.zeros(14, len(names)) for kind in {*kinds, "reduction"}}
        self.alphas = nn.ParameterDict({k: nn.Parameter(table) for k, table in tables.items()})

    def forward(self, x: Tensor) -> Tensor:
        """Map images to logits."""
        older = newer = self.stem(x)
        for cell in self.cells:
            weights = torch.softmax(self.alphas[cell.kind], dim=-1)
            older, newer = newer, cell(older, newer, weights)
        return self.classifier(newer.flatten(2).mean(-1))


class Match(NamedTuple):
    """A layer of the oracle and the rows of the supernet's layer that are the same thing."""

    plain: nn.Module
    batched: nn.Module
    rows: slice


def matches(supernet: Supernet, oracle: PlainSupernet) -> Iterator[Match]:
    """Yield every layer of the oracle that has parameters or buffers."""
    whole = slice(None)
    for plain, batched in zip(oracle.stem, supernet.stem, strict=True):
        yield Match(plain, batched, whole)
    yield Match(oracle.classifier, supernet.classifier, whole)
    for plain_cell, cell in zip(oracle.cells, supernet.cells, strict=True):
        for name in ("before0", "before1"):
            pair = zip(leaves(getattr(plain_cell, name)), leaves(getattr(cell, name)), strict=True)
            for plain, batched in pair:
                yield Match(plain, batched, whole)
        for edge, (source, target) in zip(plain_cell.edges, plain_cell.ends, strict=True):
            # The edges of a source are ordered by target; the first target is node 2 or the next.
            place = target - max(source + 1, 2)
            yield from _edge_matches(edge, cell.sources[source], place)


def leaves(module: nn.Module) -> list[nn.Module]:
    """Return the innermost modules that hold tensors, in order."""
    kinds = (nn.Conv2d, nn.BatchNorm2d, nn.Linear)
    return [m for m in module.modules() if isinstance(m, kinds)]


def _edge_matches(edge: MixedOp, source: StateEdges, place: int) -> Iterator[Match]:
    """Yield the layers of one edge, the `place`-th of its source."""
    channels, edges = source.channels, source.edges

    def rows(block: int, width: int = channels) -> slice:
        start = (block * edges + place) * width
        return slice(start, start + width)

    for name, operation in edge.operations.items():
        plain = leaves(operation)
        if ":" in name:
            own = leaves(source.own_operations[source.own.index(name)][place])
            yield from (Match(*pair, slice(None)) for pair in zip(plain, own, strict=True))
        elif "pool" in name:
            norm = source.max_norm if "max" in name else source.average_norm
            yield Match(plain[0], norm, slice(None))
        elif name == "skip_connect" and plain:
            layers = (source.skip_even, source.skip_odd, source.skip_norm)
            widths = (channels // 2, channels - channels // 2, channels)
            for layer, batched, width in zip(plain, layers, widths, strict=True):
                yield Match(layer, batched, rows(0, width))
        elif name.startswith("sep"):
            block, depthwise = source.separable.index(name), getattr(source, f"separable{name[-1]}")
            for half in range(2):
                first, second, norm = plain[3 * half : 3 * half + 3]
                yield Match(first, depthwise[half], rows(0))
                yield Match(second, source.separable_pointwise[half], rows(block))
                yield Match(norm, source.separable_norm[half], rows(block))
        elif name.startswith("dil"):
            block = source.dilated.index(name)
            yield Match(plain[0], getattr(source, f"dilated{name[-1]}"), rows(0))
            yield Match(plain[1], source.dilated_pointwise, rows(block))
            yield Match(plain[2], source.dilated_norm, rows(block))


def copy_into(supernet: Supernet, oracle: PlainSupernet) -> None:
    """Give the oracle the supernet's weights, running statistics and architecture parameters."""
    with torch.no_grad():
        for match in matches(supernet, oracle):
            batched = dict(match.batched.named_parameters()) | dict(match.batched.named_buffers())
            own = dict(match.plain.named_parameters()) | dict(match.plain.named_buffers())
            for name, tensor in own.items():
                source = batched[name]
                tensor.copy_(source[match.rows] if source.ndim else source)
        for name, alpha in oracle.alphas.items():
            alpha.copy_(supernet.alphas[name])
