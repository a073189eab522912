"""Time of a supernet pass against the plain edge-by-edge supernet, in the same run.

    python benchmarks/supernet.py [--channels 8] [--cells 4] [--size 8] [--batch 32] [--rounds 5]

Both supernets have the same weights; they take turns, and each ratio is the median over the rounds
of the CPU time of one thread. The agreement of logits and gradients in float64 stands beside it.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests/search")]

from plain_supernet import PlainSupernet, copy_into  # noqa: E402

from arnas.attacks.eval_mode import frozen_eval  # noqa: E402
from arnas.search.supernet import Supernet  # noqa: E402
from arnas.spaces.options import SpaceOptions  # noqa: E402


def weight_pass(model: nn.Module, x: Tensor, y: Tensor) -> None:
    """Forward and full backward in training mode."""
    model.train()
    F.cross_entropy(model(x), y).backward()


def attack_pass(model: nn.Module, x: Tensor, y: Tensor) -> None:
    """Forward and input backward on batch statistics."""
    with frozen_eval(model, "batch"):
        x = x.clone().requires_grad_()
        torch.autograd.grad(F.cross_entropy(model(x), y), x)


def seconds(work: Callable[[], None]) -> float:
    """Return the CPU time of a call."""
    start = time.process_time()
    work()
    return time.process_time() - start


def agreement(batched: nn.Module, plain: nn.Module, x: Tensor, y: Tensor) -> tuple[float, float]:
    """Return the largest relative difference of logits and input gradients in float64."""
    results = []
    for model in (batched, plain):
        model.double().train()
        image = x.double().requires_grad_()
        logits = model(image)
        (gradient,) = torch.autograd.grad(F.cross_entropy(logits, y), image)
        results.append((logits.detach(), gradient))
        model.float()
    pairs = zip(*results, strict=True)
    logits, gradient = (float((a - b).abs().max() / b.abs().max()) for a, b in pairs)
    return logits, gradient


def main() -> None:
    """Build both supernets, check them and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("channels", 8), ("cells", 4), ("size", 8), ("batch", 32)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--rounds", type=int, default=5)
    wanted = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    sizes = {"num_classes": 10, "in_channels": 3}
    sizes |= {"channels": wanted.channels, "cells": wanted.cells}
    space = SpaceOptions()
    batched = Supernet(space, **sizes)
    plain = PlainSupernet(space.kinds, space.widths, **sizes)
    copy_into(batched, plain)
    x = torch.rand(wanted.batch, 3, wanted.size, wanted.size)
    y = torch.randint(0, 10, (wanted.batch,))
    logits, gradient = agreement(batched, plain, x[:4], y[:4])
    print(f"{wanted.channels} channels, {wanted.cells} cells, {wanted.batch} images of")
    print(f"{wanted.size}x{wanted.size}, torch {torch.__version__}, load {os.getloadavg()[0]:.1f}")
    print(f"float64 agreement: logits {logits:.1e}, input gradient {gradient:.1e}")
    for name, work in (("weight pass", weight_pass), ("attack pass", attack_pass)):
        ratios, times = [], []
        for number in range(wanted.rounds + 1):
            ours = seconds(lambda work=work: work(batched, x, y))
            theirs = seconds(lambda work=work: work(plain, x, y))
            if number:
                ratios.append(ours / theirs)
                times.append(1000 * ours)
        print(
            f"{name}: {statistics.median(ratios):.2f} of the plain supernet "
            f"({min(ratios):.2f} to {max(ratios):.2f}), {statistics.median(times):.0f} ms"
        )


if __name__ == "__main__":
    main()
