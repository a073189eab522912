"""Time of PGD on the folded copy of a network against PGD on the network itself, in the same run.

    python benchmarks/folding.py [--model arnas] [--channels 16] [--cells 5] [--size 8]

The two take turns; each ratio is the median over the rounds of the CPU time of one thread. The
agreement of logits and input gradients in float64 stands beside it.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from arnas.attacks.folding import folded
from arnas.attacks.objectives import cross_entropy
from arnas.attacks.pgd import input_gradient, pgd
from arnas.attacks.threat import Threat
from arnas.models.registry import MODELS, build_model


def seconds(model: nn.Module, x: Tensor, y: Tensor, steps: int) -> float:
    """Return the CPU time of PGD."""
    start = time.process_time()
    pgd(model, x, y, Threat("linf", 8 / 255), steps=steps, keep="last")
    return time.process_time() - start


def agreement(model: nn.Module, x: Tensor, y: Tensor) -> tuple[float, float]:
    """Return the largest relative difference of logits and input gradients in float64."""
    results = []
    for network in (folded(model.double()), model.double()):
        gradient, _, logits = input_gradient(network, x.double(), y, cross_entropy)
        results.append((logits, gradient))
    model.float()
    pairs = zip(*results, strict=True)
    logits, gradient = (float((a - b).abs().max() / b.abs().max()) for a, b in pairs)
    return logits, gradient


def main() -> None:
    """Build the network, check the copy and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="arnas", choices=MODELS)
    for name, default in (("channels", 16), ("cells", 5), ("size", 8), ("batch", 256)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=7)
    wanted = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    cells = {"cells": wanted.cells} if MODELS[wanted.model].cells else {}
    model = build_model(
        wanted.model,
        num_classes=10,
        image_size=wanted.size,
        in_channels=3,
        channels=wanted.channels,
        **cells,
    )
    x = torch.rand(wanted.batch, 3, wanted.size, wanted.size)
    y = torch.randint(0, 10, (wanted.batch,))
    model.train()(x)  # running statistics of their own
    model.eval()
    logits, gradient = agreement(model, x[:4], y[:4])
    print(f"{wanted.model}, {wanted.channels} channels, {wanted.batch} images of")
    print(f"{wanted.size}x{wanted.size}, torch {torch.__version__}, load {os.getloadavg()[0]:.1f}")
    print(f"float64 agreement: logits {logits:.1e}, input gradient {gradient:.1e}")
    copy = folded(model)
    ratios = []
    for number in range(wanted.rounds + 1):
        ours = seconds(copy, x, y, wanted.steps)
        theirs = seconds(model, x, y, wanted.steps)
        if number:
            ratios.append(ours / theirs)
    print(
        f"PGD on the folded copy: {statistics.median(ratios):.2f} of the network itself "
        f"({min(ratios):.2f} to {max(ratios):.2f})"
    )


if __name__ == "__main__":
    main()
