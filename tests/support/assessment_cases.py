"""A small evaluation made by hand: ten images, three attacks, thirty checks, one that failed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from arnas.attacks.threat import Threat
from arnas.evaluation.result import BROKEN, ROBUST, AttackResult, Check, EvalResult, Status
from arnas.evaluation.statistics import wilson

OUTCOMES = {
    "clean": "1111111110",
    "apgd_ce": "0111011112",
    "apgd_t": "2110211112",
    "square": "2112211102",
}
"""Image 0 and 4 fall to the first attack, 3 to the second, 8 to the third; 9 is wrong as it is."""
ROBUST_IMAGES = 5
LABELS = (0, 1, 2, 0, 1, 2, 0, 1, 2, 2)
STATUSES: tuple[Status, ...] = ("PASS", "WARN", "SKIP")
EPSILON = 8 / 255


def flags(digits: str) -> Tensor:
    return torch.tensor([int(digit) for digit in digits], dtype=torch.uint8)


def checks(failed: bool = True) -> tuple[Check, ...]:
    found = [
        Check(f"check_{n}", STATUSES[n % 3], f"figure {n}", f"advice {n}") for n in range(1, 31)
    ]
    if failed:
        found[6] = Check(
            "gradient", "FAIL", "12 of 64 gradients are zero", "find the detached part"
        )
    return tuple(found)


def images(channels: int = 1, side: int = 6) -> Tensor:
    """Return ten images on the 8-bit grid."""
    generator = torch.Generator().manual_seed(1)
    levels = torch.randint(20, 236, (len(LABELS), channels, side, side), generator=generator)
    return levels.float() / 255


def assessment(
    outcomes: Mapping[str, str] = OUTCOMES,
    *,
    failed: bool = True,
    norm: str = "linf",
    epsilon: float | str = EPSILON,
    suite: str = "standard",
    names: Mapping[str, str] | None = None,
    channels: int = 1,
    **changed: Any,
) -> EvalResult:
    """Return the evaluation; `names` renames attacks, `changed` replaces fields."""
    names = names or {}
    outcomes = {names.get(name, name): digits for name, digits in outcomes.items()}
    tensors = {name: flags(digits) for name, digits in outcomes.items()}
    labels = changed.pop("labels", torch.tensor(LABELS))
    robust = tensors["clean"] == ROBUST
    clean = wilson(int(robust.sum()), len(labels))
    attacks = {}
    for name in [name for name in tensors if name != "clean"]:
        attacked = int((tensors[name] != 2).sum())
        robust = robust & (tensors[name] == ROBUST)
        attacks[name] = AttackResult(
            name,
            f"settings of {name}",
            "Croce and Hein, ICML 2020, arXiv 2003.01690",
            attacked,
            int((tensors[name] == BROKEN).sum()),
            wilson(int(robust.sum()), len(labels)),
            100 * attacked,
            99 * attacked,
        )
    x = images(channels)
    fell = (tensors["clean"] == ROBUST) & ~robust
    threat = Threat(norm, epsilon)  # type: ignore[arg-type]
    x_adv = x.clone()
    if len(x) == len(labels):
        signs = torch.ones(x.shape[1:])
        signs[..., ::2] = -1
        x_adv[fell] += signs * threat.epsilon * (1 if norm == "linf" else 0.1)
    values: dict[str, Any] = {
        "threat": threat,
        "suite": suite,
        "combine": "union",
        "clean_accuracy": clean,
        "robust_accuracy": wilson(int(robust.sum()), len(labels)),
        "attacks": attacks,
        "outcomes": tensors,
        "labels": labels,
        "x_adv": x_adv,
        "checks": checks(failed),
        "provenance": {
            "model_sha256": "a" * 64,
            "data_sha256": "b" * 64,
            "indices_sha256": "c" * 64,
            "seed": 0,
            "n": len(labels),
            "versions": {"torch": "2.13", "arnas": "0.1.0"},
            "device": "cpu",
            "suite_leaves_out": "",
        },
    }
    return EvalResult(**{**values, **changed})
