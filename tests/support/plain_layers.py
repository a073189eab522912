"""The layers of the search space in plain torch: an oracle that shares no code with the package.

Dilated convolutions are torch's own, every layer stands alone, nothing is grouped or shared.
"""

from __future__ import annotations

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
