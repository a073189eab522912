"""VGG-16 with batch normalisation in its CIFAR form: one linear layer in place of three."""

from __future__ import annotations

from torch import Tensor, nn

from arnas.spaces.network import Normalise

STAGES = ((1, 2), (2, 2), (4, 3), (8, 3), (8, 3))
"""Width in units of the first stage, and convolutions, of each stage; a max-pool ends each."""


class VGG16(nn.Module):
    """VGG-16-BN for small images, with PyTorch's way of drawing weights.

    Its five poolings need images of 32x32 and more. What they leave, one pixel there, is averaged.
    The first stage has 64 channels as published (arXiv 1409.1556, configuration D).
    """

    def __init__(self, *, num_classes: int, in_channels: int, channels: int) -> None:
        super().__init__()
        self.normalise = Normalise([0.0] * in_channels, [1.0] * in_channels)
        layers: list[nn.Module] = []
        width = in_channels
        for factor, count in STAGES:
            for _ in range(count):
                layers += [
                    nn.Conv2d(width, factor * channels, 3, 1, 1),
                    nn.BatchNorm2d(factor * channels),
                    nn.ReLU(),
                ]
                width = factor * channels
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map pixels in [0, 1], float of shape (N, in_channels, H, W), to logits (N, classes)."""
        logits: Tensor = self.classifier(self.features(self.normalise(x)).mean((2, 3)))
        return logits
