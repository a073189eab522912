"""MobileNet-V2 in its CIFAR form: strides of 1 in the stem and the second stage."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from arnas.spaces.network import Normalise

STEM = 32
"""Channels of the stem as published; the widths below are for this one."""
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
"""Expansion, output channels, blocks and stride of each stage (arXiv 1801.04381, table 2)."""
LAST = 1280
"""Channels before the pooling."""


def _conv_norm(
    in_channels: int, channels: int, kernel: int = 1, stride: int = 1, groups: int = 1
) -> list[nn.Module]:
    """Return a convolution and its batch normalisation."""
    pad = kernel // 2
    return [
        nn.Conv2d(in_channels, channels, kernel, stride, pad, groups=groups, bias=False),
        nn.BatchNorm2d(channels),
    ]


class InvertedResidual(nn.Module):
    """1x1 expansion, 3x3 depthwise, 1x1 projection, and a shortcut where the stride is 1.

    As in the CIFAR form, the expansion by 1 is a convolution too, ReLU stands for ReLU6, and a
    change of width at stride 1 has a convolution with batch normalisation for its shortcut; the
    paper (arXiv 1801.04381) has none of these.
    """

    def __init__(self, in_channels: int, channels: int, expansion: int, stride: int) -> None:
        super().__init__()
        inner = expansion * in_channels
        self.residual = nn.Sequential(
            *_conv_norm(in_channels, inner),
            nn.ReLU(),
            *_conv_norm(inner, inner, 3, stride, groups=inner),
            nn.ReLU(),
            *_conv_norm(inner, channels),
        )
        self.shortcut: nn.Module | None = None
        if stride == 1:
            changes = in_channels != channels
            self.shortcut = nn.Sequential(*(_conv_norm(in_channels, channels) if changes else []))

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, channels, H / stride, W / stride)."""
        out: Tensor = self.residual(x)
        return out if self.shortcut is None else out + self.shortcut(x)


class MobileNetV2(nn.Module):
    """MobileNet-V2 for small images, with PyTorch's way of drawing weights.

    The stem has 32 channels as published; all others shrink and grow with them, rounded down.
    """

    def __init__(self, *, num_classes: int, in_channels: int, channels: int) -> None:
        super().__init__()

        def scaled(width: int) -> int:
            return max(1, width * channels // STEM)

        self.normalise = Normalise([0.0] * in_channels, [1.0] * in_channels)
        layers = [*_conv_norm(in_channels, channels, 3), nn.ReLU()]
        width = channels
        for expansion, out, count, stride in STAGES:
            for number in range(count):
                layers.append(
                    InvertedResidual(width, scaled(out), expansion, stride if number == 0 else 1)
                )
                width = scaled(out)
        self.features = nn.Sequential(*layers, *_conv_norm(width, scaled(LAST)), nn.ReLU())
        self.classifier = nn.Linear(scaled(LAST), num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map pixels in [0, 1], float of shape (N, in_channels, H, W), to logits (N, classes)."""
        # Channels innermost in memory, as in `arnas.spaces.network`.
        x = self.normalise(x).contiguous(memory_format=torch.channels_last)
        logits: Tensor = self.classifier(self.features(x).mean((2, 3)))
        return logits
