"""Models, images and calls that the tests of FAB share."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import linprog, minimize
from torch import Tensor, nn

from arnas.attacks.eval_mode import frozen_eval
from arnas.attacks.fab import fab_batch
from arnas.attacks.oracle import AttackOutput, Oracle
from arnas.attacks.threat import Threat

NORMS = ("linf", "l2", "l1")
ORDERS = {"linf": math.inf, "l2": 2.0, "l1": 1.0}
SIDE, CLASSES = 4, 5
for_all_norms = pytest.mark.parametrize("norm", NORMS)
for_targets = pytest.mark.parametrize("targeted", [False, True])


def linear_net(classes: int = CLASSES, dtype: torch.dtype = torch.float64) -> nn.Sequential:
    """Return logits linear in an image, the classes centred on grey."""
    draw = torch.Generator().manual_seed(5)
    net = nn.Sequential(nn.Flatten(), nn.Linear(SIDE**2, classes)).to(dtype)
    with torch.no_grad():
        net[1].weight.copy_(torch.randn(classes, SIDE**2, generator=draw))
        net[1].bias.copy_(-0.5 * net[1].weight.sum(1))
    return net


def grey_images(count: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Return images whose surroundings lie inside the box."""
    draw = torch.Generator().manual_seed(1)
    return 0.45 + 0.1 * torch.rand(count, 1, SIDE, SIDE, generator=draw, dtype=dtype)


def run(
    net: nn.Module,
    x: Tensor,
    labels: Tensor,
    threat: Threat,
    batch_size: int = 64,
    **options: object,
) -> tuple[AttackOutput, Oracle]:
    with frozen_eval(net):
        oracle = Oracle(net, batch_size)
        return fab_batch(oracle, x, labels, threat, **options), oracle


def labels_of(net: nn.Module, x: Tensor, targeted: bool, likely: int = 2) -> Tensor:
    """Return the labels that `fab_batch` takes, the net's own classes being the true ones."""
    with frozen_eval(net), torch.no_grad():
        order = net(x).sort(dim=1).indices
    return order[:, [-1, -likely]] if targeted else order[:, -1]


def shortest(point: Tensor, normal: Tensor, value: float, norm: str) -> float:
    """Return the least length by a general solver; infinite where the plane is out of reach."""
    t, w = point.numpy(), normal.numpy()
    bounds = list(zip(-t, 1 - t, strict=True))
    if norm == "l2":
        start = np.zeros_like(t)
        plane = {"type": "eq", "fun": lambda d: w @ d + value, "jac": lambda d: w}
        found = minimize(
            lambda d: d @ d,
            start,
            jac=lambda d: 2 * d,
            bounds=bounds,
            constraints=plane,
            method="SLSQP",
            options={"ftol": 1e-15, "maxiter": 500},
        )
        return float(np.sqrt(found.fun)) if found.success else math.inf
    identity = np.eye(len(t))
    size = np.ones((len(t), 1)) if norm == "linf" else identity
    # Minimise the sum of the sizes, which bound the change from above and below.
    found = linprog(
        np.r_[np.zeros(len(t)), np.ones(size.shape[1])],
        A_ub=np.r_[np.c_[identity, -size], np.c_[-identity, -size]],
        b_ub=np.zeros(2 * len(t)),
        A_eq=np.r_[w, np.zeros(size.shape[1])][None],
        b_eq=[-value],
        bounds=bounds + [(0, None)] * size.shape[1],
    )
    return float(found.fun) if found.status == 0 else math.inf
