"""The auxiliary head: published sizes, a plain head, and a network that is the same without it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import arnas
from arnas.models.complexity import count_parameters
from arnas.runtime.errors import UserError
from arnas.spaces.auxiliary import AuxiliaryHead, pooling

SMALL: dict[str, Any] = {
    "num_classes": 5,
    "image_size": 32,
    "in_channels": 2,
    "channels": 2,
    "cells": 4,
}


def built(name: str = "arnas", auxiliary: bool = True, **changes: Any) -> Any:
    torch.manual_seed(0)
    return arnas.build_model(name, auxiliary=auxiliary, **(SMALL | changes))


@pytest.mark.parametrize(
    ("channels", "num_classes", "image_size", "parameters"),
    [
        (4 * 144, 10, 32, 476_426),
        (4 * 144, 100, 32, 476_426 + 90 * 769),
        (4 * 128, 10, 32, 468_234),
        (4 * 168, 200, 64, 1_814_472),
    ],
    ids=["C=36 1:2:4", "a hundred classes", "ARNAS", "Tiny-ImageNet"],
)
def test_published_sizes(channels: int, num_classes: int, image_size: int, parameters: int) -> None:
    with torch.device("meta"):
        assert count_parameters(AuxiliaryHead(channels, num_classes, image_size)) == parameters


@pytest.mark.parametrize(
    ("side", "expected"),
    [
        (2, (1, 1, 2)),
        (3, (2, 1, 2)),
        (4, (3, 1, 2)),
        (5, (4, 1, 2)),
        (6, (5, 1, 2)),
        (7, (5, 2, 2)),
        (8, (5, 3, 2)),
        (11, (5, 3, 3)),
        (16, (5, 3, 4)),
    ],
)
def test_pooling_fits_the_map(side: int, expected: tuple[int, int, int]) -> None:
    window, stride, left = pooling(side)
    assert (window, stride, left) == expected
    assert F.avg_pool2d(torch.zeros(1, 1, side, side), window, stride).shape[-1] == left


def plain_head(head: AuxiliaryHead, x: Tensor) -> Tensor:
    """DARTS's head on maps of 8x8 in evaluation mode, from its tensors in their order."""
    tensors = iter(head.state_dict().values())

    def norm(x: Tensor) -> Tensor:
        gamma, beta, mean, var, _ = (next(tensors) for _ in range(5))
        return F.batch_norm(x, mean, var, gamma, beta).relu()

    windows = x.relu().unfold(2, 5, 3).unfold(3, 5, 3).mean((-2, -1))
    x = norm(torch.einsum("nchw,oc->nohw", windows, next(tensors)[:, :, 0, 0]))
    x = norm(torch.einsum("nchw,ochw->no", x, next(tensors))[:, :, None, None])
    return x.flatten(1) @ next(tensors).T + next(tensors)


def test_a_head_is_the_plain_one() -> None:
    torch.manual_seed(0)
    head = AuxiliaryHead(6, 5, 32).double()
    head(torch.randn(9, 6, 8, 8, dtype=torch.float64))  # moves the running statistics
    x = torch.randn(3, 6, 8, 8, dtype=torch.float64)
    found = head.eval()(x)
    assert found.shape == (3, 5)
    torch.testing.assert_close(found, plain_head(head, x), rtol=1e-10, atol=1e-10)


def test_all_other_weights_are_drawn_as_without_it() -> None:
    models = [built(auxiliary=flag) for flag in (True, False)]
    drawn = torch.rand(1)
    more, less = (model.state_dict() for model in models)
    assert [name for name in more if not name.startswith("auxiliary.")] == list(less)
    assert list(more)[: len(less)] == list(less)
    assert all(torch.equal(more[name], value) for name, value in less.items())
    assert not [name for name in less if "auxiliary" in name]
    built(auxiliary=False)
    assert torch.equal(torch.rand(1), drawn), "no draw without a head"


def test_logits_are_those_without_it() -> None:
    """In training mode too; and it reads the output of the second reduction."""
    more, less = (built(auxiliary=flag) for flag in (True, False))
    x = torch.rand(4, 2, 32, 32)
    seen: list[Tensor] = []
    more.cells[2 * 4 // 3].register_forward_hook(lambda module, args, out: seen.append(out))
    for train in (True, False):
        more.train(train)
        less.train(train)
        logits, auxiliary = more.with_auxiliary(x)
        assert torch.equal(logits, less(x))
        assert auxiliary.shape == logits.shape == (4, 5)
        if not train:
            assert torch.equal(auxiliary, more.auxiliary(seen[-1]))
            assert torch.equal(more(x), logits)


@pytest.mark.parametrize("image_size", [5, 8, 16, 28, 64])
def test_it_fits_any_image_size(image_size: int) -> None:
    model = built(image_size=image_size)
    logits, auxiliary = model.eval().with_auxiliary(torch.rand(2, 2, image_size, image_size))
    assert logits.shape == auxiliary.shape == (2, 5)
    assert not torch.equal(logits, auxiliary)


def test_maps_of_one_pixel_are_refused() -> None:
    with pytest.raises(UserError, match="image_size is 4: allowed with an auxiliary head are 5"):
        built(image_size=4)


def test_a_network_without_it_says_so() -> None:
    model = built(auxiliary=False)
    assert model.auxiliary is None
    with pytest.raises(UserError, match="no auxiliary head: build it with auxiliary=True"):
        model.with_auxiliary(torch.rand(1, 2, 32, 32))
