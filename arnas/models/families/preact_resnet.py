"""Pre-activation residual networks in their CIFAR form: PreActResNet and wide residual networks.

Sources: arXiv 1603.05027 (the order of layers), arXiv 1605.07146 (width), arXiv 2110.03825 (a width
of its own for each stage).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from arnas.spaces.network import Normalise


class PreActivationBlock(nn.Module):
    """Normalisation, ReLU, convolution, twice, and a shortcut.

    A block that changes the width activates its input for both paths and projects it by a bare
    1x1 convolution; with a stride alone the projection takes the input itself.
    """

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.activation = nn.Sequential(nn.BatchNorm2d(in_channels), nn.ReLU())
        self.residual = nn.Sequential(
            nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, 1, 1, bias=False),
        )
        self.widens = in_channels != channels
        self.shortcut: nn.Module = nn.Identity()
        if self.widens or stride != 1:
            self.shortcut = nn.Conv2d(in_channels, channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, channels, H / stride, W / stride)."""
        active = self.activation(x)
        total: Tensor = self.residual(active) + self.shortcut(active if self.widens else x)
        return total


class PreActivationNetwork(nn.Module):
    """Stem without normalisation, stages of pre-activation blocks, pooling, linear classifier.

    Parameters
    ----------
    stages
        For each resolution the channels in units of the stem's, the number of blocks, and the
        stride of the first of them.
    channels
        Of the stem.
    wide
        Whether it is a wide residual network: normalisation and ReLU after the last stage, and
        weights of convolutions from the normal distribution with variance 2 / (k^2 C_out), the
        classifier's biases 0. Otherwise neither, and weights are drawn as PyTorch draws them, both
        as in the released code of each.
    """

    def __init__(
        self,
        stages: Sequence[tuple[int, int, int]],
        *,
        num_classes: int,
        in_channels: int,
        channels: int,
        wide: bool,
    ) -> None:
        super().__init__()
        self.normalise = Normalise([0.0] * in_channels, [1.0] * in_channels)
        self.stem = nn.Conv2d(in_channels, channels, 3, 1, 1, bias=False)
        blocks = []
        width = channels
        for factor, count, stride in stages:
            for number in range(count):
                step = stride if number == 0 else 1
                blocks.append(PreActivationBlock(width, factor * channels, step))
                width = factor * channels
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.BatchNorm2d(width) if wide else None
        self.classifier = nn.Linear(width, num_classes)
        for module in self.modules() if wide else ():
            if isinstance(module, nn.Conv2d):
                kernel = math.prod(module.kernel_size)
                nn.init.normal_(module.weight, 0, math.sqrt(2 / (kernel * module.out_channels)))
            elif isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map pixels in [0, 1], float of shape (N, in_channels, H, W), to logits (N, classes)."""
        x = self.blocks(self.stem(self.normalise(x)))
        if self.norm is not None:
            x = F.relu(self.norm(x))
        logits: Tensor = self.classifier(x.mean((2, 3)))
        return logits
