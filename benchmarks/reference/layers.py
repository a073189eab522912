"""The search space's layers and derived network as the DARTS family writes them.

Dilated convolutions are torch's own, every layer stands alone, nothing is grouped or shared, and
memory is laid out as torch does by default. No code is shared with the package: tests take these
for oracles, benchmarks for peers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

PRIMITIVE_NAMES = (
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
)


class PlainFactorizedReduce(nn.Module):
    """ReLU, pixels (0, 0), (2, 2), ... and pixels (1, 1), (3, 3), ... side by side, norm.

    The pixels are sliced out rather than strided over: PyTorch 2.15's strided 1x1 convolution of
    few channels corrupts memory on CPUs without AVX-512.
    """

    def __init__(self, in_channels: int, channels: int, affine: bool) -> None:
        super().__init__()
        self.even = nn.Conv2d(in_channels, channels // 2, 1, bias=False)
        self.odd = nn.Conv2d(in_channels, channels - channels // 2, 1, bias=False)
        self.norm = nn.BatchNorm2d(channels, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        """Halve the resolution of x."""
        x = F.relu(x)
        padded = F.pad(x, (0, 1, 0, 1))
        halves = [self.even(x[:, :, ::2, ::2]), self.odd(padded[:, :, 1::2, 1::2])]
        return self.norm(torch.cat(halves, dim=1))


def relu_conv(in_channels: int, channels: int, affine: bool) -> nn.Sequential:
    """Return what brings a cell's input to its width."""
    return nn.Sequential(
        nn.ReLU(),
        nn.Conv2d(in_channels, channels, 1, bias=False),
        nn.BatchNorm2d(channels, affine=affine),
    )


def depthwise_half(
    channels: int, kernel: int, stride: int, dilation: int, affine: bool
) -> list[nn.Module]:
    """Return ReLU, depthwise and pointwise convolution, norm."""
    padding = dilation * (kernel - 1) // 2
    return [
        nn.ReLU(),
        nn.Conv2d(
            channels,
            channels,
            kernel,
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=channels,
            bias=False,
        ),
        nn.Conv2d(channels, channels, 1, bias=False),
        nn.BatchNorm2d(channels, affine=affine),
    ]


def separable(channels: int, kernel: int, stride: int, affine: bool) -> nn.Sequential:
    """Return a separable convolution, which does the same twice."""
    first = depthwise_half(channels, kernel, stride, 1, affine)
    return nn.Sequential(*first, *depthwise_half(channels, kernel, 1, 1, affine))


def dilated(channels: int, kernel: int, stride: int, affine: bool) -> nn.Sequential:
    """Return a dilated separable convolution."""
    return nn.Sequential(*depthwise_half(channels, kernel, stride, 2, affine))


def primitive(name: str, channels: int, stride: int, affine: bool = True) -> nn.Module:
    """Return the operation `name` as a network holds it: no normalisation after a pool."""
    if name == "max_pool_3x3":
        return nn.MaxPool2d(3, stride, padding=1)
    if name == "avg_pool_3x3":
        return nn.AvgPool2d(3, stride, padding=1, count_include_pad=False)
    if name == "skip_connect":
        if stride == 1:
            return nn.Identity()
        return PlainFactorizedReduce(channels, channels, affine)
    kernel = int(name[-1])
    make = separable if name.startswith("sep") else dilated
    return make(channels, kernel, stride, affine)


Cell = Sequence[Sequence[tuple[str, int]]]
"""For each node the operations that enter it, each with the state that it reads."""


class PlainNetwork(nn.Module):
    """Stem, then per cell its two preprocessings and its operations, mean, linear classifier.

    Its tensors are in the order in which the package's networks have theirs.
    """

    def __init__(
        self,
        cells: Sequence[Cell],
        widths: Sequence[int],
        *,
        in_channels: int,
        channels: int,
        num_classes: int,
        affine: bool = True,
    ) -> None:
        super().__init__()
        self.plan = cells
        older = newer = 3 * channels
        stem = [nn.Conv2d(in_channels, newer, 3, padding=1, bias=False), nn.BatchNorm2d(newer)]
        layers: list[nn.Module] = [nn.Sequential(*stem)]
        stage, shrunk = 0, False
        for index, cell in enumerate(cells):
            reduces = index in (len(cells) // 3, 2 * len(cells) // 3)
            stage += reduces
            width = channels * widths[stage]
            make = PlainFactorizedReduce if shrunk else relu_conv
            layers += [make(older, width, affine), relu_conv(newer, width, affine)]
            for node in cell:
                for name, state in node:
                    stride = 2 if reduces and state < 2 else 1
                    layers.append(primitive(name, width, stride, affine))
            older, newer, shrunk = newer, 4 * width, reduces
        self.layers = nn.ModuleList([*layers, nn.Linear(newer, num_classes)])

    def forward(self, x: Tensor) -> Tensor:
        """Map images to logits."""
        layers = iter(self.layers)
        older = newer = next(layers)(x)
        for cell in self.plan:
            states = [next(layers)(older), next(layers)(newer)]
            for node in cell:
                first, *others = [next(layers)(states[state]) for _, state in node]
                states.append(sum(others, first))
            older, newer = newer, torch.cat(states[2:], dim=1)
        return next(layers)(newer.mean((2, 3)))

    def load_from(self, network: nn.Module) -> None:
        """Take the weights and statistics of a network of the package."""
        state = network.state_dict()
        values = [value for name, value in state.items() if not name.startswith("normalise.")]
        self.load_state_dict(dict(zip(self.state_dict(), values, strict=True)))
