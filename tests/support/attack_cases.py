"""Small networks, images and measures that the tests of gradient attacks share."""

import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from arnas.attacks.oracle import Numbers, RandomStreams
from arnas.attacks.threat import Threat

NORMS = ("linf", "l2")
TOLERANCE = 1e-6
Attack = Callable[..., Tensor]
for_both_norms = pytest.mark.parametrize("norm", NORMS)


def small_net(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    """Return a network with everything an attack could disturb, its statistics away from 0, 1."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        net = nn.Sequential(
            nn.Conv2d(1, 4, 3),
            nn.BatchNorm2d(4),
            nn.Tanh(),
            nn.Sequential(nn.Dropout(0.5), nn.Flatten(), nn.Linear(64, 3)),
        )
        net(torch.rand(32, 1, 6, 6))
    return net.to(dtype)


def fixed(noise: Tensor, blocks: Numbers | None = None) -> RandomStreams:
    """Return streams that hand out the given numbers, whatever their distribution."""
    return RandomStreams(lambda shape: noise, lambda shape: noise, blocks)


class Sine(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(x)


def rugged_net() -> nn.Sequential:
    """Return a network whose loss rises and falls many times within a ball.

    Its logits lie close together, so that a wrong iterate may have a lower loss than a right one.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Flatten(), nn.Linear(36, 16), Sine(), nn.Linear(16, 10)).double()
    net[1].weight.data.mul_(150)
    net[3].weight.data.mul_(0.05)
    return net


def digits() -> tuple[Tensor, Tensor]:
    """Return scikit-learn's digits, float32 of shape (1797, 1, 8, 8) in [0, 1], and labels."""
    pixels, classes = load_digits(return_X_y=True)
    return torch.tensor(pixels).float().view(-1, 1, 8, 8) / 16, torch.tensor(classes).long()


def images(count: int = 6, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    """Return 6x6 images of which about a third of the pixels lie on the faces of the box."""
    unit = torch.rand(count, 1, 6, 6, generator=torch.Generator().manual_seed(seed)).to(dtype)
    return (1.5 * unit - 0.25).clamp(0, 1)


def labels(count: int = 6) -> Tensor:
    return torch.arange(count) % 3


def distance(x_adv: Tensor, x: Tensor, norm: str) -> Tensor:
    """Return each image's perturbation in `norm`, in double precision."""
    delta = (x_adv.double() - x.double()).flatten(1)
    return torch.linalg.vector_norm(delta, {"linf": torch.inf, "l2": 2, "l1": 1}[norm], dim=1)


def state_of(net: nn.Module) -> dict[str, object]:
    """Return all that an attack must leave alone."""

    def frozen(tensor: Tensor | None) -> bytes | None:
        return None if tensor is None else tensor.detach().numpy().tobytes()

    return {
        "modes": [m.training for m in net.modules()],
        "hooks": [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in net.modules()],
        "tracking": [getattr(m, "track_running_stats", None) for m in net.modules()],
        "values": {name: frozen(value) for name, value in net.state_dict().items()},
        "gradients": {name: frozen(value.grad) for name, value in net.named_parameters()},
        "requires_grad": {name: value.requires_grad for name, value in net.named_parameters()},
    }


def world() -> list[object]:
    """Return global state: random numbers of three libraries, and what torch is set to."""
    name, keys, *rest = np.random.get_state()
    return [
        torch.get_rng_state().numpy().tobytes(),
        random.getstate(),
        (name, keys.tobytes(), rest),
        torch.is_grad_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.get_num_threads(),
        torch.get_default_dtype(),
        torch.are_deterministic_algorithms_enabled(),
        torch.backends.mkldnn.matmul.fp32_precision,
        torch.backends.mkldnn.conv.fp32_precision,
    ]


def is_broken(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    with torch.no_grad():
        return net(x).argmax(1) != y


def strength(net: nn.Module, x: Tensor, y: Tensor) -> list[tuple[bool, float]]:
    """Return for each image whether it is misclassified, then its loss: the order of `best`."""
    with torch.no_grad():
        logits = net(x)
    losses = F.cross_entropy(logits, y, reduction="none")
    return list(zip((logits.argmax(1) != y).tolist(), losses.tolist(), strict=True))


def linear_net(classes: int, pixels: int = 36, seed: int = 0, bias: float = 0.0) -> nn.Sequential:
    """Return logits linear in an image, in double precision."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(pixels, classes)).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        net[1].weight.copy_(torch.randn(classes, pixels, generator=generator))
        net[1].bias.copy_(torch.randn(classes, generator=generator) * bias)
    return net


def plain_pgd(
    net: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    start: Tensor,
    steps: int,
    size: float,
    decay: float = 0.0,
) -> Tensor:
    """Run PGD as the papers write it: on images rather than perturbations, one at a time.

    With momentum (`decay`) gradients are scaled to equal L1 norms and summed.
    """
    result = []
    for image, label, first in zip(x, y, x + start, strict=True):
        point, velocity = first, torch.zeros_like(image)
        for _ in range(steps):
            point = point.clone().requires_grad_()
            loss = -torch.log_softmax(net(point[None]), dim=1)[0, label]
            (slope,) = torch.autograd.grad(loss, point)
            velocity = decay * velocity + slope / slope.abs().sum()
            if threat.norm == "linf":
                moved = (point + size * velocity.sign()).detach()
                point = moved.clamp(image - threat.epsilon, image + threat.epsilon).clamp(0, 1)
            else:
                step = velocity / velocity.square().sum().sqrt()
                away = (point + size * step - image).detach()
                short = min(1.0, threat.epsilon / away.square().sum().sqrt().item())
                point = (image + away * short).clamp(0, 1)
        result.append(point)
    return torch.stack(result)
