"""Residual networks in their CIFAR form: a 3x3 stem and no pooling before the stages.

Weights are drawn as PyTorch draws them.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from arnas.spaces.network import Normalise

STAGES = ((1, 1), (2, 2), (4, 2), (8, 2))
"""Width in units of the first stage, and stride, of each stage."""


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (arXiv 1512.03385, figure 5 left)."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.shortcut = nn.Sequential()
        if stride != 1 or in_channels != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, channels, H / stride, W / stride)."""
        out = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(out + self.shortcut(x))


class ResNet(nn.Module):
    """A residual network of basic blocks for small images.

    `counts` are the blocks of its four stages: 2, 2, 2, 2 for ResNet-18, 3, 4, 6, 3 for ResNet-34.
    The first stage has 64 channels as published, the others 2, 4 and 8 times as many.
    """

    def __init__(
        self, counts: Sequence[int], *, num_classes: int, in_channels: int, channels: int
    ) -> None:
        super().__init__()
        self.normalise = Normalise([0.0] * in_channels, [1.0] * in_channels)
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, channels, 3, 1, 1, bias=False), nn.BatchNorm2d(channels)
        )
        blocks = []
        width = channels
        for (factor, stride), count in zip(STAGES, counts, strict=True):
            for number in range(count):
                blocks.append(BasicBlock(width, factor * channels, stride if number == 0 else 1))
                width = factor * channels
        self.blocks = nn.Sequential(*blocks)
        self.classifier = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map pixels in [0, 1], float of shape (N, in_channels, H, W), to logits (N, classes)."""
        x = self.blocks(F.relu(self.stem(self.normalise(x))))
        logits: Tensor = self.classifier(x.mean((2, 3)))
        return logits
