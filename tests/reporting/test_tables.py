"""Tables from outcomes and histories, figure by figure."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor

from arnas.attacks.registry import ATTACKS
from arnas.reporting.tables import (
    metrics,
    overview,
    search_rows,
    summary,
    to_csv,
    to_markdown,
    training_rows,
    whitebox_rows,
)
from arnas.runtime.files import load_tensors, save_tensors

COLUMNS = [
    "dataset",
    "model",
    "training",
    "seed",
    "checkpoint",
    "epoch",
    "attack",
    "norm",
    "epsilon",
    "n",
    "correct",
    "accuracy",
    "ci_low",
    "ci_high",
    "status",
]
Z = 1.959963984540054


def flags(correct: int, n: int) -> Tensor:
    """Return n outcomes of which the last ones stand."""
    return (torch.arange(n) >= n - correct).to(torch.uint8)


def description(*attacks: str, **changes: Any) -> dict[str, Any]:
    return {
        "dataset": {"name": "digits", "num_classes": 10},
        "network": "a_net",
        "seed": 4,
        "threat": {"norm": "linf", "epsilon": "8/255"},
        "checkpoints": {
            "selected": {"loss": "pgd", "epoch": 7},
            "last": {"loss": "pgd", "epoch": 9},
        },
        "attacks": {name: {"settings": "", "citation": ""} for name in attacks},
        **changes,
    }


def test_a_row_says_what_was_measured_and_how_surely() -> None:
    row = whitebox_rows({"last.pgd20": flags(301, 360)}, description("pgd20"))[0]
    share, spread = 301 / 360, Z * Z / 360
    half = math.sqrt(share * (1 - share) * spread + spread * spread / 4)
    ends = [100 * (share + spread / 2 + sign * half) / (1 + spread) for sign in (-1, 1)]
    assert list(row) == COLUMNS
    assert row == {
        "dataset": "digits",
        "model": "a_net",
        "training": "pgd",
        "seed": 4,
        "checkpoint": "last",
        "epoch": 9,
        "attack": "pgd20",
        "norm": "linf",
        "epsilon": "8/255",
        "n": 360,
        "correct": 301,
        "accuracy": 83.61,
        "ci_low": round(ends[0], 2),
        "ci_high": round(ends[1], 2),
        "status": "ok",
    }


def test_many_outcomes_are_counted_without_overflow() -> None:
    """They are stored in single bytes."""
    row = whitebox_rows({"last.clean": flags(9_999, 10_000)}, description())[0]
    assert (row["correct"], row["n"], row["accuracy"]) == (9_999, 10_000, 99.99)


def test_selected_comes_before_last_and_clean_before_the_attacks() -> None:
    tensors = {
        f"{checkpoint}.{attack}": flags(1, 2)
        for checkpoint in ("last", "selected")
        for attack in ("pgd20", "fgsm", "clean")
    }
    rows = whitebox_rows(tensors, description("fgsm", "pgd20"))
    assert [(row["checkpoint"], row["attack"]) for row in rows] == [
        (checkpoint, attack)
        for checkpoint in ("selected", "last")
        for attack in ("clean", "fgsm", "pgd20")
    ]


def test_attacks_keep_their_order_through_the_file(tmp_path: Path) -> None:
    """From weak to strong, not by the alphabet as a file's JSON has them."""
    path = tmp_path / "outcomes.safetensors"
    tensors = {f"selected.{attack}": flags(1, 2) for attack in ("clean", *ATTACKS)}
    save_tensors(path, tensors, description(*ATTACKS))
    rows = whitebox_rows(*load_tensors(path))
    assert [row["attack"] for row in rows] == ["clean", *ATTACKS]


def measured(**changes: Any) -> dict[str, Any]:
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
        "n": 360,
        "correct": 180,
        "accuracy": 50.0,
        "ci_low": 44.86,
        "ci_high": 55.14,
        "status": "ok",
    }
    assert set(changes) <= set(row)
    return {**row, **changes}


def test_a_summary_has_mean_and_sample_deviation_over_seeds() -> None:
    """Of 60, 62 and 67 the mean is 63 and the deviation sqrt((9 + 1 + 16) / 2)."""
    rows = [measured(seed=seed, accuracy=a) for seed, a in enumerate((60.0, 62.0, 67.0))]
    table = summary(pd.DataFrame(rows))
    assert table.to_dict("records") == [
        {
            "dataset": "digits",
            "model": "a_net",
            "training": "pgd",
            "checkpoint": "selected",
            "attack": "clean",
            "norm": "linf",
            "epsilon": "0.1",
            "n": 360,
            "seeds": 3,
            "mean": 63.0,
            "sd": round(math.sqrt(13), 2),
        }
    ]


def test_a_single_seed_has_no_deviation() -> None:
    table = summary(pd.DataFrame([measured(accuracy=61.0)]))
    assert (table["seeds"][0], table["mean"][0]) == (1, 61.0)
    assert math.isnan(table["sd"][0])
    assert to_csv(table).splitlines()[1].endswith(",360,1,61.0,")
    assert to_markdown(table).splitlines()[2].endswith("| 360 | 1 | 61.0 |  |")


@pytest.mark.parametrize(
    "key",
    ["dataset", "model", "training", "checkpoint", "attack", "norm", "epsilon", "n"],
)
def test_a_summary_never_mixes_what_differs(key: str) -> None:
    other = {"checkpoint": "last", "n": 16}.get(key, "other")
    rows = [measured(accuracy=80.0), measured(accuracy=20.0, **{key: other})]
    table = summary(pd.DataFrame(rows))
    assert table["mean"].tolist() == [80.0, 20.0], "in the order of the rows"
    assert table["seeds"].tolist() == [1, 1]


EPOCH = {
    "stage": "multiobjective",
    "epoch": 3,
    "learning_rate": 0.012345678,
    "train_loss": 1.23456789,
    "gamma": None,
    "skips": {"accurate": 1, "reduction": 2},
    "entropy": {"accurate": 1.9459101, "reduction": 0.000123456},
    "collapsed": ["accurate", "robust"],
    "genotype": {"accurate": []},
}


def test_the_epochs_of_a_search_become_flat_rows() -> None:
    """Nested figures get columns of their own; five digits of a number are shown."""
    rows = search_rows("dsara", 2, [EPOCH, {**EPOCH, "collapsed": [], "epoch": 4}])
    assert rows[0] == {
        "search": "dsara",
        "seed": 2,
        "stage": "multiobjective",
        "epoch": 3,
        "learning_rate": 0.012346,
        "train_loss": 1.2346,
        "gamma": None,
        "skips_accurate": 1,
        "skips_reduction": 2,
        "entropy_accurate": 1.9459,
        "entropy_reduction": 0.00012346,
        "collapsed": "accurate+robust",
    }
    assert rows[1] == {**rows[0], "collapsed": "", "epoch": 4}


def test_the_epochs_of_a_training_become_rows_of_their_cell() -> None:
    cell = {"dataset": "digits", "model": "a_net", "training": "pgd", "seed": 0}
    rows = training_rows(cell, [{"epoch": 1, "train_loss": 2.3456789}, {"epoch": 2}])
    assert rows == [{**cell, "epoch": 1, "train_loss": 2.3457}, {**cell, "epoch": 2}]


def test_metrics_are_means_of_selected_checkpoints_by_name() -> None:
    rows = [
        measured(seed=0, accuracy=50.0),
        measured(seed=1, accuracy=50.01),
        measured(seed=1, accuracy=50.02),
        measured(attack="pgd20", accuracy=30.0),
        measured(model="other", accuracy=20.0),
        measured(dataset="shapes", accuracy=10.0),
        measured(checkpoint="last", accuracy=0.0),
        measured(checkpoint="last", attack="fgsm", accuracy=0.0),
    ]
    assert metrics(pd.DataFrame(rows)) == {
        "digits": {"a_net": {"clean": 50.01, "pgd20": 30.0}, "other": {"clean": 20.0}},
        "shapes": {"a_net": {"clean": 10.0}},
    }


def test_csv_has_unix_lines_and_no_index() -> None:
    table = pd.DataFrame({"a": [1, 2], "b": ["x,y", None], "c": [0.5, math.nan]})
    assert to_csv(table) == 'a,b,c\n1,"x,y",0.5\n2,,\n'


def test_markdown_is_a_github_table_with_missing_values_empty() -> None:
    table = pd.DataFrame({"a": [1, 2], "b": ["x", None], "c": [0.5, math.nan]})
    assert to_markdown(table) == (
        "| a | b | c |\n| --- | --- | --- |\n| 1 | x | 0.5 |\n| 2 |  |  |\n"
    )


def test_an_overview_has_a_row_a_network_and_a_column_an_attack() -> None:
    """The number of images stands where it is not that of the clean accuracy."""
    rows = [
        measured(model="z_net", accuracy=98.61, ci_low=96.79, ci_high=99.41),
        measured(model="z_net", attack="pgd20", accuracy=88.06, ci_low=84.3, ci_high=91.0),
        measured(model="z_net", attack="autoattack", n=16, accuracy=81.25, ci_low=57, ci_high=93.4),
        measured(model="z_net", checkpoint="last", attack="fgsm", accuracy=1.0),
        measured(model="b_net", accuracy=50.0, ci_low=44.86, ci_high=55.14),
        measured(model="b_net", attack="pgd20", n=100, accuracy=5.0, ci_low=2.2, ci_high=11.2),
    ]
    table = overview(pd.DataFrame(rows))
    keys = ["dataset", "model", "training", "seed", "epsilon"]
    assert list(table.columns) == [*keys, "clean", "pgd20", "autoattack"]
    assert table[keys].to_numpy().tolist() == [
        ["digits", "z_net", "pgd", 0, "0.1"],
        ["digits", "b_net", "pgd", 0, "0.1"],
    ]
    assert table["clean"].tolist() == ["98.6 [96.8, 99.4]", "50.0 [44.9, 55.1]"]
    assert table["pgd20"].tolist() == ["88.1 [84.3, 91.0]", "5.0 [2.2, 11.2] n=100"]
    assert table["autoattack"].tolist() == ["81.2 [57.0, 93.4] n=16", "-"]


def test_an_overview_keeps_seeds_and_datasets_apart() -> None:
    rows = [
        measured(dataset=dataset, seed=seed, accuracy=10.0 * seed + len(dataset))
        for dataset in ("shapes", "digits", "npz")
        for seed in (1, 0)
    ]
    table = overview(pd.DataFrame(rows))
    assert table[["dataset", "seed"]].to_numpy().tolist() == [
        [dataset, seed] for dataset in ("shapes", "digits", "npz") for seed in (1, 0)
    ]
    assert [text.split()[0] for text in table["clean"]] == [
        "16.0",
        "6.0",
        "16.0",
        "6.0",
        "13.0",
        "3.0",
    ]
