"""The building blocks against torch's own operators, in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from arnas.spaces.primitives import (
    FactorizedReduce,
    build_operation,
    dilated_depthwise,
    relu_conv_norm,
)
from arnas.spaces.registry import PRIMITIVES
from benchmarks.reference.layers import PRIMITIVE_NAMES, PlainFactorizedReduce, primitive

SIZES = [(8, 8), (7, 7), (6, 9), (5, 2), (1, 1), (1, 4), (2, 1), (3, 1)]


def randn(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_dilated_depthwise_is_a_dilated_convolution(
    size: tuple[int, int], kernel: int, stride: int
) -> None:
    x, weight = randn(2, 3, *size), randn(3, 1, kernel, kernel, seed=1)
    leaves = [tensor.clone().requires_grad_() for tensor in (x, weight)]
    found = dilated_depthwise(*leaves, stride)
    own = [tensor.clone().requires_grad_() for tensor in (x, weight)]
    expected = F.conv2d(*own, stride=stride, padding=kernel - 1, dilation=2, groups=3)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    cotangent = randn(*expected.shape, seed=2)
    for gradient, reference in zip(
        torch.autograd.grad(found, leaves, cotangent),
        torch.autograd.grad(expected, own, cotangent),
        strict=True,
    ):
        torch.testing.assert_close(gradient, reference, rtol=1e-12, atol=1e-12)


def copy_in_order(target: nn.Module, source: nn.Module) -> None:
    """Copy tensors by their order, the two modules' own names aside; no shape may differ."""
    own, other = target.state_dict(), source.state_dict()
    target.load_state_dict(dict(zip(own, other.values(), strict=True)))


def assert_same_function(module: nn.Module, plain: nn.Module, x: Tensor) -> None:
    """Compare output and all gradients, in training and then in evaluation mode."""
    module, plain = module.double(), plain.double()
    with torch.no_grad():
        for index, parameter in enumerate(module.parameters()):
            parameter.copy_(randn(*parameter.shape, seed=index))
    copy_in_order(plain, module)
    for train in (True, False):
        results = []
        for each in (module.train(train), plain.train(train)):
            leaf = x.clone().requires_grad_()
            out = each(leaf)
            targets = [leaf, *each.parameters()]
            cotangent = randn(*out.shape, seed=99)
            results.append((out, *torch.autograd.grad(out, targets, cotangent)))
        for found, expected in zip(*results, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    for found, expected in zip(module.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(8, 8), (7, 5)], ids=str)
@pytest.mark.parametrize("name", PRIMITIVE_NAMES)
def test_operations(name: str, size: tuple[int, int], stride: int) -> None:
    module, plain = build_operation(name, 4, stride), primitive(name, 4, stride)
    assert_same_function(module, plain, randn(3, 4, *size))


def test_operations_are_the_primitives() -> None:
    assert PRIMITIVES == PRIMITIVE_NAMES


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_factorized_reduce(size: tuple[int, int], affine: bool) -> None:
    module = FactorizedReduce(3, 4, affine)
    x = randn(4, 3, *size)
    assert_same_function(module, PlainFactorizedReduce(3, 4, affine), x)
    assert module(x).shape == (4, 4, (size[0] + 1) // 2, (size[1] + 1) // 2)


@pytest.mark.parametrize(("affine", "count"), [(True, 3 * 5 + 2 * 5), (False, 3 * 5)])
def test_relu_conv_norm(affine: bool, count: int) -> None:
    block = relu_conv_norm(3, 5, affine).double()
    assert sum(p.numel() for p in block.parameters()) == count
    x = randn(2, 3, 4, 4)
    y = torch.einsum("oi,nihw->nohw", block[1].weight[:, :, 0, 0], x.clamp_min(0))
    mean = y.mean((0, 2, 3), keepdim=True)
    variance = (y - mean).square().mean((0, 2, 3), keepdim=True)
    torch.testing.assert_close(block(x), (y - mean) / (variance + 1e-5).sqrt())
