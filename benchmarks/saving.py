"""Cost of keeping a training's state, as a share of the time between two saves.

    python benchmarks/saving.py [--seconds 30] [--rounds 5]

For states of several sizes: the time that the training waits for a save (a copy, for large
states), and the time that the whole save takes, most of it in a thread. A state holds the weights
three times: the network's, its momentum, and the selected checkpoint's.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from arnas.models.complexity import count_parameters
from arnas.models.registry import build_model
from arnas.runtime.resume import FolderCheckpointer, Snapshot

CASES = {
    "arnas, 16 channels, 5 cells (digits)": ("arnas", {"channels": 16, "cells": 5}),
    "arnas, published size": ("arnas", {}),
    "resnet18": ("resnet18", {}),
}


def costs(snapshot: Snapshot, rounds: int) -> tuple[float, float]:
    """Return the median seconds that a loop waits for a save, and that the save takes."""
    waited, whole = [], []
    with tempfile.TemporaryDirectory() as folder:
        checkpointer = FolderCheckpointer(Path(folder), interval=0)
        for _ in range(rounds + 1):
            start = time.perf_counter()
            checkpointer.maybe_save(lambda: snapshot, now=True)
            waited.append(time.perf_counter() - start)
            checkpointer.settle()
            whole.append(time.perf_counter() - start)
        checkpointer.close()
    return statistics.median(waited[1:]), statistics.median(whole[1:])


def main() -> None:
    """Print the costs of every case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=30, help="between two saves")
    parser.add_argument("--rounds", type=int, default=5)
    wanted = parser.parse_args()
    print(f"torch {torch.__version__}, {os.cpu_count()} cores, median of {wanted.rounds} saves")
    for title, (name, sizes) in CASES.items():
        model = build_model(name, num_classes=10, **sizes)
        tensors = {
            f"{part}.{key}": value.clone()
            for part in ("model", "momentum", "selected")
            for key, value in model.state_dict().items()
        }
        waited, whole = costs(Snapshot(tensors, {}), wanted.rounds)
        size = sum(value.nbytes for value in tensors.values()) / 1e6
        print(
            f"{title}: {count_parameters(model):,} parameters, state {size:.1f} MB: waits "
            f"{1000 * waited:.0f} ms a save, {100 * waited / wanted.seconds:.2f} % of "
            f"{wanted.seconds:g} s; the save takes {1000 * whole:.0f} ms"
        )


if __name__ == "__main__":
    main()
