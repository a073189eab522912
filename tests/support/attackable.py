"""A model and images for the tests of `python -m arnas attack`, as a user would have them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

FACTORY = '''
import torch
from torch import nn
from sklearn.datasets import load_digits


def build(seed=0):
    """A small convolutional network, fitted in a second to most of the digits."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    found = load_digits()
    x = torch.from_numpy(found.images[:1400]).float()[:, None] / 16
    y = torch.from_numpy(found.target[:1400]).long()
    net = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 10)
    )
    optimiser = torch.optim.Adam(net.parameters(), lr=0.01)
    for epoch in range(6):
        for batch in torch.randperm(len(x)).split(50):
            optimiser.zero_grad()
            nn.functional.cross_entropy(net(x[batch]), y[batch]).backward()
            optimiser.step()
    return net


def masked():
    """The same with logits a thousand times as large."""
    net = build()
    net[4].weight.data.mul_(1000)
    net[4].bias.data.mul_(1000)
    return net


def other():
    """The same from another start."""
    return build(1)


def narrow():
    """A network of too few classes."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))


def not_a_model():
    return 3
'''


def write_factory(folder: Path, count: int = 40) -> None:
    """Write `mine.py` and `digits.npz` with so many images that the model has not seen."""
    (folder / "mine.py").write_text(FACTORY)
    found = load_digits()
    x = (found.images[1400 : 1400 + count, None] / 16).astype(np.float32)
    np.savez(folder / "digits.npz", x=x, y=found.target[1400 : 1400 + count])
