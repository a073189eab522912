"""Attacks: threat models and ways to find adversarial examples within them.

``arnas.attacks.pgd(model, x, y, Threat("linf", 8 / 255), steps=20)``. Names are loaded on first
use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from arnas.attacks.apgd import apgd
    from arnas.attacks.fab import fab
    from arnas.attacks.pgd import cw, fgsm, pgd
    from arnas.attacks.square import square
    from arnas.attacks.reference import autoattack
    from arnas.attacks.threat import Threat

_HOMES = {
    "Threat": "arnas.attacks.threat",
    "apgd": "arnas.attacks.apgd",
    "cw": "arnas.attacks.pgd",
    "fab": "arnas.attacks.fab",
    "fgsm": "arnas.attacks.pgd",
    "pgd": "arnas.attacks.pgd",
    "autoattack": "arnas.attacks.reference",
    "square": "arnas.attacks.square",
}

__all__ = ["Threat", "apgd", "autoattack", "cw", "fab", "fgsm", "pgd", "square"]


def __getattr__(name: str) -> Any:
    """Import a public name from the file it lives in."""
    if name not in _HOMES:
        raise AttributeError(f"module 'arnas.attacks' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)
