"""Attacks: threat models and ways to find adversarial examples within them.

``arnas.attacks.pgd(model, x, y, Threat("linf", 8 / 255), steps=20)``. Names are loaded on first
use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from arnas.attacks.adaptive import apgd
    from arnas.attacks.boundary import fab
    from arnas.attacks.gradient import cw, fgsm, pgd
    from arnas.attacks.squares import square
    from arnas.attacks.standard import autoattack
    from arnas.attacks.threat import Threat

_HOMES = {
    "Threat": "arnas.attacks.threat",
    "apgd": "arnas.attacks.adaptive",
    "cw": "arnas.attacks.gradient",
    "fab": "arnas.attacks.boundary",
    "fgsm": "arnas.attacks.gradient",
    "pgd": "arnas.attacks.gradient",
    "autoattack": "arnas.attacks.standard",
    "square": "arnas.attacks.squares",
}

__all__ = ["Threat", "apgd", "autoattack", "cw", "fab", "fgsm", "pgd", "square"]


def __getattr__(name: str) -> Any:
    """Import a public name from the file it lives in."""
    if name not in _HOMES:
        raise AttributeError(f"module 'arnas.attacks' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)
