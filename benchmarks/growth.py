"""How time and memory grow with every size, one size at a time, as a table and a figure.

    python benchmarks/growth.py [--rounds 3]

Measured is PGD on ARNAS's network, by the CPU time of one thread and the peak memory beyond what
the process had before; then a weight step of the search and a training step at the size of the
preset `cifar10`, for three batches. Writes `benchmarks/results/growth.json` and `growth.svg`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import arnas  # noqa: E402
from arnas.cost.stopwatch import time_or_reason  # noqa: E402
from arnas.reporting.style import panels, styled  # noqa: E402
from arnas.search.options import SupernetOptions  # noqa: E402
from arnas.search.state import new_state  # noqa: E402
from arnas.search.step import weight_step  # noqa: E402
from arnas.spaces.options import SearchSpaceOptions  # noqa: E402
from arnas.training.losses import Step, pgd_loss  # noqa: E402
from arnas.training.options import RetrainOptions  # noqa: E402
from benchmarks.timing import cpu_time  # noqa: E402
from benchmarks.workloads import noise  # noqa: E402

THREAT = arnas.Threat("linf", 8 / 255)
BASE = {"steps": 3, "batch": 16, "cells": 4, "channels": 16, "classes": 10, "side": 16}
SIZES: dict[str, tuple[int, ...]] = {
    "steps": (1, 3, 10, 30),
    "batch": (8, 16, 32, 64),
    "cells": (4, 8, 16),
    "channels": (4, 8, 16, 32),
    "classes": (10, 100, 1000),
    "side": (8, 16, 32),
    "images": (16, 64, 256),
}
"""What is varied from `BASE`; `images` are attacked in batches of 16, `batch` at once."""
BATCHES = (32, 64, 128)
CPU = torch.device("cpu")


def pgd_seconds(sizes: dict[str, int], rounds: int) -> tuple[float, int]:
    """Return the CPU time of PGD, the least of some rounds, and its peak memory in bytes."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = arnas.build_model(
        "arnas",
        num_classes=sizes["classes"],
        image_size=sizes["side"],
        channels=sizes["channels"],
        cells=sizes["cells"],
    ).eval()
    batch = sizes["batch"]
    count = sizes.get("images", batch) // batch
    batches = [noise(batch, sizes["side"], classes=sizes["classes"]) for _ in range(count)]

    def work(times: int) -> None:
        for _ in range(times):
            for x, y in batches:
                arnas.pgd(model, x, y, THREAT, steps=sizes["steps"], keep="last")

    before = resident()
    timing, reason = time_or_reason(work, CPU)
    if timing is None:
        raise SystemExit(f"{sizes}: {reason}")
    seconds = min(cpu_time(lambda: work(1)) for _ in range(rounds))
    return seconds, max(timing.memory - before, 0)


def resident() -> int:
    """Return the bytes of memory that the process has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def memory_rows() -> list[dict[str, Any]]:
    """Return seconds and peak memory of a step of search and training at the size of CIFAR-10."""
    rows = []
    for batch in BATCHES:
        for work, make in (
            ("search, weight step", search_work),
            ("training step, PGD-1", train_work),
        ):
            torch.manual_seed(0)
            timing, reason = time_or_reason(make(batch), CPU)
            row = {"work": work, "batch": batch, "seconds": None, "memory": None, "note": reason}
            if timing is not None:
                row |= {"seconds": round(timing.seconds, 2), "memory": timing.memory}
            print(row, flush=True)
            rows.append(row)
    return rows


def search_work(batch: int) -> Callable[[int], None]:
    """Return weight steps of the supernet of the preset, 24 channels and 8 cells."""
    options = SupernetOptions(channels=24, cells=8)
    sizes = {"num_classes": 10, "in_channels": 3, "seed": 0, "device": CPU}
    state = new_state(options, SearchSpaceOptions(), **sizes)
    train = noise(batch, 32)

    def work(steps: int) -> None:
        for _ in range(steps):
            weight_step(state, train, options)

    return work


def train_work(batch: int) -> Callable[[int], None]:
    """Return training steps of the network of the preset, 36 channels and 20 cells.

    With one attack step, because more take time and no more memory.
    """
    model = arnas.build_model("arnas", num_classes=10, image_size=32, channels=36, cells=20)
    recipe, generator = RetrainOptions(), torch.Generator().manual_seed(0)
    options = recipe.model_copy(update={"attack": recipe.attack.model_copy(update={"steps": 1})})
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-6)
    step = Step(model.train(), noise(batch, 32), THREAT, options, generator)

    def work(steps: int) -> None:
        for _ in range(steps):
            optimiser.zero_grad()
            pgd_loss(step).loss.backward()
            optimiser.step()

    return work


def figure(curves: dict[str, list[dict[str, float]]]) -> None:
    """Draw time and memory against every size, relative to the smallest, on logarithmic axes."""
    with styled():
        canvas, axes = panels(len(curves), 1.6, columns=2)
        for axis, (name, points) in zip(axes, curves.items(), strict=True):
            first = points[0]
            sizes = [point["size"] for point in points]
            linear = [size / first["size"] for size in sizes]
            axis.plot(sizes, linear, color="#bbbbbb", label="linear")
            for what, marker in (("seconds", "o"), ("memory", "s")):
                values = [point[what] / max(first[what], 1e-9) for point in points]
                axis.plot(sizes, values, marker=marker, label=what)
            axis.set(xscale="log", yscale="log", title=name)
            axis.set_xticks(sizes, [str(size) for size in sizes])
            axis.set_yticks(linear, [f"{value:g}" for value in linear])
            axis.minorticks_off()
        axes[0].legend()
        canvas.savefig(ROOT / "benchmarks/results/growth.svg")


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    curves: dict[str, list[dict[str, float]]] = {}
    for name, values in SIZES.items():
        for value in values:
            # In a process of its own, because freed memory may be kept.
            with ProcessPoolExecutor(1, get_context("spawn")) as apart:
                sizes = BASE | {name: value}
                seconds, memory = apart.submit(pgd_seconds, sizes, rounds).result()
            point = {"size": value, "seconds": seconds, "memory": memory}
            curves.setdefault(name, []).append(point)
            print(f"{name} {value}: {seconds:.3f} s, {memory / 1e6:.0f} MB", flush=True)
    found = {"torch": torch.__version__, "base": BASE, "growth": curves, "steps": memory_rows()}
    (ROOT / "benchmarks/results/growth.json").write_text(json.dumps(found, indent=1) + "\n")
    figure(curves)


if __name__ == "__main__":
    main()
