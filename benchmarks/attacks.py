"""Rows of the attacks: PGD, AutoAttack, and what each attack adds to its passes."""

from __future__ import annotations

import copy
import functools
import logging
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

import arnas
from arnas import Threat
from arnas.attacks.eval_mode import frozen_eval
from arnas.evaluation.result import robust_images
from arnas.models.opaque import Opaque
from benchmarks.timing import (
    Case,
    Measurement,
    UnavailableError,
    difference,
    input_gradient,
    interleaved,
)
from benchmarks.workloads import arnas_pair, budget, conv_net, digits, flat_net, trained

EPSILON, STEP = 8 / 255, 2 / 255


def _pgd(model: nn.Module, peer: nn.Module, images: int, rounds: int) -> Measurement:
    """Time PGD-20 by both on networks with the same weights."""
    import torchattacks

    x, y = digits(images, 32, 3)

    def bare() -> None:
        with frozen_eval(model):
            for _ in range(20):
                input_gradient(model, x, y)

    threat = Threat("linf", EPSILON)
    ours = partial(arnas.pgd, model, x, y, threat, steps=20, step_size=STEP)
    theirs = partial(torchattacks.PGD(peer, eps=EPSILON, alpha=STEP, steps=20), x, y)
    timing = interleaved(ours, theirs, bare, rounds=rounds)
    return Measurement(*timing, _pgd_agreement(model, peer, x[:8], y[:8]))


def _pgd_agreement(model: nn.Module, peer: nn.Module, x: Tensor, y: Tensor) -> dict[str, float]:
    """Compare logits, input gradients and what five steps from the images arrive at.

    A long L2 step shows the gradient that `arnas.pgd` follows, whatever engine computes it.
    """
    import torchattacks

    model, peer = (copy.deepcopy(one).double().eval() for one in (model, peer))
    x = x.double()
    how = {"random_start": False, "keep": "last"}
    far = {"steps": 1, "step_size": 1e3, "clip": False}
    moved = arnas.pgd(model, x, y, Threat("l2", 1e4), **far, **how) - x
    slope = input_gradient(peer, x, y)
    lengths = (one.flatten(1).norm(dim=1).view(-1, 1, 1, 1) for one in (moved, slope))
    unit, expected = (one / length for one, length in zip((moved, slope), lengths, strict=True))
    with torch.no_grad():
        logits = difference(model(x), peer(x))
    five = arnas.pgd(model, x, y, Threat("linf", EPSILON), steps=5, step_size=STEP, **how)
    attack = torchattacks.PGD(peer, eps=EPSILON, alpha=STEP, steps=5, random_start=False)
    return {
        "logits": logits,
        "input gradient": difference(unit, expected),
        "examples": float((five - attack(x, y)).abs().max()) / EPSILON,
    }


def _pgd_cnn(norm: bool) -> Measurement:
    torch.manual_seed(0)
    model = conv_net(norm, 3, (32, 64, 64))
    model.train()(torch.rand(64, 3, 32, 32))  # running statistics of their own
    return _pgd(model.eval(), model, images=64, rounds=7)


def _pgd_arnas() -> Measurement:
    return _pgd(*arnas_pair(cells=8), images=16, rounds=3)


def _pgd_compiled() -> Measurement:
    """Measure the same where the process's settings make the package compile its networks."""
    from torch._dynamo.utils import counters

    model, _ = arnas_pair(cells=8)
    arnas.pgd(model, *digits(16, 32, 3), Threat("linf", EPSILON), steps=1)
    if not counters["stats"]["unique_graphs"]:
        raise UnavailableError("arnas.pgd compiles nothing")
    return _pgd_arnas()


ON_ARNAS = "PGD-20, ARNAS network of 16 channels and 8 cells, 32x32 pixels"
RELEASED = "torchattacks on the plain network"
PGD = [
    Case("PGD-20, CNN with batch norm", "torchattacks", 0.60, partial(_pgd_cnn, True)),
    Case("PGD-20, CNN without batch norm", "torchattacks", 0.85, partial(_pgd_cnn, False)),
    Case(ON_ARNAS, RELEASED, 0.50, _pgd_arnas),
]
COMPILED = [Case(f"{ON_ARNAS}, compiled", RELEASED, 0.40, _pgd_compiled)]


class Victim(NamedTuple):
    """A trained network and images that it has not seen."""

    model: nn.Module
    x: Tensor
    y: Tensor


@functools.cache
def _victim(name: str) -> Victim:
    """Return a network by name, with a hundred images."""
    make: Callable[[], nn.Module]
    channels, size, make = {
        "norm": (1, 12, partial(conv_net, True, 1, (16, 32, 32))),
        "mnist": (1, 28, partial(flat_net, 1, 28)),
        "cifar": (3, 32, partial(flat_net, 3, 32)),
    }[name]
    torch.manual_seed(0)
    return Victim(trained(make(), size, channels), *digits(100, size, channels))


def _autoattack(name: str, share: float, images: int, rounds: int = 3) -> Measurement:
    """Time AutoAttack by both and count; `share` of the images are robust to PGD, fewer to it."""
    from pyautoattack import AutoAttack

    logging.getLogger("auto-attack").setLevel(logging.WARNING)
    model, x, y = _victim(name)
    x, y = x[:images], y[:images]
    threat = Threat("linf", budget(model, x, y, share))
    counts: tuple[list[int], list[int]] = ([], [])

    def ours() -> None:
        result = arnas.evaluate(model, x, y, threat, seed=len(counts[0]))
        counts[0].append(int(robust_images(result.outcomes).sum()))

    def theirs() -> None:
        seed = len(counts[1])
        attack = AutoAttack(model, norm="Linf", eps=threat.epsilon, seed=seed, version="standard")
        x_adv, _ = attack.run_standard_evaluation(x, y, batch_size=len(x))
        with torch.no_grad():
            counts[1].append(int((model(x_adv).argmax(1) == y).sum()))

    timing = interleaved(ours, theirs, rounds=rounds, warm=False)
    return Measurement(*timing, {"robust": counts, "images": images})


AUTOATTACK = [
    Case(
        f"AutoAttack standard by arnas.evaluate with its checks, {net}, {share} robust",
        "pyautoattack",
        target,
        measure,
    )
    for net, share, target, measure in (
        ("CNN with batch norm", "about 41 %", 0.55, partial(_autoattack, "norm", 0.50, 100)),
        ("MNIST-size CNN", "about 75 %", 0.65, partial(_autoattack, "mnist", 0.77, 60)),
        ("CIFAR-shape CNN", "about 50 %", 0.45, partial(_autoattack, "cifar", 0.57, 50)),
        ("CIFAR-shape CNN", "about 3 %", 0.30, partial(_autoattack, "cifar", 0.11, 100)),
    )
]


def _overhead(attack: Callable[..., Tensor], targeted: bool = False) -> Measurement:
    """Time an attack on a model that no engine can look into against its passes alone."""
    net, x, y = _victim("cifar")
    threat = Threat("linf", budget(net, x, y, 0.7))
    passes: list[tuple[int, bool]] = []

    def recorded(images: Tensor) -> Tensor:
        passes.append((len(images), images.requires_grad))
        return net(images)

    def bare() -> None:
        with torch.no_grad():
            for count, gradient in done:
                if gradient:
                    with torch.enable_grad():
                        input_gradient(net, x[:count], y[:count])
                else:
                    net(x[:count])

    targets = {"targets": (y + 1) % 10} if targeted else {}
    with frozen_eval(net):
        ours = partial(attack, Opaque(recorded), x, y, threat, **targets)
        ours()
        done = tuple(passes)
        ratios, _ = interleaved(ours, bare, rounds=3)
    return Measurement(ratios, ratios, {})


OVERHEAD = [
    Case(f"{name}, overhead", "its own bare passes", target, measure)
    for name, target, measure in (
        ("APGD", 1.10, partial(_overhead, arnas.apgd)),
        ("FAB", 1.25, partial(_overhead, arnas.fab, targeted=True)),
        ("Square", 1.25, partial(_overhead, partial(arnas.square, queries=1000))),
    )
]
