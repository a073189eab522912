"""Images and networks that the benchmark works on: enlarged digits, small CNNs, ARNAS's network."""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

import arnas
from arnas.data.batches import Batch
from arnas.spaces.published import ARNAS
from benchmarks.reference.layers import PlainNetwork

HELD_OUT = 400
"""Last digits, which no network is trained on."""


def digits(count: int, size: int, channels: int) -> tuple[Tensor, Tensor]:
    """Return the last `count` digits enlarged to `size` pixels, or those for training if < 0."""
    found = load_digits()
    part = slice(-count, None) if count > 0 else slice(None, -HELD_OUT)
    x = torch.from_numpy(found.images[part]).float()[:, None] / 16
    x = F.interpolate(x, size, mode="bilinear").expand(-1, channels, -1, -1)
    return x.contiguous(), torch.from_numpy(found.target[part]).long()


def noise(count: int, size: int, dtype: torch.dtype = torch.float32, classes: int = 10) -> Batch:
    """Return images of noise with labels."""
    x = torch.rand(count, 3, size, size, dtype=dtype)
    return Batch(x, torch.randint(0, classes, (count,)))


def conv_net(norm: bool, channels: int, widths: tuple[int, int, int]) -> nn.Sequential:
    """Return three convolutions, the last two of stride 2, each with or without a norm."""
    layers: list[nn.Module] = []
    for index, width in enumerate(widths):
        layers.append(nn.Conv2d(channels, width, 3, 1 + (index > 0), 1, bias=not norm))
        layers += [nn.BatchNorm2d(width), nn.ReLU()] if norm else [nn.ReLU()]
        channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))


def flat_net(channels: int, size: int) -> nn.Sequential:
    """Return two convolutions and two dense layers (Wong and Kolter, arXiv 1711.00851).

    166,406 parameters for 1 x 28 x 28 pixels, 214,918 for 3 x 32 x 32.
    """
    return nn.Sequential(
        nn.Conv2d(channels, 16, 4, 2, 1), nn.ReLU(),
        nn.Conv2d(16, 32, 4, 2, 1), nn.ReLU(),
        nn.Flatten(), nn.Linear(2 * size * size, 100), nn.ReLU(), nn.Linear(100, 10),
    )  # fmt: skip


def trained(model: nn.Module, size: int, channels: int, epochs: int = 7) -> nn.Module:
    """Train a network in a few seconds, after two epochs on PGD examples; evaluation mode."""
    torch.manual_seed(0)
    x, y = digits(-1, size, channels)
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-3)
    for epoch in range(epochs):
        for batch in torch.randperm(len(x)).split(64):
            image = x[batch]
            if epoch >= 2:
                threat = arnas.Threat("linf", 0.12)
                how = {"steps": 3, "step_size": 0.06, "keep": "last"}
                image = arnas.pgd(model, image, y[batch], threat, **how)
            model.train()
            optimiser.zero_grad()
            F.cross_entropy(model(image), y[batch]).backward()
            optimiser.step()
    return model.eval()


def budget(model: nn.Module, x: Tensor, y: Tensor, share: float) -> float:
    """Return the linf budget at which about that share of the images withstands PGD-20."""
    low, high = 0.0, 0.5
    for _ in range(8):
        middle = (low + high) / 2
        threat = arnas.Threat("linf", middle)
        x_adv = arnas.pgd(model, x, y, threat, stop_when_broken=True)
        with torch.no_grad():
            robust = float((model(x_adv).argmax(1) == y).float().mean())
        low, high = (middle, high) if robust > share else (low, middle)
    return low


def arnas_pair(cells: int, channels: int = 16) -> tuple[nn.Module, PlainNetwork]:
    """Return ARNAS's network and the plain one with the same weights, in evaluation mode.

    Its running statistics are those of a batch of noise.
    """
    torch.manual_seed(0)
    sizes = {"in_channels": 3, "channels": channels, "num_classes": 10}
    network = arnas.build_model("arnas", cells=cells, image_size=32, **sizes)
    network.train()(torch.rand(16, 3, 32, 32))
    plain = PlainNetwork(
        [ARNAS.genotype.cells[cell.kind] for cell in network.plans], ARNAS.space.widths, **sizes
    )
    plain.load_from(network)
    return network.eval(), plain.eval()
