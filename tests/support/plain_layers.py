"""The layers of the search space in plain torch: an oracle that shares no code with the package.

Dilated convolutions are torch's own, every layer stands alone, nothing is grouped or shared.
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
    """ReLU, pixels (0, 0), (2, 2), ... and pixels (1, 1), (3, 3), ... side by side, norm."""

    def __init__(self, in_channels: int, channels: int, affine: bool) -> None:
        super().__init__()
        self.even = nn.Conv2d(in_channels, channels // 2, 1, bias=False)
        self.odd = nn.Conv2d(in_channels, channels - channels // 2, 1, bias=False)
        self.norm = nn.BatchNorm2d(channels, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        x = x.clamp_min(0)
        padded = F.pad(x, (0, 1, 0, 1))
        halves = [self.even(x[:, :, ::2, ::2]), self.odd(padded[:, :, 1::2, 1::2])]
        return self.norm(torch.cat(halves, dim=1))


def relu_conv(in_channels: int, channels: int, affine: bool) -> nn.Sequential:
    return nn.Sequential(
        nn.ReLU(),
        nn.Conv2d(in_channels, channels, 1, bias=False),
        nn.BatchNorm2d(channels, affine=affine),
    )


def depthwise_half(
    channels: int, kernel: int, stride: int, dilation: int, affine: bool
) -> list[nn.Module]:
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
    first = depthwise_half(channels, kernel, stride, 1, affine)
    return nn.Sequential(*first, *depthwise_half(channels, kernel, 1, 1, affine))


def dilated(channels: int, kernel: int, stride: int, affine: bool) -> nn.Sequential:
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


def plain_network(
    cells: Sequence[Cell],
    widths: Sequence[int],
    in_channels: int,
    channels: int,
    affine: bool = True,
) -> nn.ModuleList:
    """Return stem, then per cell its two preprocessings and its operations, then classifier."""
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
                layers.append(primitive(name, width, 2 if reduces and state < 2 else 1, affine))
        older, newer, shrunk = newer, 4 * width, reduces
    return nn.ModuleList([*layers, nn.Linear(newer, 3)])


def plain_forward(network: nn.ModuleList, cells: Sequence[Cell], x: Tensor) -> Tensor:
    layers = iter(network)
    older = newer = next(layers)(x)
    for cell in cells:
        states = [next(layers)(older), next(layers)(newer)]
        for node in cell:
            states.append(torch.stack([next(layers)(states[state]) for _, state in node]).sum(0))
        older, newer = newer, torch.cat(states[2:], dim=1)
    return next(layers)(newer.mean((2, 3)))


def assert_same_network(
    network: nn.Module, plain: nn.ModuleList, cells: Sequence[Cell], x: Tensor
) -> None:
    """Compare a network of the package with the plain one, in training and in evaluation mode."""
    values = [v for k, v in network.state_dict().items() if not k.startswith("normalise.")]
    plain.load_state_dict(dict(zip(plain.state_dict(), values, strict=True)))
    for train in (True, False):
        network.train(train)
        plain.train(train)
        expected = plain_forward(plain, cells, x)
        torch.testing.assert_close(network(x), expected, rtol=1e-9, atol=1e-9)
