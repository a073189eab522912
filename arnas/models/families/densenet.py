"""DenseNet-121 in its CIFAR form: a bare 3x3 stem and no pooling before the blocks."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from arnas.spaces.network import Normalise

BLOCKS = (6, 12, 24, 16)
"""Layers of each dense block."""
BOTTLENECK = 4
"""Width of a layer's 1x1 convolution in units of the growth."""


class DenseLayer(nn.Module):
    """A bottleneck whose output is appended to its input (arXiv 1608.06993, DenseNet-B)."""

    def __init__(self, in_channels: int, growth: int) -> None:
        super().__init__()
        self.new = nn.Sequential(
            nn.BatchNorm2d(in_channels),
            nn.ReLU(),
            nn.Conv2d(in_channels, BOTTLENECK * growth, 1, bias=False),
            nn.BatchNorm2d(BOTTLENECK * growth),
            nn.ReLU(),
            nn.Conv2d(BOTTLENECK * growth, growth, 3, 1, 1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, in_channels + growth, H, W)."""
        return torch.cat([x, self.new(x)], 1)


class DenseNet121(nn.Module):
    """DenseNet-121 for small images, with PyTorch's way of drawing weights.

    The stem has 64 channels as published; each layer adds half as many, rounded down, and each
    transition halves the channels, rounded down.
    """

    def __init__(self, *, num_classes: int, in_channels: int, channels: int) -> None:
        super().__init__()
        growth = channels // 2
        self.normalise = Normalise([0.0] * in_channels, [1.0] * in_channels)
        layers: list[nn.Module] = [nn.Conv2d(in_channels, channels, 3, 1, 1, bias=False)]
        width = channels
        for number, count in enumerate(BLOCKS):
            if number:
                shrink = nn.Conv2d(width, width // 2, 1, bias=False)
                layers.append(
                    nn.Sequential(nn.BatchNorm2d(width), nn.ReLU(), shrink, nn.AvgPool2d(2))
                )
                width //= 2
            for _ in range(count):
                layers.append(DenseLayer(width, growth))
                width += growth
        self.layers = nn.Sequential(*layers)
        self.norm = nn.BatchNorm2d(width)
        self.classifier = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map pixels in [0, 1], float of shape (N, in_channels, H, W), to logits (N, classes)."""
        # Channels innermost in memory, as in `arnas.spaces.network`.
        x = self.normalise(x).contiguous(memory_format=torch.channels_last)
        x = F.relu(self.norm(self.layers(x)))
        logits: Tensor = self.classifier(x.mean((2, 3)))
        return logits
