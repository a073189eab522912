"""Small result tables written by hand, as the stages would have left them."""

from __future__ import annotations

from typing import Any

import pandas as pd

from arnas.attacks.threat import parse_amount
from arnas.evaluation.statistics import wilson

EXPECTED = {
    ("digits", "arnas", "pgd"): {"clean": 99, "fgsm": 92, "pgd20": 90, "union": 88},
    ("digits", "dsara", "pgd"): {"clean": 98, "fgsm": 90, "pgd20": 87, "union": 86},
    ("digits", "small", "pgd"): {"clean": 97, "fgsm": 60, "pgd20": 55, "union": 54},
    ("digits", "control", "natural"): {"clean": 96, "fgsm": 50, "pgd20": 21, "union": 20},
    ("shapes", "dsara", "pgd"): {"clean": 70, "fgsm": 50, "pgd20": 41, "union": 40},
}
"""Correct images of 100 for each network and attack."""
EPSILON = {"digits": "0.1", "shapes": "4/255"}


def accuracy(correct: int, n: int = 100) -> dict[str, Any]:
    found = wilson(correct, n)
    return {
        "n": n,
        "correct": correct,
        "accuracy": round(found.percent, 2),
        "ci_low": round(found.low, 2),
        "ci_high": round(found.high, 2),
    }


def measured(**changes: Any) -> dict[str, Any]:
    """Return a row of the table whitebox."""
    row = {
        "dataset": "digits",
        "model": "a_net",
        "training": "pgd",
        "seed": 0,
        "checkpoint": "selected",
        "epoch": 7,
        "attack": "clean",
        "norm": "linf",
        "epsilon": "0.1",
        **accuracy(180, 360),
    }
    assert set(changes) <= set(row)
    return {**row, **changes}


def cell(key: tuple[str, str, str], seed: int = 0) -> dict[str, Any]:
    return {"dataset": key[0], "model": key[1], "training": key[2], "seed": seed}


def whitebox(seeds: int = 1, status: str = "ok") -> pd.DataFrame:
    """Return both checkpoints of every network; the second seed does one image worse."""
    return pd.DataFrame(
        [
            {
                **cell(key, seed),
                "checkpoint": checkpoint,
                "epoch": epoch,
                "attack": attack,
                "norm": "linf",
                "epsilon": EPSILON[key[0]],
                **accuracy(correct - seed),
                "status": status,
            }
            for key, found in EXPECTED.items()
            for seed in range(seeds)
            for checkpoint, epoch in (("selected", 7), ("last", 10))
            for attack, correct in found.items()
        ]
    )


def models() -> pd.DataFrame:
    macs = {"arnas": 1_400_000, "dsara": 2_000_000, "small": 300_000, "control": 1_400_000}
    return pd.DataFrame(
        [
            {
                **cell(key),
                "image": "1x8x8",
                "parameters": macs[key[1]] // 20,
                "macs": macs[key[1]],
            }
            for key in EXPECTED
        ]
    )


def curve() -> pd.DataFrame:
    budgets = {"0": 99, "8/255": 95, "0.1": 60, "1": 0}
    return pd.DataFrame(
        [
            {
                **cell(key),
                "attack": "pgd20",
                "norm": "linf",
                "epsilon": epsilon,
                "budget": parse_amount(epsilon),
                **accuracy(max(correct - number, 0)),
            }
            for number, key in enumerate(EXPECTED)
            for epsilon, correct in budgets.items()
        ]
    )


def blackbox() -> pd.DataFrame:
    rows = []
    for dataset in ("digits", "shapes"):
        keys = [key for key in EXPECTED if key[0] == dataset]
        for number, key in enumerate(keys):
            for other, source in enumerate([*(key[1] for key in keys), "square"]):
                correct = 95 - 7 * number - other - (30 if source == key[1] else 0)
                rows.append(
                    {
                        **cell(key),
                        "source": source,
                        "norm": "linf",
                        "epsilon": EPSILON[dataset],
                        **accuracy(correct),
                    }
                )
    return pd.DataFrame(rows)


def checks(failing: bool = False) -> pd.DataFrame:
    rows = [
        {**cell(key), "check": name, "status": "PASS", "evidence": f"{name} is fine", "advice": ""}
        for key in EXPECTED
        for name in ("eval_mode", "epsilon_zero")
    ]
    rows.append(
        {
            **cell(("shapes", "all", "")),
            "check": "control_falls",
            "status": "WARN",
            "evidence": "no undefended network",
            "advice": "add one",
        }
    )
    if failing:
        rows[0] |= {"status": "FAIL", "evidence": "3 of 9 passes awake", "advice": "call eval()"}
    return pd.DataFrame(rows)


def training() -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                **cell(key),
                "epoch": epoch,
                "train_clean": 50 + epoch,
                "train_robust": 40 + epoch,
                "val_clean": 45 + epoch,
                "val_robust": 30 + epoch,
            }
            for key in EXPECTED
            for epoch in (1, 2, 3)
        ]
    )


def tables() -> dict[str, pd.DataFrame]:
    """Return every table that the report reads, of one seed."""
    empty = dict.fromkeys(("operations", "published"), pd.DataFrame())
    made = {"whitebox": whitebox(), "blackbox": blackbox(), "checks": checks(), "models": models()}
    return made | empty
