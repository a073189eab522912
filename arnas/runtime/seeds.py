"""Random numbers as a function of what they are for.

A generator is derived from names ("retrain", seed, epoch, step, ...) and never carried along a run,
so a resumed run draws what an undisturbed one would have drawn, and batch sizes or the order of
jobs cannot shift anybody's numbers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor


def derive_seed(*parts: object) -> int:
    """Return a 63-bit seed from the printed form of `parts`, the same on every machine."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def make_generator(*parts: object) -> torch.Generator:
    """Return a CPU generator seeded with `derive_seed(*parts)`."""
    return torch.Generator().manual_seed(derive_seed(*parts))


def per_image_uniform(parts: Iterable[object], indices: Tensor, shape: Sequence[int]) -> Tensor:
    """Draw one tensor of `shape` from U(0, 1) for each image index.

    Parameters
    ----------
    parts
        What the numbers are for, for example ``("whitebox", "pgd20", seed)``.
    indices
        int64 of shape (N,): the images' places in their split.
    shape
        Shape of one draw, (C, H, W).

    Returns
    -------
    Tensor
        float32 of shape (N, C, H, W) on the CPU. An image's numbers depend on `parts` and its
        index only, not on the batch it stands in.
    """
    return _per_image(torch.rand, parts, indices, shape)


def per_image_normal(parts: Iterable[object], indices: Tensor, shape: Sequence[int]) -> Tensor:
    """Draw from the standard normal distribution, otherwise as `per_image_uniform`."""
    return _per_image(torch.randn, parts, indices, shape)


def _per_image(
    draw: Callable[..., Tensor], parts: Iterable[object], indices: Tensor, shape: Sequence[int]
) -> Tensor:
    """Draw one tensor for each image index."""
    purpose = tuple(parts)
    draws = [draw(tuple(shape), generator=make_generator(*purpose, int(i))) for i in indices]
    return torch.stack(draws) if draws else torch.empty((0, *shape))


@contextmanager
def seeded(*parts: object) -> Iterator[None]:
    """Seed PyTorch's global generators inside the block and restore them afterwards.

    For code that draws from them without a choice, such as the initialisation of layers.
    """
    with torch.random.fork_rng():
        torch.manual_seed(derive_seed(*parts))
        yield
