"""The network that a genotype and a macro layout define."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from arnas.runtime.errors import UserError
from arnas.spaces.auxiliary import AuxiliaryHead
from arnas.spaces.genotype import INPUTS, NODES, Cell, Genotype
from arnas.spaces.layout import CellPlan, plan_cells
from arnas.spaces.options import SpaceOptions
from arnas.spaces.primitives import FactorizedReduce, build_operation, relu_conv_norm

STEM_MULTIPLIER = 3
"""The stem puts out three times the initial channels."""


class Normalise(nn.Module):
    """Subtract the mean and divide by the standard deviation of each channel.

    Both are buffers, so a model takes plain pixels and carries its own constants.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x of shape (N, C, H, W) with pixels in [0, 1]."""
        return (x - self.mean) / self.std


def preprocessing(plan: CellPlan, older: int, newer: int, affine: bool) -> tuple[nn.Module, ...]:
    """Return what brings the outputs of the two cells before, of so many channels, to a cell's."""
    first = (
        FactorizedReduce(older, plan.channels, affine)
        if plan.after_reduction
        else relu_conv_norm(older, plan.channels, affine)
    )
    return first, relu_conv_norm(newer, plan.channels, affine)


class DerivedCell(nn.Module):
    """One cell with the operations that a genotype keeps.

    `affine` says whether its batch normalisations learn a scale and a shift.
    """

    def __init__(
        self, cell: Cell, plan: CellPlan, older: int, newer: int, affine: bool = True
    ) -> None:
        super().__init__()
        self.before0, self.before1 = preprocessing(plan, older, newer, affine)
        self.states = [[edge.state for edge in edges] for edges in cell]
        self.nodes = nn.ModuleList(
            nn.ModuleList(
                build_operation(
                    edge.primitive,
                    plan.channels,
                    2 if plan.reduction and edge.state < INPUTS else 1,
                    affine,
                )
                for edge in edges
            )
            for edges in cell
        )

    def forward(self, older: Tensor, newer: Tensor) -> Tensor:
        """Map the outputs of the two cells before to (N, 4 * channels, H, W)."""
        states = [self.before0(older), self.before1(newer)]
        for operations, inputs in zip(self.nodes, self.states, strict=True):
            terms = [
                operation(states[state])
                for operation, state in zip(operations, inputs, strict=True)  # type: ignore[call-overload]
            ]
            states.append(torch.stack(terms).sum(0) if len(terms) > 2 else sum(terms[1:], terms[0]))
        return torch.cat(states[INPUTS:], dim=1)


class CellNetwork(nn.Module):
    """Stem, cells, global average pooling and a linear classifier.

    Parameters
    ----------
    cells, plans
        The cells from first to last, and where each stands.
    num_classes
        Classes.
    in_channels
        Channels of the images.
    channels
        Initial channels C.
    affine
        Whether the batch normalisations in the cells learn a scale and a shift.
    mean, std
        Normalisation of each image channel; by default none (0 and 1).
    auxiliary
        Side of the images in pixels for a network with an auxiliary head, which reads the cell
        that halves the resolution a second time; None for one without.
    """

    auxiliary: AuxiliaryHead | None

    def __init__(
        self,
        cells: Sequence[Cell],
        plans: tuple[CellPlan, ...],
        *,
        num_classes: int,
        in_channels: int,
        channels: int,
        affine: bool = True,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        auxiliary: int | None = None,
    ) -> None:
        super().__init__()
        self.plans = plans
        self.normalise = Normalise(mean or [0.0] * in_channels, std or [1.0] * in_channels)
        width = STEM_MULTIPLIER * channels
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        )
        self.cells = nn.ModuleList()
        older = newer = width
        for cell, plan in zip(cells, plans, strict=True):
            self.cells.append(DerivedCell(cell, plan, older, newer, affine))
            older, newer = newer, NODES * plan.channels
        self.classifier = nn.Linear(newer, num_classes)
        self._read = max(index for index, plan in enumerate(plans) if plan.reduction)
        # Last, so that every other weight is drawn as without it.
        self.auxiliary = None
        if auxiliary is not None:
            read = NODES * plans[self._read].channels
            self.auxiliary = AuxiliaryHead(read, num_classes, auxiliary)

    def forward(self, x: Tensor) -> Tensor:
        """Map pixels in [0, 1], float of shape (N, in_channels, H, W), to logits (N, classes)."""
        return self._logits(x)[0]

    def with_auxiliary(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits of `forward` and those of the auxiliary head, each (N, classes).

        Raises
        ------
        UserError
            When the network was built without an auxiliary head.
        """
        if self.auxiliary is None:
            raise UserError(
                "the network has no auxiliary head: build it with auxiliary=True, or call it "
                "without one."
            )
        logits, read = self._logits(x)
        return logits, self.auxiliary(read)

    def _logits(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits, and the map that the auxiliary head reads."""
        # Channels innermost in memory halves the time of a pass on a CPU; every layer keeps it.
        stem = self.stem(self.normalise(x)).contiguous(memory_format=torch.channels_last)
        older = newer = read = stem
        for index, cell in enumerate(self.cells):
            older, newer = newer, cell(older, newer)
            if index == self._read:
                read = newer
        return self.classifier(newer.mean((2, 3))), read


class DerivedNetwork(CellNetwork):
    """The network of a genotype: each cell is that of its kind.

    Parameters
    ----------
    genotype
        The cells; must hold every kind that the space names.
    space
        Kinds and widths of the stages.
    cells
        Number of cells L.
    num_classes, in_channels, channels, mean, std, auxiliary
        As for `CellNetwork`.

    Raises
    ------
    UserError
        When the genotype lacks a kind of the space, or the layout is impossible.
    """

    def __init__(
        self,
        genotype: Genotype,
        space: SpaceOptions,
        *,
        num_classes: int,
        in_channels: int,
        channels: int,
        cells: int,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        auxiliary: int | None = None,
    ) -> None:
        plans = plan_cells(cells, channels, space)
        if missing := sorted({plan.kind for plan in plans} - set(genotype.cells)):
            raise UserError(
                f"the genotype from {genotype.origin} has the cells {sorted(genotype.cells)}, but "
                f"the space's kinds need {', '.join(missing)}; change space.kinds."
            )
        super().__init__(
            [genotype.cells[plan.kind] for plan in plans],
            plans,
            num_classes=num_classes,
            in_channels=in_channels,
            channels=channels,
            mean=mean,
            std=std,
            auxiliary=auxiliary,
        )
        self.genotype = genotype
