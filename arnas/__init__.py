"""arnas: search, train and evaluate neural networks that are accurate and robust.

The names below are loaded on first use, so that reading settings does not wait for torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from arnas.attacks.apgd import apgd
    from arnas.attacks.fab import fab
    from arnas.attacks.pgd import cw, fgsm, pgd
    from arnas.attacks.reference import autoattack
    from arnas.attacks.square import square
    from arnas.attacks.threat import Threat
    from arnas.evaluation.evaluate import evaluate
    from arnas.models.complexity import count_macs, count_parameters
    from arnas.models.registry import build_model
    from arnas.models.weight_files import load_weights

__version__ = "0.1.0"

_HOMES = {
    "Threat": "arnas.attacks.threat",
    "apgd": "arnas.attacks.apgd",
    "autoattack": "arnas.attacks.reference",
    "cw": "arnas.attacks.pgd",
    "evaluate": "arnas.evaluation.evaluate",
    "fab": "arnas.attacks.fab",
    "fgsm": "arnas.attacks.pgd",
    "pgd": "arnas.attacks.pgd",
    "square": "arnas.attacks.square",
    "build_model": "arnas.models.registry",
    "load_weights": "arnas.models.weight_files",
    "count_macs": "arnas.models.complexity",
    "count_parameters": "arnas.models.complexity",
}

__all__ = [
    "Threat",
    "__version__",
    "apgd",
    "autoattack",
    "build_model",
    "count_macs",
    "count_parameters",
    "cw",
    "evaluate",
    "fab",
    "fgsm",
    "load_weights",
    "pgd",
    "square",
]


def __getattr__(name: str) -> Any:
    """Import a public name from the room it lives in."""
    if name not in _HOMES:
        raise AttributeError(f"module 'arnas' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)
