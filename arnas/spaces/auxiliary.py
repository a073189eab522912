"""The second classifier that reads a network half way, in training only (DARTS's form)."""

from __future__ import annotations

from torch import Tensor, nn

from arnas.runtime.errors import UserError

POOLED, HIDDEN = 128, 768
"""Channels after the first and the second convolution."""
WINDOW, STRIDE = 5, 3
"""Of the average pooling, where the map is large enough."""


def pooling(side: int) -> tuple[int, int, int]:
    """Return window and stride of the pooling of a map, and the side of what it leaves.

    Maps of 8x8 (images of 32x32) are pooled 5x5 with stride 3, which leaves 2x2, and maps of 16x16
    (Tiny-ImageNet) likewise, which leaves 4x4. On maps below 8x8 window and stride shrink so that
    2x2 are left; that is this project's own, as no paper has such maps.
    """
    window = min(WINDOW, side - 1)
    stride = min(STRIDE, side - window)
    return window, stride, (side - window) // stride + 1


class AuxiliaryHead(nn.Module):
    """ReLU, average pooling, two convolutions with batch normalisation and ReLU, and a classifier.

    As in the released code of DARTS (arXiv 1806.09055) and ARNAS (arXiv 2405.05502); the second
    convolution covers all that the pooling leaves.

    Parameters
    ----------
    in_channels
        Channels of the map that it reads.
    num_classes
        Classes.
    image_size
        Side of the network's images in pixels; the map's is a quarter, rounded up.

    Raises
    ------
    UserError
        When the map has one pixel only.
    """

    def __init__(self, in_channels: int, num_classes: int, image_size: int) -> None:
        super().__init__()
        side = -(-image_size // 4)
        if side < 2:
            raise UserError(
                f"image_size is {image_size}: allowed with an auxiliary head are 5 and more, "
                "because it reads maps of a quarter of that: leave the head out."
            )
        window, stride, left = pooling(side)
        self.features = nn.Sequential(
            nn.ReLU(),
            nn.AvgPool2d(window, stride),
            nn.Conv2d(in_channels, POOLED, 1, bias=False),
            nn.BatchNorm2d(POOLED),
            nn.ReLU(),
            nn.Conv2d(POOLED, HIDDEN, left, bias=False),
            nn.BatchNorm2d(HIDDEN),
            nn.ReLU(),
        )
        self.classifier = nn.Linear(HIDDEN, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to logits (N, classes)."""
        logits: Tensor = self.classifier(self.features(x).flatten(1))
        return logits
