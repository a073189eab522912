"""One batch shared by the ranks of a job (`arnas.runtime.ranks`).

The model itself is what is shared: each rank sends its part of the batch through the network, and
all of them get all logits, and in the backward pass all input gradients. Whatever surrounds the
model - losses, attacks, random numbers, optimisers - runs on every rank alike and needs no change,
and the result is that of one process up to the order of sums. With batch statistics taken over the
whole batch this holds for training too; statistics of each rank's part would be another training.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


def share_batches(model: nn.Module) -> nn.Module:
    """Let the ranks share every batch that goes through `model`; it is changed and returned.

    The model takes and returns whole batches as before, of any size, and keeps its state dict; its
    ``with_auxiliary`` too, where it has an auxiliary head. For training, every batch normalisation
    takes its statistics over the whole batch, and the parameter gradients are those of a rank's
    part until `sum_gradients`. Without ranks nothing changes.
    """
    if dist.is_initialized():
        model.register_forward_pre_hook(_take_part)
        model.register_forward_hook(_join_parts)
        if getattr(model, "auxiliary", None) is not None:
            # No closure, so that a copy of the model shares its own batches.
            model.with_auxiliary = partial(_shared_auxiliary, model)  # type: ignore[assignment]
    return model


def is_shared(model: nn.Module) -> bool:
    """Return whether the ranks share every batch that goes through `model`."""
    return _take_part in model._forward_pre_hooks.values()


def share_statistics(model: nn.Module) -> nn.Module:
    """Let batch normalisation in training mode see the whole batch; `model` is changed, returned.

    In evaluation mode it is what it was. Without ranks nothing changes.
    """
    if dist.is_initialized():
        for module in model.modules():
            if type(module) is nn.BatchNorm2d:
                module.__class__ = SharedBatchNorm2d
    return model


def sum_gradients(model: nn.Module) -> None:
    """Replace each rank's parameter gradients by their sum over the ranks, in one exchange."""
    if not dist.is_initialized():
        return
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    total = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(total)
    start = 0
    for gradient in gradients:
        gradient.copy_(total[start : start + gradient.numel()].view_as(gradient))
        start += gradient.numel()


def _take_part(model: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Replace the batch by this rank's part of it."""
    (x,) = args
    model._shared_count = len(x)  # type: ignore[assignment]
    return (_TakePart.apply(x),)


def _join_parts(model: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> Tensor:
    """Replace the logits of this rank's part by those of the whole batch."""
    return join_parts(output, model._shared_count)  # type: ignore[arg-type]


def join_parts(part: Tensor, count: int) -> Tensor:
    """Return the whole batch of `count`, of which each rank has computed its part."""
    joined: Tensor = _JoinParts.apply(part, count)
    return joined


def _shared_auxiliary(model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return both logits of the whole batch, of which this rank computes its part."""
    alone: Any = type(model)  # whose method the model's own attribute hides
    both = alone.with_auxiliary(model, _TakePart.apply(x))
    logits, auxiliary = (_JoinParts.apply(part, len(x)) for part in both)
    return logits, auxiliary


def _part(x: Tensor) -> Tensor:
    """Return this rank's part of a batch; parts differ by one image at most and may be empty."""
    return x.tensor_split(dist.get_world_size())[dist.get_rank()].contiguous()


def _whole(part: Tensor, count: int) -> Tensor:
    """Return the batch of `count` of which each rank has a part."""
    ranks = dist.get_world_size()
    sizes = [len(index) for index in torch.arange(count).tensor_split(ranks)]
    # Of equal size, as the exchange asks for.
    padded = part.new_zeros(max(sizes), *part.shape[1:])
    padded[: len(part)] = part
    parts = [torch.empty_like(padded) for _ in range(ranks)]
    dist.all_gather(parts, padded)
    return torch.cat([found[:size] for found, size in zip(parts, sizes, strict=True)])


class _TakePart(torch.autograd.Function):
    """The part of a batch that is this rank's; in the backward pass the gradients of all."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.count = len(x)
        return _part(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        # By the other function, so that gradients can be differentiated again.
        whole: Tensor = _JoinParts.apply(gradients[0], ctx.count)
        return whole


class _JoinParts(torch.autograd.Function):
    """The whole batch of which each rank has a part; in the backward pass this rank's part.

    Every rank goes on alike from the whole, so each has the same gradient.
    """

    @staticmethod
    def forward(ctx: Any, part: Tensor, count: int) -> Tensor:
        return _whole(part, count)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _TakePart.apply(gradients[0]), None


class _Sum(torch.autograd.Function):
    """The sum over the ranks; each rank uses it for its own part, so gradients are summed too."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        total = value.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total: Tensor = _Sum.apply(gradients[0])
        return total


class SharedBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation with the statistics of the whole batch (arXiv 1502.03167, algorithm 1).

    PyTorch's own ``SyncBatchNorm`` runs on GPUs only.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalise this rank's part of a batch, of shape (n, C, H, W)."""
        if not self.training:
            return super().forward(input)
        channels = input.shape[1]
        count = input.new_tensor([input.numel() / channels])
        sums = _Sum.apply(torch.cat([input.sum((0, 2, 3)), count]))
        total, mean = sums[-1].detach(), sums[:-1] / sums[-1].detach()
        centred = input - mean.view(1, -1, 1, 1)
        # About the mean, because a difference of large sums would lose digits.
        variance = _Sum.apply((centred * centred).sum((0, 2, 3))) / total
        if self.track_running_stats and self.running_mean is not None:
            assert self.running_var is not None
            assert self.num_batches_tracked is not None
            self.num_batches_tracked.add_(1)
            average = 1 / float(self.num_batches_tracked)
            share = average if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean.detach(), share)
            self.running_var.lerp_(variance.detach() * total / (total - 1), share)
        normal: Tensor = centred * (variance + self.eps).rsqrt().view(1, -1, 1, 1)
        if self.weight is None:
            return normal
        return normal * self.weight.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)
