"""Small supernets, batches and comparisons that the tests of the search share."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from arnas.data.batches import Batch
from arnas.search.supernet import Supernet
from arnas.spaces.options import SearchSpaceOptions

CLASSES = 3


def channel_mixer(channels: int, stride: int) -> nn.Module:
    """Return an operation of a user's own."""
    conv = nn.Conv2d(channels, channels, 3, stride, 1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(channels), nn.SiLU())


def tiny_supernet(cells: int = 4, alpha_scale: float = 1.0) -> Supernet:
    """Return a supernet in float64 whose tables favour some operations clearly."""
    torch.manual_seed(0)
    return Supernet(
        SearchSpaceOptions(),
        num_classes=CLASSES,
        in_channels=1,
        channels=2,
        cells=cells,
        alpha_scale=alpha_scale,
        seed=1,
    ).double()


def random_batch(seed: int, count: int = 6) -> Batch:
    """Return grey 8x8 images in float64 with every class among their labels."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(count, 1, 8, 8, generator=generator, dtype=torch.float64)
    return Batch(x, torch.arange(count) % CLASSES)


def weight_step(supernet: Supernet, optimiser: torch.optim.Optimizer, batch: Batch) -> None:
    """Take a plain step on the weights, so that momentum and statistics are not those of birth."""
    supernet.train()
    loss = F.cross_entropy(supernet(batch.x), batch.y)
    for weight, slope in zip(
        supernet.weights(), torch.autograd.grad(loss, supernet.weights()), strict=True
    ):
        weight.grad = slope
    optimiser.step()
    optimiser.zero_grad()


def bits(tensor: Tensor | None) -> bytes | None:
    """Return what a tensor holds; NaN equals NaN and 0.0 differs from -0.0."""
    return None if tensor is None else tensor.detach().contiguous().numpy().tobytes()


def module_bits(model: nn.Module) -> dict[str, object]:
    """Return weights, buffers, gradients, modes and flags of a model."""
    return {
        "state": {name: bits(value) for name, value in model.state_dict().items()},
        "grad": {name: bits(p.grad) for name, p in model.named_parameters()},
        "requires_grad": [p.requires_grad for p in model.parameters()],
        "modes": [m.training for m in model.modules()],
        "tracking": [getattr(m, "track_running_stats", None) for m in model.modules()],
    }


def optimiser_bits(
    optimiser: torch.optim.Optimizer, parameters: Sequence[Tensor]
) -> list[dict[str, object]]:
    """Return what an optimiser remembers of each parameter."""
    return [
        {key: bits(value) for key, value in optimiser.state.get(p, {}).items()} for p in parameters
    ]


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Return the distance of two vectors in units of the expected one's length."""
    return float((found - expected).norm() / expected.norm())


def cosine(first: Tensor, second: Tensor) -> float:
    return float(F.cosine_similarity(first, second, dim=0))
