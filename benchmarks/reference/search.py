"""The search step of ARNAS as the DARTS family writes it, on the plain supernet.

Every attack and finite difference takes all gradients, each validation loss unrolls a deep copy of
its own, and SGD and Adam are written out (arXiv 2405.05502; DARTS, arXiv 1806.09055, equations 6 to
8; MGDA, arXiv 1810.04650).
"""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.reference.supernet import PlainSupernet

Tensors = dict[str, Tensor]
Images = tuple[Tensor, Tensor]
"""Images and their labels."""


class Rates(NamedTuple):
    """Settings of the two optimisers and of the step."""

    rate: float = 0.025
    momentum: float = 0.9
    decay: float = 3e-4
    clip: float = 5.0
    alpha_rate: float = 3e-4
    betas: tuple[float, float] = (0.5, 0.999)
    alpha_decay: float = 1e-3
    epsilon: float = 1e-8
    radius: float = 0.01
    """Length of the finite difference's step in weight space."""
    weight: float = 0.1
    """Factor of the adversarial validation loss."""


class PlainSearch:
    """Weights, tables, SGD and Adam of a search."""

    def __init__(
        self, net: PlainSupernet, rates: Rates | None = None, momentum: Tensors | None = None
    ) -> None:
        self.net = net.train()
        self.rates = rates or Rates()
        self.momentum = momentum or {n: torch.zeros_like(w) for n, w in self.weights().items()}
        self.first = {name: torch.zeros_like(table) for name, table in self.tables().items()}
        self.second = {name: torch.zeros_like(table) for name, table in self.tables().items()}
        self.steps = 0

    def tables(self) -> Tensors:
        """Return the architecture parameters."""
        return {n: p for n, p in self.net.named_parameters() if n.startswith("alphas.")}

    def weights(self) -> Tensors:
        """Return all other parameters."""
        return {n: p for n, p in self.net.named_parameters() if not n.startswith("alphas.")}

    def velocity(self, slopes: Tensors) -> Tensors:
        """Return SGD's velocity after a gradient."""
        rates = self.rates
        return {
            name: rates.momentum * self.momentum[name]
            + slopes[name]
            + rates.decay * weight.detach()
            for name, weight in self.weights().items()
        }

    def corrected(self, train: Images, validation: Images, factor: float) -> Tensors:
        """Return the gradient of a validation loss one weight step ahead, for every table."""
        rates, weights = self.rates, self.weights()
        unrolled = copy.deepcopy(self.net)
        step = self.velocity(slopes(self.net, train))
        _shift(unrolled, step, -rates.rate)
        ahead = slopes(unrolled, validation, factor)
        direction = {name: ahead[name] for name in weights}
        share = rates.radius / float(_length(direction))
        sides = []
        for sign in (1, -1):
            _shift(self.net, direction, sign * share)
            sides.append(slopes(self.net, train))
            _shift(self.net, direction, -sign * share)
        return {
            name: ahead[name] - rates.rate * (sides[0][name] - sides[1][name]) / (2 * share)
            for name in self.tables()
        }

    def architecture_step(self, train: Images, natural: Images, adversarial: Images) -> float:
        """Take an Adam step along the min-norm direction and return the natural share gamma."""
        rates = self.rates
        parts = (
            self.corrected(train, natural, 1.0),
            self.corrected(train, adversarial, rates.weight),
        )
        one, two = (torch.cat([table.flatten() for table in part.values()]) for part in parts)
        gamma = min(max(float((two - one) @ two / ((two - one) @ (two - one))), 0.0), 1.0)
        self.steps += 1
        with torch.no_grad():
            for name, table in self.tables().items():
                slope = gamma * parts[0][name] + (1 - gamma) * parts[1][name]
                slope = slope + rates.alpha_decay * table
                low, high = rates.betas
                self.first[name] = low * self.first[name] + (1 - low) * slope
                self.second[name] = high * self.second[name] + (1 - high) * slope**2
                mean = self.first[name] / (1 - low**self.steps)
                spread = self.second[name] / (1 - high**self.steps)
                table.sub_(rates.alpha_rate * mean / (spread.sqrt() + rates.epsilon))
        return gamma

    def weight_step(self, train: Images) -> float:
        """Take an SGD step and return the gradient's length before it is clipped."""
        found = slopes(self.net, train)
        found = {name: found[name] for name in self.weights()}
        length = float(_length(found))
        # PyTorch's clipping, which the papers use, adds 1e-6 to the length.
        share = min(1.0, self.rates.clip / (length + 1e-6))
        self.momentum = self.velocity({name: share * slope for name, slope in found.items()})
        _shift(self.net, self.momentum, -self.rates.rate)
        return length


def slopes(net: nn.Module, images: Images, factor: float = 1.0) -> Tensors:
    """Return the gradient of the cross-entropy, times a factor, to every parameter."""
    x, y = images
    net.zero_grad()
    (factor * F.cross_entropy(net(x), y)).backward()
    return {
        name: torch.zeros_like(p) if p.grad is None else p.grad
        for name, p in net.named_parameters()
    }


def _shift(net: nn.Module, by: Tensors, factor: float) -> None:
    """Add a multiple of tensors to the parameters of their names."""
    parameters = dict(net.named_parameters())
    with torch.no_grad():
        for name, tensor in by.items():
            parameters[name].add_(tensor, alpha=factor)


def _length(tensors: Tensors) -> Tensor:
    """Return the L2 norm of all tensors together."""
    return torch.sqrt(sum((tensor**2).sum() for tensor in tensors.values()))
