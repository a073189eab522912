"""Small networks trained on scikit-learn's digits: five honest ones, and the usual broken ones.

``context_of(name)`` gives any of them with the images it is judged on; ``HONEST`` and ``BROKEN``
list the names. A network is trained once a process, in a second; every call returns a new model.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from arnas.attacks.pgd import pgd
from arnas.attacks.threat import Threat
from arnas.evaluation.checks.base import CheckContext
from arnas.runtime.seeds import make_generator, seeded

THREAT = Threat("linf", 0.1)
TEST = 360
OUTSIDE = (0.5, 0.5)
"""Mean and standard deviation of a normalisation that stayed outside of the model."""
SURE = 12.0
"""Largest logit above which the broken head overflows."""


class Digits(NamedTuple):
    """Images, float32 of shape (N, 1, 8, 8) in [0, 1], and labels."""

    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor


@cache
def digits() -> Digits:
    found = load_digits()
    order = torch.randperm(len(found.target), generator=make_generator("digits"))
    x = torch.from_numpy(found.images).float()[order, None] / 16
    y = torch.from_numpy(found.target).long()[order]
    return Digits(x[:-TEST], y[:-TEST], x[-TEST:], y[-TEST:])


class Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(channels)
        self.second = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        inner = F.relu(self.first_norm(self.first(x)))
        return F.relu(x + self.second_norm(self.second(inner)))


def plain_cnn() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(512, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


def normed_cnn() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.1),
        nn.Linear(128, 10),
    )


def residual_net() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 12, 3, padding=1, bias=False),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        Residual(12),
        nn.AvgPool2d(2),
        Residual(12),
        nn.Flatten(),
        nn.Linear(192, 10),
    )


def perceptron() -> nn.Sequential:
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(64, 128),
        nn.ReLU(),
        nn.Linear(128, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


BUILD: dict[str, Callable[[], nn.Module]] = {
    "cnn": plain_cnn,
    "cnn_bn": normed_cnn,
    "residual": residual_net,
    "mlp": perceptron,
    "robust_cnn": plain_cnn,
}
HONEST = tuple(BUILD)
CLASSES = {"two_classes": 2, "three_classes": 3}
EPOCHS = 8


@cache
def _train(name: str) -> nn.Module:
    """Train by Adam with one cycle; everything random comes from the name."""
    x, y = digits().train_x, digits().train_y
    with seeded("broken models", name):
        model = BUILD[name]().train()
        steps = EPOCHS * -(-len(x) // 64)
        optimizer = torch.optim.Adam(model.parameters())
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=steps)
        for _ in range(EPOCHS):
            for part in torch.randperm(len(x)).split(64):
                images = x[part]
                if name == "robust_cnn":
                    images = pgd(model, images, y[part], THREAT, steps=4, keep="last")
                optimizer.zero_grad()
                F.cross_entropy(model(images), y[part]).backward()
                optimizer.step()
                schedule.step()
    model.zero_grad(set_to_none=True)
    return model.eval()


def trained(name: str) -> nn.Module:
    """Return a copy of a trained network, in evaluation mode."""
    return copy.deepcopy(_train(name))


class Wrapped(nn.Module):
    """A network between something done to its images and something done to its logits."""

    def __init__(
        self,
        model: nn.Module,
        *,
        before: Callable[[Tensor], Tensor] = lambda x: x,
        after: Callable[[Tensor], Tensor] = lambda logits: logits,
    ) -> None:
        super().__init__()
        self.model, self.before, self.after = model, before, after

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.model(self.before(x)))


class DetachedBranch(nn.Module):
    """Two networks vote; the gradient knows of the first one only."""

    def __init__(self, seen: nn.Module, unseen: nn.Module) -> None:
        super().__init__()
        self.seen, self.unseen = seen, unseen

    def forward(self, x: Tensor) -> Tensor:
        return self.seen(x) + self.unseen(x.detach())


def quantise(x: Tensor) -> Tensor:
    """Round to 3 bits, with a gradient of zero."""
    return (7 * x).round() / 7


def quantise_straight_through(x: Tensor) -> Tensor:
    """Round to 3 bits, with the gradient of the identity."""
    return x + (quantise(x) - x).detach()


def undo_normalisation(x: Tensor) -> Tensor:
    """Expect images that were normalised outside of the model."""
    return x * OUTSIDE[1] + OUTSIDE[0]


def nan_where_sure(logits: Tensor) -> Tensor:
    """Return NaN for the images of which the model is most confident."""
    return torch.where(logits.amax(1, keepdim=True) > SURE, torch.nan, logits)


def constant(logits: Tensor) -> Tensor:
    """Return the same logits for every image, with a graph."""
    return 0 * logits + torch.arange(logits.shape[1], dtype=logits.dtype)


def batch_statistics() -> nn.Module:
    """Return the trained network with the statistics of the batch, in evaluation mode too."""
    model = trained("cnn_bn")
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.track_running_stats = False
            norm.running_mean = norm.running_var = norm.num_batches_tracked = None
    return model


BROKEN: dict[str, Callable[[], nn.Module]] = {
    "logits_1000": lambda: Wrapped(trained("cnn"), after=lambda logits: 1000 * logits),
    "quantiser": lambda: Wrapped(trained("cnn"), before=quantise),
    "straight_through": lambda: Wrapped(trained("cnn"), before=quantise_straight_through),
    "dropout": lambda: Wrapped(trained("cnn"), before=lambda x: F.dropout(x, 0.2, training=True)),
    "softmax": lambda: Wrapped(trained("cnn"), after=lambda logits: logits.softmax(1)),
    "log_softmax": lambda: Wrapped(trained("cnn"), after=lambda logits: logits.log_softmax(1)),
    "detached_branch": lambda: DetachedBranch(trained("cnn"), trained("mlp")),
    "nan_head": lambda: Wrapped(trained("cnn"), after=nan_where_sure),
    "constant": lambda: Wrapped(trained("cnn"), after=constant),
    "two_classes": lambda: Wrapped(trained("cnn"), after=lambda logits: logits[:, :2]),
    "three_classes": lambda: Wrapped(trained("cnn"), after=lambda logits: logits[:, :3]),
    "batch_statistics": batch_statistics,
    "normalisation_outside": lambda: Wrapped(trained("cnn"), before=undo_normalisation),
}


def model_of(name: str) -> nn.Module:
    """Return a new honest or broken model, in evaluation mode."""
    return (BROKEN[name]() if name in BROKEN else trained(name)).eval()


def images_of(name: str, count: int = TEST) -> tuple[Tensor, Tensor]:
    """Return new tensors of the first test images, and labels, that a model is judged on."""
    data = digits()
    kept = data.test_y < CLASSES.get(name, 10)
    return data.test_x[kept][:count].clone(), data.test_y[kept][:count].clone()


def context_of(name: str, count: int = TEST, **changes: Any) -> CheckContext:
    """Return a context of an honest or broken model, before any attack.

    Parameters
    ----------
    name
        One of `HONEST` or `BROKEN`.
    count
        Most images.
    changes
        Further fields of the context, instead of the usual ones.
    """
    x, y = images_of(name, count)
    usual = {"threat": THREAT, "suite": "standard", "seed": 0, "batch_size": 128}
    return CheckContext(model_of(name), x, y, **(usual | changes))
