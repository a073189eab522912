"""The small network that adversarial training on MNIST is compared with."""

from __future__ import annotations

from torch import Tensor, nn

from arnas.spaces.network import Normalise

WIDTHS = (1, 1, 2, 2)
"""Of the convolutions, in units of the first; a max-pool follows the second and the last."""
HIDDEN = 200
"""Width of the two hidden linear layers."""


class SmallCNN(nn.Module):
    """Four 3x3 convolutions without padding and three linear layers, as TRADES trains on MNIST.

    The released code of TRADES (arXiv 1901.08573), with PyTorch's way of drawing weights: 312,202
    parameters on images of 1x28x28.

    Parameters
    ----------
    num_classes, in_channels, image_size
        Of the data.
    channels
        Width of the first convolution, 32 as published.
    """

    def __init__(
        self, *, num_classes: int, in_channels: int, channels: int, image_size: int
    ) -> None:
        super().__init__()
        self.normalise = Normalise([0.0] * in_channels, [1.0] * in_channels)
        layers: list[nn.Module] = []
        width, side = in_channels, image_size
        for number, factor in enumerate(WIDTHS):
            layers += [nn.Conv2d(width, factor * channels, 3), nn.ReLU()]
            width, side = factor * channels, side - 2
            if number % 2:
                layers.append(nn.MaxPool2d(2))
                side //= 2
        self.features = nn.Sequential(*layers, nn.Flatten())
        self.classifier = nn.Sequential(
            nn.Linear(width * side**2, HIDDEN),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(HIDDEN, HIDDEN),
            nn.ReLU(),
            nn.Linear(HIDDEN, num_classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map pixels in [0, 1], float of shape (N, in_channels, H, W), to logits (N, classes)."""
        logits: Tensor = self.classifier(self.features(self.normalise(x)))
        return logits
