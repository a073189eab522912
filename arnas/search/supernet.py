"""The supernet: every operation on every edge, evaluated state by state.

An edge's value is the sum of its operations, weighted by the softmax of its row in the
architecture table (DARTS, arXiv 1806.09055, equation 2). All edges that leave a state see the same
input, so they share its ReLU, its two pools and their normalisation, and their convolutions run
together as grouped ones. The weight of an operation is the scale of its last batch normalisation.
Batch normalisation has no affine parameters of its own in the cells, as in DARTS.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from arnas.runtime.references import is_reference
from arnas.runtime.seeds import make_generator
from arnas.spaces.genotype import EDGES, INPUTS, NODES, edge_index
from arnas.spaces.layout import CellPlan, plan_cells
from arnas.spaces.network import STEM_MULTIPLIER, preprocessing
from arnas.spaces.options import SearchSpaceOptions
from arnas.spaces.primitives import (
    HalvingConv,
    build_operation,
    grouped,
    merge_phases,
    shift_by_one,
    split_phases,
)
from arnas.spaces.registry import OPERATIONS, PRIMITIVES

POOL_NORMS = {"max_pool_3x3": "max_norm", "avg_pool_3x3": "average_norm"}
"""Layers that normalise the pools."""
SOURCES = INPUTS + NODES - 1
"""States that edges leave from; the last node feeds the output only."""


def _kernel(primitive: str) -> int:
    """Return the size of a convolution's kernel."""
    return OPERATIONS[primitive].kernel


class ScaledNorm(nn.BatchNorm2d):
    """Batch normalisation whose scale is handed in; a scale of None is 1."""

    zeros: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__(channels, affine=False)
        self.register_buffer("zeros", torch.zeros(channels), persistent=False)

    def forward(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
        """Normalise x of shape (N, C, H, W) and multiply it by `scale` of shape (C,)."""
        update = self.training and self.track_running_stats
        running = update or not self.training
        if update and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        return F.batch_norm(
            x,
            self.running_mean if running else None,
            self.running_var if running else None,
            scale,
            None if scale is None else self.zeros,
            self.training,
            0.1,
            self.eps,
        )


class StateEdges(nn.Module):
    """All edges that leave one state of a cell.

    Channels are ordered by kernel (3x3 before 5x5), then edge, then channel. Operations of the
    user's own are evaluated one by one.
    """

    def __init__(
        self, channels: int, edges: int, stride: int, primitives: Sequence[str] = PRIMITIVES
    ) -> None:
        super().__init__()
        self.channels, self.edges, self.stride = channels, edges, stride
        self.column = {primitive: column for column, primitive in enumerate(primitives)}
        self.own = [primitive for primitive in primitives if is_reference(primitive)]
        self.pools, self.skips, self.separable, self.dilated = (
            [p for p in primitives if p not in self.own and OPERATIONS[p].family == family]
            for family in ("pool", "skip", "separable", "dilated")
        )
        for pool in self.pools:
            self.add_module(POOL_NORMS[pool], ScaledNorm(channels))
        self._add_separable(edges * channels)
        self._add_dilated(edges * channels)
        if stride == 2 and self.skips:
            half = channels // 2
            self.skip_even = HalvingConv(channels, edges * half)
            self.skip_odd = HalvingConv(channels, edges * (channels - half))
            self.skip_norm = ScaledNorm(edges * channels)
        self.own_operations = nn.ModuleList(
            nn.ModuleList(build_operation(p, channels, stride, False) for _ in range(edges))
            for p in self.own
        )

    def _add_separable(self, wide: int) -> None:
        """Add the layers of the separable convolutions."""
        count = len(self.separable)
        if not count:
            return
        for kernel in map(_kernel, self.separable):
            halves = nn.ModuleList(grouped(wide, wide, kernel, s) for s in (self.stride, 1))
            self.add_module(f"separable{kernel}", halves)
        self.separable_pointwise = nn.ModuleList(
            grouped(count * wide, count * self.edges) for _ in range(2)
        )
        self.separable_norm = nn.ModuleList(ScaledNorm(count * wide) for _ in range(2))

    def _add_dilated(self, wide: int) -> None:
        """Add the layers of the dilated convolutions."""
        count = len(self.dilated)
        if not count:
            return
        for kernel in map(_kernel, self.dilated):
            # Plain kernels: they run on the parity phases of the map, see `dilated_depthwise`.
            self.add_module(f"dilated{kernel}", grouped(wide, wide, kernel))
        self.dilated_pointwise = grouped(count * wide, count * self.edges)
        self.dilated_norm = ScaledNorm(count * wide)

    def forward(self, state: Tensor, weights: Tensor) -> Tensor:
        """Return the values of the edges.

        Parameters
        ----------
        state
            Shape (N, C, H, W).
        weights
            Shape (edges, primitives): the softmax rows of the edges.

        Returns
        -------
        Tensor
            Shape (N, edges * C, H / stride, W / stride).
        """
        active = F.relu(state)
        terms = []
        if self.separable:
            terms.append(self._separable_sum(active, weights))
        if self.dilated:
            terms.append(self._dilated_sum(active, weights))
        if self.pools or self.skips:
            terms.append(self._pools_and_skips(state, active, weights))
        for primitive, operations in zip(
            self.own, getattr(self, "own_operations", ()), strict=True
        ):
            column = weights[:, self.column[primitive]]
            values = [w * run(state) for w, run in zip(column, operations, strict=True)]
            terms.append(torch.cat(values, dim=1))
        return sum(terms[1:], terms[0])

    def _scale(self, weights: Tensor, primitives: Sequence[str]) -> Tensor:
        """Return the weight of each output channel, kernel by kernel and edge by edge."""
        columns = torch.cat([weights[:, self.column[primitive]] for primitive in primitives])
        return columns.repeat_interleave(self.channels)

    def _separable_sum(self, active: Tensor, weights: Tensor) -> Tensor:
        """Return the weighted sum of the separable convolutions."""
        layers = [getattr(self, f"separable{_kernel(p)}") for p in self.separable]
        inputs = [torch.cat([active] * self.edges, dim=1)] * len(layers)
        for half, scale in enumerate((None, self._scale(weights, self.separable))):
            x = torch.cat(
                [layer[half](value) for layer, value in zip(layers, inputs, strict=True)], dim=1
            )
            x = self.separable_norm[half](self.separable_pointwise[half](x), scale)
            if scale is None:
                x = F.relu(x)
            inputs = list(x.chunk(len(layers), dim=1))
        return sum(inputs[1:], inputs[0])

    def _dilated_sum(self, active: Tensor, weights: Tensor) -> Tensor:
        """Return the weighted sum of the dilated convolutions."""
        height, width = active.shape[2:]
        in_phases = self.stride == 1 and height % 2 == 0 and width % 2 == 0
        x = split_phases(active) if self.stride == 1 else active[:, :, ::2, ::2]
        x = torch.cat([x] * self.edges, dim=1)
        x = torch.cat([getattr(self, f"dilated{_kernel(p)}")(x) for p in self.dilated], dim=1)
        if self.stride == 1 and not in_phases:
            # The zeros that fill up odd sizes must not enter the batch statistics.
            x = merge_phases(x, height, width)
        x = self.dilated_norm(self.dilated_pointwise(x), self._scale(weights, self.dilated))
        parts = x.chunk(len(self.dilated), dim=1)
        total = sum(parts[1:], parts[0])
        return merge_phases(total, height, width) if in_phases else total

    def _pools_and_skips(self, state: Tensor, active: Tensor, weights: Tensor) -> Tensor:
        """Return the weighted sum of the pools and the skip connection."""
        terms = {}
        for pool in self.pools:
            if pool == "max_pool_3x3":
                pooled = F.max_pool2d(state, 3, self.stride, 1)
            else:
                pooled = F.avg_pool2d(state, 3, self.stride, 1, count_include_pad=False)
            terms[pool] = getattr(self, POOL_NORMS[pool])(pooled)
        terms |= dict.fromkeys(self.skips if self.stride == 1 else (), state)
        reduced = self._strided_skip(active, weights) if self.stride == 2 and self.skips else None
        if not terms:
            assert reduced is not None
            return reduced
        columns = weights[:, [self.column[primitive] for primitive in terms]]
        stacked = torch.stack([term.permute(0, 2, 3, 1) for term in terms.values()], dim=3)
        mixed = (columns @ stacked).flatten(3).permute(0, 3, 1, 2)
        return mixed if reduced is None else mixed + reduced

    def _strided_skip(self, active: Tensor, weights: Tensor) -> Tensor:
        """Return the weighted factorised reduction of each edge."""
        shifted = shift_by_one(active)
        halves = (self.skip_even(active), self.skip_odd(shifted))
        by_edge = [half.unflatten(1, (self.edges, -1)) for half in halves]
        x = torch.cat(by_edge, dim=2).flatten(1, 2)
        skipped: Tensor = self.skip_norm(x, self._scale(weights, self.skips))
        return skipped


class SupernetCell(nn.Module):
    """A cell with all 14 edges."""

    def __init__(
        self, plan: CellPlan, older: int, newer: int, primitives: Sequence[str] = PRIMITIVES
    ) -> None:
        super().__init__()
        self.channels = plan.channels
        self.before0, self.before1 = preprocessing(plan, older, newer, affine=False)
        self.targets = [range(max(state - INPUTS + 1, 0), NODES) for state in range(SOURCES)]
        self.rows = [
            [edge_index(node, state) for node in self.targets[state]] for state in range(SOURCES)
        ]
        self.sources = nn.ModuleList(
            StateEdges(
                plan.channels,
                len(self.targets[state]),
                2 if plan.reduction and state < INPUTS else 1,
                primitives,
            )
            for state in range(SOURCES)
        )

    def forward(self, older: Tensor, newer: Tensor, weights: Tensor) -> Tensor:
        """Map the outputs of the two cells before to (N, 4 * channels, H, W).

        `weights` has shape (14, primitives): the softmax of the kind's architecture table.
        """
        nodes: list[Tensor | None] = [None] * NODES
        states = [self.before0(older), self.before1(newer)]
        for index, source in enumerate(self.sources):
            values = source(states[index], weights[self.rows[index]])
            for node, value in zip(
                self.targets[index], values.split(self.channels, dim=1), strict=True
            ):
                earlier = nodes[node]
                nodes[node] = value if earlier is None else earlier + value
            if index >= INPUTS - 1:
                finished = nodes[index - INPUTS + 1]
                assert finished is not None
                states.append(finished)
        return torch.cat(states[INPUTS:], dim=1)


class Supernet(nn.Module):
    """The over-parameterised network of the search.

    Parameters
    ----------
    space
        Kinds and widths of the stages, and the operations of the edges.
    num_classes, in_channels
        Of the data.
    channels, cells
        Initial channels and number of cells.
    alpha_scale
        Standard deviation of the initial architecture parameters.
    seed
        Seed of the initial architecture parameters.

    Notes
    -----
    Counted without the tables, 24 channels and 8 cells have 1,882,930 parameters.
    """

    def __init__(
        self,
        space: SearchSpaceOptions,
        *,
        num_classes: int,
        in_channels: int,
        channels: int,
        cells: int,
        alpha_scale: float = 1e-3,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.primitives = tuple(space.primitives)
        width = STEM_MULTIPLIER * channels
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        )
        self.cells = nn.ModuleList()
        self.kinds: list[str] = []
        older = newer = width
        for plan in plan_cells(cells, channels, space):
            self.kinds.append(plan.kind)
            self.cells.append(SupernetCell(plan, older, newer, space.primitives))
            older, newer = newer, NODES * plan.channels
        self.classifier = nn.Linear(newer, num_classes)
        generator = make_generator("alphas", seed)
        self.alphas = nn.ParameterDict(
            {
                kind: nn.Parameter(
                    alpha_scale * torch.randn(EDGES, len(space.primitives), generator=generator)
                )
                for kind in space.searched_kinds()
            }
        )

    def weights(self) -> list[nn.Parameter]:
        """Return the trainable parameters other than the architecture parameters."""
        return [p for name, p in self.named_parameters() if not name.startswith("alphas.")]

    def tables(self) -> dict[str, Tensor]:
        """Return a copy of the architecture parameters, (14, primitives), of each kind."""
        return {kind: alpha.detach().clone() for kind, alpha in self.alphas.items()}

    def forward(self, x: Tensor) -> Tensor:
        """Map pixels in [0, 1], float of shape (N, in_channels, H, W), to logits (N, classes)."""
        weights = {kind: alpha.softmax(dim=1) for kind, alpha in self.alphas.items()}
        # Channels innermost in memory; every layer keeps it.
        older = newer = self.stem(x).contiguous(memory_format=torch.channels_last)
        for kind, cell in zip(self.kinds, self.cells, strict=True):
            older, newer = newer, cell(older, newer, weights[kind])
        logits: Tensor = self.classifier(newer.mean((2, 3)))
        return logits
