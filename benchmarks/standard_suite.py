"""Time and strength of the standard suite's attacks against the reference package, in one run.

    python benchmarks/standard_suite.py [--images 100] [--size 8] [--epsilon 0.1] [--rounds 3]

Each attack of the suite and its counterpart in pyautoattack take turns on the same images of a
small network that is trained here adversarially; every round has another seed. Beside each ratio
of CPU times of one thread stand the robust counts that both leave, each after the ones before it.
That their steps agree in float64 is tested in tests/attacks/test_*_parity.py.
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
from pyautoattack import AutoAttack
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parents[1]))

from arnas.attacks.eval_mode import frozen_eval
from arnas.attacks.pgd import pgd
from arnas.attacks.suites import build_suite
from arnas.attacks.threat import Threat
from arnas.evaluation.result import ROBUST
from arnas.evaluation.runner import SuiteRun, SuiteState

PEERS = {"apgd_ce": "apgd-ce", "apgd_t": "apgd-t", "fab_t": "fab-t", "square": "square"}
NORMS = {"linf": "Linf", "l2": "L2", "l1": "L1"}


def images(size: int) -> tuple[Tensor, Tensor]:
    """Return the digits, enlarged to `size` pixels."""
    found = load_digits()
    x = torch.from_numpy(found.images).float()[:, None] / 16
    return F.interpolate(x, size, mode="bilinear"), torch.from_numpy(found.target).long()


def trained(x: Tensor, y: Tensor, threat: Threat, epochs: int) -> nn.Module:
    """Return a small network after adversarial training, which plain training begins."""
    torch.manual_seed(0)
    width = x.shape[-1] // 4
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1, stride=2), nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1, stride=2), nn.ReLU(),
        nn.Flatten(), nn.Linear(32 * width * width, 10),
    )  # fmt: skip
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-3)
    for epoch in range(epochs):
        for batch in torch.randperm(len(x)).split(64):
            image = x[batch]
            if epoch >= 3:
                image = pgd(model, image, y[batch], threat, steps=5, keep="last")
            optimiser.zero_grad()
            F.cross_entropy(model(image), y[batch]).backward()
            optimiser.step()
    return model.eval()


def timed(work: Callable[..., Tensor], *arguments: object) -> tuple[float, Tensor]:
    """Return the CPU time of some work and what it returned."""
    start = time.process_time()
    found = work(*arguments)
    return time.process_time() - start, found


def ours(
    model: nn.Module, x: Tensor, y: Tensor, threat: Threat, name: str, seed: int, batch: int
) -> Tensor:
    """Return which images are robust to one attack of ours."""
    suite = build_suite(name, threat.norm, 10)
    state = SuiteState()
    SuiteRun(model, x, y, torch.arange(len(y)), threat, suite, seed, batch).finish(state)
    return state.tensors[name] == ROBUST


def theirs(
    model: nn.Module, x: Tensor, y: Tensor, threat: Threat, name: str, seed: int, batch: int
) -> Tensor:
    """Return which images are robust to its counterpart."""
    adversary = AutoAttack(
        model, norm=NORMS[threat.norm], eps=threat.epsilon, seed=seed, version="standard"
    )
    adversary.attacks_to_run = [PEERS[name]]
    with frozen_eval(model):
        found, _ = adversary.run_standard_evaluation(x, y, batch_size=batch)
        with torch.no_grad():
            return model(found).argmax(1) == y


def main() -> None:
    """Train the network, let the attacks take turns and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (
        ("images", 100),
        ("size", 8),
        ("batch", 128),
        ("rounds", 3),
        ("epochs", 12),
    ):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--norm", default="linf", choices=NORMS)
    parser.add_argument("--epsilon", type=float, default=0.1)
    wanted = parser.parse_args()
    torch.set_num_threads(1)
    threat = Threat(wanted.norm, wanted.epsilon)
    x, y = images(wanted.size)
    model = trained(x[:-400], y[:-400], threat, wanted.epochs)
    x, y = x[-wanted.images :], y[-wanted.images :]
    with torch.no_grad():
        right = model(x).argmax(1) == y
    what = f"{wanted.images} digits of {wanted.size}x{wanted.size}, {int(right.sum())} correct"
    print(f"{what}, {threat}")
    print(f"torch {torch.__version__}, one thread, load {os.getloadavg()[0]:.1f}")
    left = [(right, right)] * wanted.rounds
    for name, peer in PEERS.items():
        ratios = []
        for seed, (own, other) in enumerate(left):
            rest = (threat, name, seed, wanted.batch)
            mine, own_left = timed(ours, model, x[own], y[own], *rest)
            reference, other_left = timed(theirs, model, x[other], y[other], *rest)
            after = own.clone(), other.clone()
            after[0][own], after[1][other] = own_left, other_left
            left[seed] = after
            ratios.append(mine / reference)
        counts = ", ".join(f"{int(a.sum())} and {int(b.sum())}" for a, b in left)
        spread = f"({min(ratios):.2f} to {max(ratios):.2f})"
        print(f"{name}: {statistics.median(ratios):.2f} {spread} of {peer}; left {counts}")


if __name__ == "__main__":
    main()
