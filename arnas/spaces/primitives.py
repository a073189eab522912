"""The operations on an edge and the building blocks around them.

Definitions as in DARTS (arXiv 1806.09055, section 3.1): ReLU, convolution, batch normalisation in
that order; a separable convolution is two depthwise and pointwise pairs; a dilated one is a single
pair with dilation 2.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from arnas.runtime.errors import UserError
from arnas.runtime.references import first_line, is_reference, load_reference
from arnas.spaces.registry import OPERATIONS

DILATION = 2


def dilated_depthwise(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """Convolve each channel with its kernel at dilation 2, by plain convolutions only.

    A dilated depthwise convolution never mixes pixels of different parity, so the four parity
    phases of the map are convolved as four small images. The result is that of
    ``conv2d(x, weight, stride=stride, padding=k - 1, dilation=2, groups=C)``; PyTorch's own
    backward of it is several times slower on a CPU. With stride 2 only one phase is left.

    Parameters
    ----------
    x
        Shape (N, C, H, W).
    weight
        Shape (C, 1, k, k), k odd.
    stride
        1 or 2.

    Returns
    -------
    Tensor
        Shape (N, C, ceil(H / stride), ceil(W / stride)).
    """
    channels, pad = weight.shape[0], weight.shape[2] // 2
    if stride == DILATION:
        return F.conv2d(x[:, :, ::2, ::2], weight, padding=pad, groups=channels)
    out = F.conv2d(split_phases(x), weight, padding=pad, groups=channels)
    return merge_phases(out, *x.shape[2:])


def split_phases(x: Tensor) -> Tensor:
    """Return the four parity phases of each map as images of their own.

    Maps (N, C, H, W) to (4 N, C, ceil(H / 2), ceil(W / 2)). Odd sizes are filled up with zeros,
    which are a convolution's own padding.
    """
    n, channels, height, width = x.shape
    if height % 2 or width % 2:
        x = F.pad(x, (0, width % 2, 0, height % 2))
    rows, columns = x.shape[2] // 2, x.shape[3] // 2
    # Channels stay innermost in memory throughout: half the time of the other order on a CPU.
    phases = x.permute(0, 2, 3, 1).reshape(n, rows, 2, columns, 2, channels)
    phases = phases.permute(2, 4, 0, 1, 3, 5).reshape(4 * n, rows, columns, channels)
    return phases.permute(0, 3, 1, 2)


def merge_phases(phases: Tensor, height: int, width: int) -> Tensor:
    """Undo `split_phases`: map (4 N, C, h, w) to (N, C, height, width)."""
    n, channels, rows, columns = phases.shape[0] // 4, *phases.shape[1:]
    x = phases.permute(0, 2, 3, 1).reshape(2, 2, n, rows, columns, channels)
    x = x.permute(2, 3, 0, 4, 1, 5).reshape(n, 2 * rows, 2 * columns, channels)
    return x[:, :height, :width].permute(0, 3, 1, 2)


class DilatedDepthwise(nn.Conv2d):
    """Depthwise convolution at dilation 2, computed by `dilated_depthwise`."""

    def __init__(self, channels: int, kernel: int, stride: int) -> None:
        super().__init__(
            channels, channels, kernel, stride, kernel - 1, DILATION, channels, bias=False
        )

    def forward(self, x: Tensor) -> Tensor:
        """Convolve x of shape (N, C, H, W)."""
        return dilated_depthwise(x, self.weight, self.stride[0])


class HalvingConv(nn.Conv2d):
    """1x1 convolution of every second row and column, without bias.

    Few channels are subsampled first: oneDNN's AVX2 kernel (3.13, in PyTorch 2.15) writes the
    gradient of such weights beyond its end, which corrupts other tensors or ends the process.
    """

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__(in_channels, channels, 1, stride=2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, channels, ceil(H / 2), ceil(W / 2))."""
        if self.in_channels < 8 and x.device.type == "cpu":
            return F.conv2d(x[:, :, ::2, ::2], self.weight)
        return super().forward(x)


class FactorizedReduce(nn.Module):
    """Halve the resolution without losing pixels: two strided 1x1 convolutions, one shifted by one.

    Maps of odd size are padded by a row and column of zeros on the shifted side.
    """

    def __init__(self, in_channels: int, channels: int, affine: bool = True) -> None:
        super().__init__()
        self.even = HalvingConv(in_channels, channels // 2)
        self.odd = HalvingConv(in_channels, channels - channels // 2)
        self.norm = nn.BatchNorm2d(channels, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, channels, ceil(H / 2), ceil(W / 2))."""
        x = F.relu(x)
        out: Tensor = self.norm(torch.cat([self.even(x), self.odd(shift_by_one(x))], dim=1))
        return out


def shift_by_one(x: Tensor) -> Tensor:
    """Drop the first row and column; for odd sizes add zeros so that a stride of 2 fits again."""
    return F.pad(x[:, :, 1:, 1:], (0, x.shape[3] % 2, 0, x.shape[2] % 2))


def relu_conv_norm(in_channels: int, channels: int, affine: bool = True) -> nn.Sequential:
    """Return ReLU, 1x1 convolution and batch normalisation."""
    return nn.Sequential(
        nn.ReLU(),
        nn.Conv2d(in_channels, channels, 1, bias=False),
        nn.BatchNorm2d(channels, affine=affine),
    )


def grouped(channels: int, groups: int, kernel: int = 1, stride: int = 1) -> nn.Conv2d:
    """Return a bias-free convolution of `channels` in and out that keeps or halves the size."""
    return nn.Conv2d(channels, channels, kernel, stride, kernel // 2, groups=groups, bias=False)


def _depthwise_pointwise(channels: int, depthwise: nn.Conv2d, affine: bool) -> list[nn.Module]:
    """Return ReLU, the depthwise convolution, a pointwise one and batch normalisation."""
    return [nn.ReLU(), depthwise, grouped(channels, 1), nn.BatchNorm2d(channels, affine=affine)]


def separable(channels: int, stride: int, kernel: int, affine: bool) -> nn.Module:
    """Return a separable convolution; only its first half has the stride."""
    halves = [grouped(channels, channels, kernel, s) for s in (stride, 1)]
    return nn.Sequential(
        *(m for half in halves for m in _depthwise_pointwise(channels, half, affine))
    )


def dilated(channels: int, stride: int, kernel: int, affine: bool) -> nn.Module:
    """Return a dilated separable convolution."""
    depthwise = DilatedDepthwise(channels, kernel, stride)
    return nn.Sequential(*_depthwise_pointwise(channels, depthwise, affine))


def max_pool(channels: int, stride: int, kernel: int, affine: bool) -> nn.Module:
    """Return max-pooling."""
    return nn.MaxPool2d(kernel, stride, kernel // 2)


def average_pool(channels: int, stride: int, kernel: int, affine: bool) -> nn.Module:
    """Return average pooling that leaves the padding out of its means."""
    return nn.AvgPool2d(kernel, stride, kernel // 2, count_include_pad=False)


def skip(channels: int, stride: int, kernel: int, affine: bool) -> nn.Module:
    """Return the identity, or with a stride a factorised reduction."""
    return nn.Identity() if stride == 1 else FactorizedReduce(channels, channels, affine)


def build_operation(primitive: str, channels: int, stride: int, affine: bool = True) -> nn.Module:
    """Return an operation of the search space for maps of so many channels.

    Parameters
    ----------
    primitive
        A name of `arnas.spaces.registry.OPERATIONS`, or a reference to a user's own function.
    channels
        Of its input and its output.
    stride
        1, or 2 to halve the resolution.
    affine
        Whether its normalisations learn a scale and a shift; a user's function is not told.

    Raises
    ------
    UserError
        When a user's function fails or returns no module.
    """
    if not is_reference(primitive):
        entry = OPERATIONS[primitive]
        build = load_reference(entry.function)
        operation: nn.Module = build(channels, stride, entry.kernel, affine)
        return operation
    function = load_reference(primitive)
    try:
        own: nn.Module = function(channels, stride).eval()
        with torch.no_grad():
            shape = tuple(own(torch.zeros(2, channels, 8, 8)).shape)
    except Exception as error:
        raise UserError(
            f"{primitive}({channels}, {stride}) failed ({first_line(error)}): an operation is a "
            "function of channels and stride that returns a module; correct it."
        ) from error
    needed = (2, channels, 8 // stride, 8 // stride)
    if shape != needed:
        raise UserError(
            f"{primitive}({channels}, {stride}) maps {(2, channels, 8, 8)} to {shape}: needed is "
            f"{needed}; keep the channels, and the size but for the stride."
        )
    return own.train()
