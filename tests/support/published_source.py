"""A small source of published numbers, in the form of the file."""

from __future__ import annotations

from typing import Any


def source(**changes: Any) -> dict[str, Any]:
    network = {"model": "resnet18", "dataset": "cifar10", "training": "pgd"}
    return {
        "tag": "One",
        "title": "A paper",
        "reference": "arXiv 0000.00000",
        "read_in": "the paper",
        "epsilon": "8/255",
        "recipe": "as usual",
        "epochs": 100,
        "checkpoint": "last",
        "networks": [network | {"accuracy": {"clean": 80.0}}],
    } | changes
