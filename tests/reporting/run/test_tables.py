"""Tables from outcomes and histories, figure by figure."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from report_cases import measured
from torch import Tensor

from arnas.attacks.registry import ATTACKS
from arnas.evaluation.result import Check
from arnas.evaluation.statistics import wilson
from arnas.reporting.run.tables import (
    blackbox_rows,
    check_rows,
    curve_rows,
    metrics,
    overview,
    read_table,
    search_rows,
    summary,
    to_csv,
    to_markdown,
    training_rows,
    transfer,
    union,
    whitebox_rows,
    with_status,
    write_tables,
)
from arnas.runtime.errors import UserError
from arnas.runtime.files import load_tensors, save_tensors

CELL = ["dataset", "model", "training", "seed"]
ACCURACY = ["n", "correct", "accuracy", "ci_low", "ci_high"]
COLUMNS = [*CELL, "checkpoint", "epoch", "attack", "norm", "epsilon", *ACCURACY]
Z = 1.959963984540054


def flags(correct: int, n: int) -> Tensor:
    """Return n outcomes of which the last ones are robust."""
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


def bits(text: str) -> Tensor:
    """Return outcomes written as 0 and 1."""
    return torch.tensor([int(letter) for letter in text], dtype=torch.uint8)


def clean(n: int) -> dict[str, Tensor]:
    """Return clean outcomes of both checkpoints, every image right."""
    return {f"{checkpoint}.clean": flags(n, n) for checkpoint in ("selected", "last")}


def row_of(tensors: dict[str, Tensor], checkpoint: str, attack: str) -> dict[str, Any]:
    rows = whitebox_rows(tensors, description())
    (row,) = (r for r in rows if (r["checkpoint"], r["attack"]) == (checkpoint, attack))
    return row


def test_a_row_says_what_was_measured_and_how_surely() -> None:
    row = row_of({**clean(360), "last.pgd20": flags(301, 360)}, "last", "pgd20")
    share, spread = 301 / 360, Z * Z / 360
    half = math.sqrt(share * (1 - share) * spread + spread * spread / 4)
    ends = [100 * (share + spread / 2 + sign * half) / (1 + spread) for sign in (-1, 1)]
    assert list(row) == COLUMNS
    assert [row[key] for key in COLUMNS[:9]] == [
        *("digits", "a_net", "pgd", 4, "last", 9, "pgd20", "linf", "8/255")
    ]
    assert [row[key] for key in ACCURACY] == [360, 301, 83.61, *(round(end, 2) for end in ends)]


def test_attacks_and_checkpoints_keep_their_order_through_the_file(tmp_path: Path) -> None:
    """From weak to strong, not by the alphabet as a file's JSON has them; selected before last."""
    path = tmp_path / "outcomes.safetensors"
    tensors = {f"selected.{attack}": flags(1, 2) for attack in ("clean", *ATTACKS)}
    save_tensors(path, {**tensors, "last.clean": flags(1, 2)}, description(*ATTACKS))
    rows = whitebox_rows(*load_tensors(path))
    assert [row["attack"] for row in rows] == ["clean", *ATTACKS, "union", "clean", "union"]
    assert [row["checkpoint"] for row in rows[-3:]] == ["selected", "last", "last"]


# The union


def test_the_union_is_robust_under_every_attack() -> None:
    """Image by image, so it may be lower than any one of them."""
    found = {"clean": bits("111101"), "fgsm": bits("110101"), "pgd20": bits("101101")}
    assert union(found).tolist() == [1, 0, 0, 1, 0, 1]
    assert union(found).dtype == torch.uint8
    assert union({"clean": bits("1101")}).tolist() == [1, 1, 0, 1]


def test_an_attack_on_some_images_is_left_out_of_the_union() -> None:
    found = {"clean": bits("111101"), "pgd20": bits("101101"), "autoattack": bits("000")}
    assert union(found).tolist() == [1, 0, 1, 1, 0, 1]
    assert union({**found, "autoattack": bits("001101")}).tolist() == [0, 0, 1, 1, 0, 1]
    row = row_of({"selected.clean": bits("1111"), "last.clean": bits("0111")}, "last", "union")
    assert (row["correct"], row["n"]) == (3, 4), "each checkpoint has a union of its own"


# The curve


def test_a_curve_has_a_row_for_each_budget_as_it_was_written() -> None:
    budgets = {"0": 0.0, "8/255": 8 / 255, "0.1": 0.1, "1": 1.0}
    points = [{"epsilon": text, "budget": budget} for text, budget in budgets.items()]
    found = description(epsilon_curve=points, curve_attack="pgd20")
    rows = curve_rows({"curve": torch.stack([flags(k, 10) for k in (9, 7, 3, 0)])}, found)
    assert list(rows[0]) == [*CELL, "attack", "norm", "epsilon", "budget", *ACCURACY]
    assert [(row["epsilon"], row["correct"], row["accuracy"]) for row in rows] == [
        ("0", 9, 90.0),
        ("8/255", 7, 70.0),
        ("0.1", 3, 30.0),
        ("1", 0, 0.0),
    ]
    assert [row["budget"] for row in rows] == list(budgets.values())
    interval = wilson(9, 10)
    assert rows[0].items() >= {"model": "a_net", "seed": 4, "attack": "pgd20", "n": 10}.items()
    assert (rows[0]["ci_low"], rows[0]["ci_high"]) == (
        round(interval.low, 2),
        round(interval.high, 2),
    )


# Black box


def scores(networks: list[str], seeds: list[int]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return black-box outcomes of ten images, the n-th tensor with n that stand."""
    names = [
        f"{seed}.{target}.{source}"
        for seed in seeds
        for target in networks
        for source in [*networks, "square"]
    ]
    tensors = {name: flags(number, 10) for number, name in enumerate(names)}
    losses = dict.fromkeys(networks, "pgd") | {"plain": "natural"}
    return tensors, {
        "dataset": "digits",
        "networks": networks,
        "losses": losses,
        "threat": {"norm": "l2", "epsilon": 0.5},
        "settings": {},
    }


def test_every_target_meets_every_source_and_square(tmp_path: Path) -> None:
    """In the order of the networks, not by the alphabet as a file has the tensors."""
    path = tmp_path / "outcomes.safetensors"
    save_tensors(path, *scores(["robust", "plain"], [0]))
    rows = blackbox_rows(*load_tensors(path))
    assert list(rows[0]) == [*CELL, "source", "norm", "epsilon", *ACCURACY]
    keys = ("model", "training", "seed", "source", "correct")
    assert [tuple(row[key] for key in keys) for row in rows] == [
        ("robust", "pgd", 0, "robust", 0),
        ("robust", "pgd", 0, "plain", 1),
        ("robust", "pgd", 0, "square", 2),
        ("plain", "natural", 0, "robust", 3),
        ("plain", "natural", 0, "plain", 4),
        ("plain", "natural", 0, "square", 5),
    ]
    assert {(row["dataset"], row["norm"], row["epsilon"]) for row in rows} == {
        ("digits", "l2", 0.5)
    }
    assert [row["accuracy"] for row in rows] == [0.0, 10.0, 20.0, 30.0, 40.0, 50.0]


def test_a_summary_has_mean_and_sample_deviation_over_seeds() -> None:
    """Of 60, 62 and 67 the mean is 63 and the deviation sqrt((9 + 1 + 16) / 2)."""
    rows = [measured(seed=seed, accuracy=a) for seed, a in enumerate((60.0, 62.0, 67.0))]
    table = summary(pd.DataFrame(rows))
    expected = {key: measured()[key] for key in (*CELL[:3], "checkpoint", "attack", "norm")}
    expected |= {"epsilon": "0.1", "n": 360, "seeds": 3, "mean": 63.0, "sd": 3.61}
    assert table.to_dict("records") == [expected]


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


# Transfer


def test_transfer_shows_selected_checkpoints_where_no_search_looked() -> None:
    """Networks that no search of the run has found were searched nowhere."""
    rows = [
        measured(model=model, dataset=dataset, checkpoint=checkpoint, attack=attack)
        for dataset in ("digits", "shapes", "mine")
        for model in ("dsara", "arnas")
        for checkpoint in ("selected", "last")
        for attack in ("clean", "pgd20")
    ]
    table = transfer(with_status(pd.DataFrame(rows), NO_CHECKS), "digits", ["dsara", "other"])
    kept = [key for key in rows[0] if key not in {"checkpoint", "epoch"}]
    assert list(table.columns) == ["searched_on", *kept, "status"]
    found = table[["searched_on", "dataset", "model", "attack"]].to_numpy().tolist()
    assert found == [
        ["digits" if model == "dsara" else "", dataset, model, attack]
        for dataset in ("shapes", "mine")
        for model in ("dsara", "arnas")
        for attack in ("clean", "pgd20")
    ]


def test_a_run_on_one_dataset_transfers_nothing_but_has_a_head() -> None:
    table = transfer(pd.DataFrame([measured()]), "digits", ["a_net"])
    assert len(table) == 0
    assert to_csv(table).startswith("searched_on,dataset,model,")
    assert to_markdown(table) == "Nothing of this kind was measured in this run.\n"


# Checks

NO_CHECKS = pd.DataFrame(columns=["dataset", "model", "seed", "status"])


def test_checks_are_rows_with_advice_where_they_did_not_pass() -> None:
    cell = {"dataset": "digits", "model": "a_net", "training": "mart", "seed": 3}
    good, bad = Check("eval_mode", "PASS", "0 of 9", "x"), Check("logits", "FAIL", "3 of 9", "look")
    assert check_rows(cell, [good, bad]) == [
        {**cell, "check": "eval_mode", "status": "PASS", "evidence": "0 of 9", "advice": ""},
        {**cell, "check": "logits", "status": "FAIL", "evidence": "3 of 9", "advice": "look"},
    ]


def check(status: str, **cell: Any) -> dict[str, Any]:
    return {"dataset": "digits", "model": "a_net", "seed": 0, "status": status, **cell}


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([], "oooooo"),
        ([check("PASS"), check("WARN")], "oooooo"),
        ([check("WARN"), check("FAIL"), check("PASS")], "uooooo"),
        ([check("FAIL", seed=1)], "ouoooo"),
        ([check("FAIL", model="b_net")], "oouooo"),
        ([check("FAIL", dataset="shapes")], "ooouoo"),
        ([check("FAIL", model="all")], "uouooo"),
        ([check("FAIL", model="all", dataset="shapes")], "ooouuo"),
        ([check("FAIL", model="all", dataset="shapes", seed=1)], "ooooou"),
        ([check("WARN", model="all")], "oooooo"),
    ],
)
def test_a_failed_check_makes_its_network_unreliable(
    found: list[dict[str, Any]], expected: str
) -> None:
    """One of a whole dataset makes all its networks of that seed so."""
    rows = [
        measured(),
        measured(seed=1),
        measured(model="b_net"),
        measured(dataset="shapes"),
        measured(dataset="shapes", model="b_net"),
        measured(dataset="shapes", seed=1),
    ]
    table = with_status(pd.DataFrame(rows), pd.DataFrame(found) if found else NO_CHECKS)
    words = {"o": "ok", "u": "unreliable"}
    assert table["status"].tolist() == [words[letter] for letter in expected]
    assert list(table.columns) == [*rows[0], "status"]
    assert table.drop(columns="status").to_dict("records") == rows


# Files


def test_tables_are_written_to_the_outputs_that_there_are(tmp_path: Path) -> None:
    outputs = {
        key: tmp_path / key for key in ("long_csv", "both_csv", "both_md", "other", "none_md")
    }
    frame = pd.DataFrame({"a": [1], "b": ["x"]})
    write_tables(outputs, {"long": [{"a": 1, "b": "x"}], "both": frame, "none": []})
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "long_csv": "a,b\n1,x\n",
        "both_csv": "a,b\n1,x\n",
        "both_md": "| a | b |\n| --- | --- |\n| 1 | x |\n",
        "none_md": "Nothing of this kind was measured in this run.\n",
    }


@pytest.mark.parametrize("budgets", [["0.10", "1"], ["8/255", "0.10"], ["0", "0.0"]])
def test_budgets_are_read_as_they_were_written(budgets: list[str], tmp_path: Path) -> None:
    """Whether they look like numbers or not."""
    path = tmp_path / "table.csv"
    write_tables({"table_csv": path}, {"table": [{"epsilon": budget} for budget in budgets]})
    assert read_table(path)["epsilon"].tolist() == budgets


def test_a_table_with_a_head_only_keeps_it(tmp_path: Path) -> None:
    write_tables({"a_csv": tmp_path / "a.csv"}, {"a": pd.DataFrame(columns=["x", "epsilon"])})
    table = read_table(tmp_path / "a.csv")
    assert (list(table.columns), len(table)) == (["x", "epsilon"], 0)


def test_a_missing_table_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.csv is missing: run `snakemake") as caught:
        read_table(tmp_path / "none.csv")
    assert "\n" not in str(caught.value)
