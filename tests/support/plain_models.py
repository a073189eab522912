"""Models made by hand, written a second time in plain torch, and what compares them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def moved(model: nn.Module) -> nn.Module:
    """Return the model in float64 and evaluation mode, nothing in its norms as it was drawn."""
    generator = torch.Generator().manual_seed(5)

    def between(low: float, high: float, like: Tensor) -> Tensor:
        return torch.rand(like.shape, generator=generator, dtype=torch.float64) * (high - low) + low

    model = model.double().eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                assert module.running_mean is not None and module.running_var is not None
                module.running_mean.copy_(between(-0.3, 0.3, module.running_mean))
                module.running_var.copy_(between(0.5, 2, module.running_var))
                if module.affine:
                    module.weight.copy_(between(0.5, 1.5, module.weight))
                    module.bias.copy_(between(-0.3, 0.3, module.bias))
    return model


def copied(source: nn.Module, target: nn.Module) -> nn.Module:
    """Load the weights of `source`, in their order, into `target`, and return it in float64."""
    values = [v for k, v in source.state_dict().items() if not k.startswith("normalise.")]
    target = target.double().eval()
    target.load_state_dict(dict(zip(target.state_dict(), values, strict=True)))
    return target


class PlainPreActivationBlock(nn.Module):
    """As the released code of TRADES writes it, with both paths told apart."""

    def __init__(self, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv1 = nn.Conv2d(inner, outer, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outer)
        self.conv2 = nn.Conv2d(outer, outer, 3, padding=1, bias=False)
        self.same = inner == outer
        if not self.same:
            self.project = nn.Conv2d(inner, outer, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        first = self.bn1(x).clamp_min(0)
        second = self.conv2(self.bn2(self.conv1(first)).clamp_min(0))
        return x + second if self.same else self.project(first) + second


class PlainWide(nn.Module):
    """Any number of stages with their own channels; the first keeps the resolution."""

    def __init__(
        self, stem: int, channels: Sequence[int], blocks: int, classes: int, last_norm: bool = True
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, stem, 3, padding=1, bias=False)
        self.stages = nn.ModuleList()
        width = stem
        for index, outer in enumerate(channels):
            for number in range(blocks):
                stride = 2 if index and not number else 1
                self.stages.append(PlainPreActivationBlock(width, outer, stride))
                width = outer
        self.bn = nn.BatchNorm2d(width) if last_norm else None
        self.fc = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        for block in self.stages:
            x = block(x)
        if self.bn is not None:
            x = self.bn(x).clamp_min(0)
        return self.fc(F.avg_pool2d(x, x.shape[-1]).flatten(1))


MOBILE_ROWS = "1,16,1,1 6,24,2,1 6,32,3,2 6,64,4,2 6,96,3,1 6,160,3,2 6,320,1,1"
"""Rows t, c, n, s of table 2 of arXiv 1801.04381, the second stage's stride as for CIFAR."""


def plain_mobile(state: dict[str, Tensor], channels: int, x: Tensor) -> Tensor:
    """Return the logits of MobileNet-V2 from its tensors in the order of execution."""
    tensors: Iterator[Tensor] = iter(
        [v for k, v in state.items() if not k.startswith("normalise.")]
    )

    def conv_norm(x: Tensor, stride: int = 1, groups: int = 1) -> Tensor:
        weight = next(tensors)
        x = F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2, groups=groups)
        gamma, beta, mean, var, _ = (next(tensors) for _ in range(5))
        return F.batch_norm(x, mean, var, gamma, beta)

    x = conv_norm(x).relu()
    for row in MOBILE_ROWS.split():
        expansion, outer, count, first_stride = map(int, row.split(","))
        for number in range(count):
            stride = 1 if number else first_stride
            width = x.shape[1]
            inner = expansion * width
            out = conv_norm(conv_norm(conv_norm(x).relu(), stride, inner).relu())
            assert out.shape[1] == outer * channels // 32
            if stride == 1:
                out = out + (x if out.shape[1] == width else conv_norm(x))
            x = out
    x = conv_norm(x).relu().mean((2, 3))
    logits = F.linear(x, next(tensors), next(tensors))
    assert next(tensors, None) is None
    return logits
