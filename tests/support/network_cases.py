"""A network of the package compared with the plain one of the same description."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmarks.reference.layers import PlainNetwork


def assert_same_network(network: nn.Module, plain: PlainNetwork, x: Tensor) -> None:
    """Compare them in training and in evaluation mode."""
    plain.load_from(network)
    for train in (True, False):
        network.train(train)
        plain.train(train)
        torch.testing.assert_close(network(x), plain(x), rtol=1e-9, atol=1e-9)
