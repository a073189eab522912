"""Small networks whose robustness is known from outside: by a bound, or exactly for every image.

Nothing here uses the package under test but its seeds. ``lead`` of an image is the largest
difference between another class's logit and the true one's in the ball and the box: the image is
robust where it is negative. It is given

* for a linear model in closed form, since each class's difference is linear in the image;
* for a small ReLU network by mixed-integer linear programming (Tjeng et al., arXiv 1711.07356),
  from both sides: a bound that no point of the ball exceeds, and a point that reaches it. The L2
  ball is cut out of a box by tangent planes, until a point of it breaks the image or none can;
* for a convolutional network trained for it as an upper bound by interval bound propagation
  (Gowal et al., arXiv 1810.12715).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import Bounds, LinearConstraint, milp
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from arnas.runtime.seeds import make_generator, seeded

ORDERS = {"linf": float("inf"), "l2": 2.0, "l1": 1.0}
DUALS = {"linf": 1.0, "l2": 2.0, "l1": float("inf")}
CUTS = 60
"""Most tangent planes of the L2 ball at one image and class."""
SOLVED = 1e-5
"""Error of the solver, whose constraints hold to 1e-6 or so."""


class Lead(NamedTuple):
    """Bounds of an image's lead."""

    least: float
    """A point of the ball and the box reaches it: the network itself says so."""
    most: float
    """No point exceeds it."""


class Pictures(NamedTuple):
    """Images, float64 of shape (N, 1, side, side) in [0, 1], and labels."""

    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor


def small_digits() -> Pictures:
    """Return four digits that are easily taken for each other, at 4 pixels a side."""
    return pictures((3, 5, 8, 9), side=4)


@cache
def pictures(classes: tuple[int, ...], side: int = 8) -> Pictures:
    """Return the digits of some classes, numbered in their order, at 8 or 4 pixels a side."""
    found = load_digits()
    kept = np.isin(found.target, classes)
    x = torch.from_numpy(found.images[kept]).double()[:, None] / 16
    y = torch.from_numpy(np.searchsorted(classes, found.target[kept])).long()
    order = torch.randperm(len(y), generator=make_generator("certified", classes))
    x, y = F.avg_pool2d(x, 8 // side)[order], y[order]
    tested = len(y) // 5
    return Pictures(x[tested:], y[tested:], x[:tested], y[:tested])


@cache
def clusters(classes: int = 4, shape: tuple[int, int, int] = (1, 2, 3)) -> Pictures:
    """Return made-up images of few pixels, each near its class's centre, two centres to a class."""
    draws = make_generator("clusters", classes, shape)
    centres = 0.15 + 0.7 * torch.rand(2, classes, *shape, generator=draws, dtype=torch.float64)
    y = torch.arange(600) % classes
    noise = 0.08 * torch.randn(600, *shape, generator=draws, dtype=torch.float64)
    which = (torch.rand(600, generator=draws) > 0.5).long()
    x = (centres[which, y] + noise).clamp(0, 1)
    return Pictures(x[200:], y[200:], x[:200], y[:200])


# Linear models


def linear_net(classes: int, shape: tuple[int, int, int], seed: int) -> nn.Sequential:
    """Return a linear model with random weights, whose logits are all alike at a grey image."""
    draws = make_generator("linear net", classes, shape, seed)
    size = shape[0] * shape[1] * shape[2]
    weight = torch.randn(classes, size, generator=draws, dtype=torch.float64)
    net = nn.Sequential(nn.Flatten(), nn.Linear(size, classes).double())
    with torch.no_grad():
        net[1].weight.copy_(weight)
        net[1].bias.copy_(-weight.sum(1) / 2)
    return net


def largest_gain(slope: Tensor, x: Tensor, norm: str, epsilon: float) -> Tensor:
    """Return the maximum of slope.delta over the ball and the box, of shape (...), from (..., D).

    Every coordinate goes the way of its slope, within its room. For linf it goes as far as it may;
    for L1 the budget buys the steepest first (a knapsack of parts); for L2 a coordinate goes in
    proportion to its slope until its room ends, with the factor that uses up the budget.
    """
    room = torch.where(slope > 0, 1 - x, x)
    steep = slope.abs()
    if norm == "linf":
        return (steep * room.clamp_max(epsilon)).sum(-1)
    if norm == "l1":
        steep, order = steep.sort(dim=-1, descending=True)
        room = room.gather(-1, order)
        left = (epsilon - (room.cumsum(-1) - room)).clamp_min(0)
        return (steep * torch.minimum(room, left)).sum(-1)
    # The factors at which coordinates come to their ends, rising, and the length reached there.
    ends, order = (room / steep).sort(dim=-1)
    room, steep = room.gather(-1, order), steep.gather(-1, order)
    used = room.square().cumsum(-1)
    free = steep.square().flip(-1).cumsum(-1).flip(-1)
    before = used - room.square()
    factor = ((epsilon**2 - before).clamp_min(0) / free).sqrt()
    # The first coordinate that the budget does not bring to its end, and with it all later ones.
    short = (factor < ends) & (steep > 0)
    first = short.int().argmax(-1, keepdim=True)
    common = torch.where(short.any(-1, keepdim=True), factor.gather(-1, first), torch.inf)
    moved = torch.where(steep > 0, torch.minimum(common * steep, room), 0.0)
    return (steep * moved).sum(-1)


def linear_lead(net: nn.Sequential, x: Tensor, y: Tensor, norm: str, epsilon: float) -> Tensor:
    """Return the exact lead of each image, float64 of shape (N,), of a linear model."""
    weight, bias = net[1].weight.detach(), net[1].bias.detach()
    slope, image = (
        weight[None] - weight[y][:, None],
        x.flatten(1)[:, None].expand(-1, len(bias), -1),
    )
    gaps = (slope * image).sum(2) + bias[None] - bias[y][:, None]
    leads = gaps + largest_gain(slope, image, norm, epsilon)
    return leads.scatter(1, y[:, None], -torch.inf).amax(1)


# Bounds of any small network


def interval(
    net: nn.Sequential, x: Tensor, norm: str, epsilon: float
) -> list[tuple[Tensor, Tensor]]:
    """Return lower and upper bounds of the output of each layer, over the ball and the box.

    The box of linf, which holds the other balls too, goes through every layer; the first affine
    layer's outputs also move by no more than epsilon times the dual norm of their weights.
    """
    low, high = (x - epsilon).clamp_min(0), (x + epsilon).clamp_max(1)
    bounds, first = [], True
    for layer in net:
        if isinstance(layer, nn.Linear | nn.Conv2d):
            middle, radius = (low + high) / 2, (high - low) / 2
            centre, reach = layer(middle), _spread(layer, radius)
            low, high = centre - reach, centre + reach
            if first:
                rows = layer.weight.flatten(1)
                slack = epsilon * torch.linalg.vector_norm(rows, DUALS[norm], dim=1)
                slack = slack.view(-1, *[1] * (low.ndim - 2))
                exact = layer(x.flatten(1) if isinstance(layer, nn.Linear) else x)
                low, high = torch.maximum(low, exact - slack), torch.minimum(high, exact + slack)
            first = False
        else:
            assert isinstance(layer, nn.ReLU | nn.Flatten), "monotone, coordinate by coordinate"
            low, high = layer(low), layer(high)
        bounds.append((low, high))
    return bounds


def _spread(layer: nn.Linear | nn.Conv2d, radius: Tensor) -> Tensor:
    """Return how far outputs of an affine layer can move when its inputs move by `radius`."""
    if isinstance(layer, nn.Linear):
        return F.linear(radius, layer.weight.abs())
    return F.conv2d(radius, layer.weight.abs(), None, layer.stride, layer.padding)


def interval_lead(net: nn.Sequential, x: Tensor, y: Tensor, norm: str, epsilon: float) -> Tensor:
    """Return an upper bound of each image's lead, of shape (N,).

    The last layer is taken together with the difference of two classes, which is tighter than the
    difference of their bounds.
    """
    low, high = interval(net[:-1], x, norm, epsilon)[-1]
    weight, bias = net[-1].weight, net[-1].bias
    slope = weight[None] - weight[y][:, None]
    middle, radius = ((high + low) / 2)[:, :, None], ((high - low) / 2)[:, :, None]
    gaps = (slope @ middle + slope.abs() @ radius).squeeze(2) + bias[None] - bias[y][:, None]
    return gaps.scatter(1, y[:, None], -torch.inf).amax(1)


# Exact answers for small ReLU networks


class _Programme(NamedTuple):
    """Variables: image, then for each hidden layer its outputs and whether each is on, then (L1)
    the sizes of the changes. `rows` @ variables <= `limits`."""

    rows: np.ndarray
    limits: np.ndarray
    low: np.ndarray
    high: np.ndarray
    whole: np.ndarray
    last: slice
    """The outputs of the last hidden layer."""


def _programme(net: nn.Sequential, x: Tensor, norm: str, epsilon: float) -> _Programme:
    """Return the constraints that tie a network of Linear and ReLU to the points of a ball."""
    size, layers = x.numel(), [layer for layer in net if isinstance(layer, nn.Linear)][:-1]
    reached = interval(net, x[None], norm, epsilon)
    before = [reached[i] for i, layer in enumerate(net) if isinstance(layer, nn.Linear)]
    total = size + 2 * sum(layer.out_features for layer in layers) + size * (norm == "l1")
    low, high, whole = np.zeros(total), np.full(total, np.inf), np.zeros(total)
    image = x.flatten().numpy()
    low[:size], high[:size] = np.maximum(image - epsilon, 0), np.minimum(image + epsilon, 1)
    rows, limits, source, at = [], [], slice(0, size), size
    for layer, bound in zip(layers, before, strict=False):
        weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
        bottom, top = (value.detach().flatten().numpy() for value in bound)
        outputs = slice(at, at + len(bias))
        for i in range(len(bias)):
            out, on = at + i, at + len(bias) + i
            low[on], high[on], whole[on] = bottom[i] >= 0, top[i] > 0, 1
            high[out] = max(top[i], 0)
            least, most = np.zeros((3, total)), max(top[i], 0.0)
            # out >= inner; out <= inner - bottom (1 - on); out <= top on
            least[0, source], least[0, out] = weight[i], -1
            least[1, source], least[1, out], least[1, on] = -weight[i], 1, -min(bottom[i], 0.0)
            least[2, out], least[2, on] = 1, -most
            rows.append(least)
            limits += [-bias[i], bias[i] - min(bottom[i], 0.0), 0.0]
        source, at = outputs, at + 2 * len(bias)
    if norm == "l1":
        for sign in (1, -1):
            change = np.zeros((size, total))
            change[:, :size], change[:, at:] = sign * np.eye(size), -np.eye(size)
            rows.append(change)
            limits += list(sign * image)
        sizes = np.zeros((1, total))
        sizes[0, at:] = 1
        rows.append(sizes)
        limits.append(epsilon)
    return _Programme(np.concatenate(rows), np.array(limits), low, high, whole, source)


def exact_lead(net: nn.Sequential, x: Tensor, y: int, norm: str, epsilon: float) -> Lead:
    """Return the lead of one image, of shape (C, H, W), of a network of Linear and ReLU in float64.

    Both bounds agree but for the solver's error, save in L2, where the search ends as soon as the
    sign of the lead is known.
    """
    found = Lead(-np.inf, -np.inf)
    programme = _programme(net, x, norm, epsilon)
    weight, bias = net[-1].weight.detach().numpy(), net[-1].bias.detach().numpy()
    for rival in range(len(bias)):
        if rival != y:
            slope, offset = weight[rival] - weight[y], float(bias[rival] - bias[y])
            lead = _rival_lead(net, x, (y, rival), norm, epsilon, programme, slope, offset)
            found = Lead(max(found.least, lead.least), max(found.most, lead.most))
    return found


def _rival_lead(
    net: nn.Sequential,
    x: Tensor,
    pair: tuple[int, int],
    norm: str,
    epsilon: float,
    programme: _Programme,
    slope: np.ndarray,
    offset: float,
) -> Lead:
    """Return the same for one other class."""
    rows, limits = programme.rows, programme.limits
    goal, image, least = np.zeros(len(programme.low)), x.flatten().numpy(), -np.inf
    goal[programme.last] = -slope
    for _ in range(CUTS if norm == "l2" else 1):
        solved = milp(
            goal,
            constraints=LinearConstraint(rows, ub=limits),
            bounds=Bounds(programme.low, programme.high),
            integrality=programme.whole,
            options={"mip_rel_gap": 1e-7},
        )
        assert solved.success, solved.message
        most = offset - float(solved.mip_dual_bound) + SOLVED
        change = np.clip(solved.x[: len(image)], 0, 1) - image
        length = float(np.linalg.norm(change, ORDERS[norm]))
        point = torch.from_numpy(image + change * min(1.0, epsilon / max(length, 1e-12)))
        with torch.no_grad():
            logits = net(point.view(1, *x.shape))[0]
        least = max(least, float(logits[pair[1]] - logits[pair[0]]))
        if most < 0 or least > 0:
            break
        tangent = np.zeros((1, len(goal)))
        tangent[0, : len(image)] = change / max(length, 1e-12)
        rows = np.concatenate([rows, tangent])
        limits = np.append(limits, epsilon + float(tangent[0, : len(image)] @ image))
    return Lead(least, most)


# Training


@cache
def relu_net(data: Callable[[], Pictures], hidden: tuple[int, ...]) -> nn.Sequential:
    """Return a ReLU network in float64 trained on some images, with layers of so many units."""
    pictures = data()
    classes = int(pictures.train_y.max()) + 1
    with seeded("certified", "relu", data.__name__, hidden):
        widths = (pictures.train_x[0].numel(), *hidden)
        body: list[nn.Module] = [nn.Flatten()]
        for before, after in zip(widths, hidden, strict=False):
            body += [nn.Linear(before, after), nn.ReLU()]
        net = nn.Sequential(*body, nn.Linear(widths[-1], classes)).double()
        _fit(net, pictures, epochs=60, epsilon=0.0)
    return net


@cache
def bounded_net(epsilon: float = 0.1) -> nn.Sequential:
    """Return a convolutional network in float64 trained on its interval bounds in linf."""
    with seeded("certified", "bounded", epsilon):
        net = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(128, 10),
        ).double()
        _fit(net, pictures(tuple(range(10))), epochs=10, epsilon=epsilon)
    return net


def _fit(net: nn.Sequential, data: Pictures, epochs: int, epsilon: float) -> None:
    """Train by Adam; with an epsilon, half of the loss is that of the worst logits in bounds."""
    optimizer = torch.optim.Adam(net.parameters(), lr=5e-3)
    for epoch in range(epochs):
        radius = epsilon * min(1.0, (epoch + 1) / (0.6 * epochs))
        for part in torch.randperm(len(data.train_y)).split(64):
            x, y = data.train_x[part], data.train_y[part]
            loss = F.cross_entropy(net(x), y)
            if epsilon:
                low, high = interval(net, x, "linf", radius)[-1]
                own = F.one_hot(y, low.shape[1]).bool()
                loss = (loss + F.cross_entropy(torch.where(own, low, high), y)) / 2
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    net.zero_grad(set_to_none=True)
    net.eval()
