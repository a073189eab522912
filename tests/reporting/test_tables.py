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
from arnas.evaluation.checks.base import Check
from arnas.evaluation.statistics import wilson
from arnas.reporting.run.tables import (
    blackbox_rows,
    check_rows,
    curve_rows,
    judged,
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
    write_tables,
)
from arnas.runtime.errors import UserError
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
    }


def test_many_outcomes_are_counted_without_overflow() -> None:
    """They are stored in single bytes."""
    row = row_of({**clean(5), "last.clean": flags(9_999, 10_000)}, "last", "clean")
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
        for attack in ("clean", "fgsm", "pgd20", "union")
    ]


def test_attacks_and_checkpoints_keep_their_order_through_the_file(tmp_path: Path) -> None:
    """From weak to strong, not by the alphabet as a file's JSON has them."""
    path = tmp_path / "outcomes.safetensors"
    tensors = {f"selected.{attack}": flags(1, 2) for attack in ("clean", *ATTACKS)}
    save_tensors(path, {**tensors, "last.clean": flags(1, 2)}, description(*ATTACKS))
    rows = whitebox_rows(*load_tensors(path))
    assert [row["attack"] for row in rows] == ["clean", *ATTACKS, "union", "clean", "union"]
    assert [row["checkpoint"] for row in rows[-3:]] == ["selected", "last", "last"]


def test_the_curve_of_an_outcome_file_is_no_attack() -> None:
    """Neither of a row of its own nor part of the union."""
    tensors = {**clean(3), "curve": torch.zeros(2, 3, dtype=torch.uint8)}
    rows = whitebox_rows(tensors, description())
    assert [(row["attack"], row["correct"]) for row in rows] == [("clean", 3), ("union", 3)] * 2


# The union


def test_the_union_is_what_withstands_every_attack() -> None:
    """Image by image, so it may be less than what withstands any one of them."""
    found = {"clean": bits("111101"), "fgsm": bits("110101"), "pgd20": bits("101101")}
    assert union(found).tolist() == [1, 0, 0, 1, 0, 1]
    assert union(found).dtype == torch.uint8
    assert union({"clean": bits("1101")}).tolist() == [1, 1, 0, 1]


def test_an_attack_on_some_images_is_left_out_of_the_union() -> None:
    found = {"clean": bits("111101"), "pgd20": bits("101101"), "autoattack": bits("000")}
    assert union(found).tolist() == [1, 0, 1, 1, 0, 1]
    assert union({**found, "autoattack": bits("001101")}).tolist() == [0, 0, 1, 1, 0, 1]


def test_each_checkpoint_has_a_union_of_its_own() -> None:
    tensors = {
        "selected.clean": bits("1111"),
        "selected.fgsm": bits("1101"),
        "selected.pgd20": bits("1011"),
        "selected.autoattack": bits("00"),
        "last.clean": bits("0111"),
        "last.fgsm": bits("0111"),
    }
    for checkpoint, correct in (("selected", 2), ("last", 3)):
        row = row_of(tensors, checkpoint, "union")
        assert (row["correct"], row["n"]) == (correct, 4)
        interval = wilson(correct, 4)
        assert row["ci_low"] == round(interval.low, 2)
        assert row["ci_high"] == round(interval.high, 2)


# The curve


def test_a_curve_has_a_row_for_each_budget_as_it_was_written() -> None:
    budgets = {"0": 0.0, "8/255": 8 / 255, "0.1": 0.1, "1": 1.0}
    points = [{"epsilon": text, "budget": budget} for text, budget in budgets.items()]
    found = description(epsilon_curve=points, curve_attack="pgd20")
    rows = curve_rows({"curve": torch.stack([flags(k, 10) for k in (9, 7, 3, 0)])}, found)
    for row in rows:
        named = [column for column in row if column != "budget"]
        assert named == [c for c in COLUMNS if c not in {"checkpoint", "epoch"}]
    assert [(row["epsilon"], row["correct"], row["accuracy"]) for row in rows] == [
        ("0", 9, 90.0),
        ("8/255", 7, 70.0),
        ("0.1", 3, 30.0),
        ("1", 0, 0.0),
    ]
    assert [row["budget"] for row in rows] == list(budgets.values())
    for row in rows:
        assert (row["dataset"], row["model"], row["training"]) == ("digits", "a_net", "pgd")
        assert (row["seed"], row["attack"], row["norm"], row["n"]) == (4, "pgd20", "linf", 10)
        interval = wilson(row["correct"], 10)
        assert (row["ci_low"], row["ci_high"]) == (
            round(interval.low, 2),
            round(interval.high, 2),
        )


def test_a_curve_of_another_length_is_refused() -> None:
    points = [{"epsilon": "0", "budget": 0.0}, {"epsilon": "1", "budget": 1.0}]
    found = description(epsilon_curve=points, curve_attack="pgd20")
    with pytest.raises(ValueError, match="shorter"):
        curve_rows({"curve": flags(1, 2)[None]}, found)


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
    assert [list(row) for row in rows] == [
        [
            "dataset",
            "model",
            "training",
            "seed",
            "source",
            "norm",
            "epsilon",
            "n",
            "correct",
            "accuracy",
            "ci_low",
            "ci_high",
        ]
    ] * 6
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


def test_seeds_of_a_target_stand_together_and_rise() -> None:
    rows = blackbox_rows(*scores(["a", "b"], [10, 9]))
    found = [(row["model"], row["seed"], row["source"]) for row in rows]
    assert found == [
        (model, seed, source)
        for model in ("a", "b")
        for seed in (9, 10)
        for source in ("a", "b", "square")
    ]
    assert [row["correct"] for row in rows if row["seed"] == 10] == [0, 1, 2, 3, 4, 5]


def test_square_may_have_seen_fewer_images() -> None:
    tensors, found = scores(["a"], [0])
    tensors["0.a.square"] = flags(1, 4)
    assert [(row["source"], row["n"]) for row in blackbox_rows(tensors, found)] == [
        ("a", 10),
        ("square", 4),
    ]


def test_a_dataset_without_networks_has_no_black_box_rows() -> None:
    assert blackbox_rows({}, {"dataset": "shapes", "networks": [], "losses": {}}) == []


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
    table = transfer(judged(pd.DataFrame(rows), NO_VERDICTS), "digits", ["dsara", "other"])
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


# Verdicts

GOOD = Check("eval_mode", "PASS", "0 of 9", "sleep")._asdict()
BAD = Check("epsilon_zero", "FAIL", "3 of 9", "look closer")._asdict()
DOUBT = Check("box_and_ball", "WARN", "nothing", "try again")._asdict()
NO_VERDICTS = pd.DataFrame(columns=["dataset", "model", "seed", "status"])
Outcome = tuple[dict[str, Tensor], dict[str, Any]]


def outcome(
    model: str,
    dataset: str = "digits",
    seed: int = 0,
    loss: str = "pgd",
    robust: int = 50,
    *own: dict[str, Any],
) -> Outcome:
    """Return a white-box outcome: of 100 images 90 are right and the last `robust` withstand."""
    tensors = {
        "selected.clean": flags(90, 100),
        "selected.fgsm": flags(80, 100),
        "selected.pgd20": flags(robust, 100),
        "selected.autoattack": flags(0, 16),
        "last.clean": flags(90, 100),
        "last.pgd20": flags(0, 100),
        "curve": torch.zeros(2, 100, dtype=torch.uint8),
    }
    return tensors, description(
        dataset={"name": dataset},
        network=model,
        seed=seed,
        checkpoints={
            "selected": {"loss": loss, "epoch": 1},
            "last": {"loss": loss, "epoch": 2},
        },
        checks=list(own),
    )


def verdicts(
    outcomes: list[Outcome],
    blackbox: dict[str, dict[str, Tensor]] | None = None,
    check: str | None = None,
) -> list[dict[str, Any]]:
    """Return the rows of one check, or of all."""
    scored = {name: (tensors, {"checks": {}}) for name, tensors in (blackbox or {}).items()}
    rows = check_rows(outcomes, scored)
    return [row for row in rows if check in {None, row["check"]}]


def test_the_verdicts_of_the_stages_come_first_and_only_bad_ones_have_advice() -> None:
    rows = verdicts([outcome("a_net", "digits", 3, "mart", 50, GOOD, BAD, DOUBT)])
    cell = {"dataset": "digits", "model": "a_net", "training": "mart", "seed": 3}
    assert rows[:3] == [
        {**cell, "check": "eval_mode", "status": "PASS", "figure": "0 of 9", "advice": ""},
        {
            **cell,
            "check": "epsilon_zero",
            "status": "FAIL",
            "figure": "3 of 9",
            "advice": "look closer",
        },
        {
            **cell,
            "check": "box_and_ball",
            "status": "WARN",
            "figure": "nothing",
            "advice": "try again",
        },
    ]
    assert [row["check"] for row in rows[3:]] == ["blackbox_not_stronger", "control_falls"]
    assert all(list(row) == list(rows[0]) for row in rows)


def test_black_box_outcomes_are_those_of_the_network_and_its_seed() -> None:
    """Square counts too; examples that were made on the network itself do not."""
    nothing, all_right = flags(0, 100), flags(100, 100)
    others = {
        "1.a_net.other": flags(48, 100),
        "1.a_net.square": flags(30, 60),
        "1.a_net.a_net": nothing,
        "0.a_net.other": nothing,
        "11.a_net.other": nothing,
        "1.a_net2.other": nothing,
        "1.other.a_net": nothing,
    }
    (row,) = verdicts(
        [outcome("a_net", seed=1)],
        {"shapes": {"1.a_net.other": nothing}, "digits": others},
        "blackbox_not_stronger",
    )
    assert row["status"] == "WARN"
    assert row["figure"].startswith("2 of 100 images")
    assert row["figure"].endswith("fall to other, the strongest of 2 black-box attacks")
    others["1.a_net.square"] = flags(0, 60)
    (row,) = verdicts([outcome("a_net", seed=1)], {"digits": others}, "blackbox_not_stronger")
    assert row["status"] == "FAIL", "of the first sixty ten withstand the white box"
    assert row["figure"].startswith("10 of 60 images")
    assert "fall to square" in row["figure"]
    only_own = {"1.a_net.a_net": nothing}
    (row,) = verdicts([outcome("a_net", seed=1)], {"digits": only_own}, "blackbox_not_stronger")
    assert (row["status"], row["figure"]) == ("WARN", "no black-box attack was run")
    namesake = {"1.a_net.my_a_net": nothing}
    (row,) = verdicts([outcome("a_net", seed=1)], {"digits": namesake}, "blackbox_not_stronger")
    assert row["status"] == "FAIL", "another network, though its name ends alike"
    more = {"1.a_net.other": all_right}
    (row,) = verdicts([outcome("a_net", seed=1)], {"digits": more}, "blackbox_not_stronger")
    assert row["status"] == "PASS"


def test_the_white_box_is_the_union_over_the_selected_checkpoint() -> None:
    """The last checkpoint, the curve and an attack on some images say nothing of it."""
    tensors, found = outcome("a_net", robust=100)
    tensors["selected.cw_inf"] = bits("1" * 10 + "0" * 90)
    found["checks"] = []
    (row,) = verdicts(
        [(tensors, found)], {"digits": {"0.a_net.b": flags(0, 100)}}, "blackbox_not_stronger"
    )
    assert row["status"] == "PASS", "each of the attacks leaves images, all together none"
    assert row["figure"].startswith("0 of 100")


def test_each_dataset_and_seed_has_a_control_of_its_own() -> None:
    rows = verdicts(
        [
            outcome("plain", "digits", 0, "natural", 10),
            outcome("a_net", "digits", 0),
            outcome("plain", "digits", 1, "natural", 70),
            outcome("plain", "shapes", 0, "natural", 85),
            outcome("a_net", "mine", 0),
        ],
        check="control_falls",
    )
    found = [(row["dataset"], row["seed"], row["status"]) for row in rows]
    assert found == [
        ("digits", 0, "PASS"),
        ("digits", 1, "WARN"),
        ("shapes", 0, "FAIL"),
        ("mine", 0, "WARN"),
    ]
    assert {(row["model"], row["training"]) for row in rows} == {("all", "")}
    assert "falls from 90.0 % clean to 10.0 %" in rows[0]["figure"]
    assert "to 80.0 %" in rows[2]["figure"], "FGSM breaks more here, so the union counts"
    assert rows[3]["figure"] == "no undefended network was attacked on this dataset"


def test_a_defended_network_is_no_control_however_it_falls() -> None:
    (row,) = verdicts([outcome("a_net", loss="trades", robust=0)], check="control_falls")
    assert row["figure"].startswith("no undefended network")


def test_every_undefended_network_is_a_control() -> None:
    rows = verdicts(
        [
            outcome("plain", loss="natural", robust=85),
            outcome("wide", loss="natural", robust=0),
        ],
        check="control_falls",
    )
    assert [row["status"] for row in rows] == ["FAIL", "PASS"]


def verdict(status: str, **cell: Any) -> dict[str, Any]:
    return {"dataset": "digits", "model": "a_net", "seed": 0, "status": status, **cell}


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([], "oooooo"),
        ([verdict("PASS"), verdict("WARN")], "oooooo"),
        ([verdict("WARN"), verdict("FAIL"), verdict("PASS")], "uooooo"),
        ([verdict("FAIL", seed=1)], "ouoooo"),
        ([verdict("FAIL", model="b_net")], "oouooo"),
        ([verdict("FAIL", dataset="shapes")], "ooouoo"),
        ([verdict("FAIL", model="all")], "uouooo"),
        ([verdict("FAIL", model="all", dataset="shapes")], "ooouuo"),
        ([verdict("FAIL", model="all", dataset="shapes", seed=1)], "ooooou"),
        ([verdict("WARN", model="all")], "oooooo"),
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
    table = judged(pd.DataFrame(rows), pd.DataFrame(found) if found else NO_VERDICTS)
    words = {"o": "ok", "u": "unreliable"}
    assert table["status"].tolist() == [words[letter] for letter in expected]
    assert list(table.columns) == [*rows[0], "status"]
    assert table.drop(columns="status").to_dict("records") == rows


def test_every_row_of_a_network_is_judged_alike() -> None:
    rows = [measured(attack=a, checkpoint=c) for a in ("clean", "fgsm") for c in ("last", "x")]
    table = judged(pd.DataFrame(rows), pd.DataFrame([verdict("FAIL")]))
    assert table["status"].tolist() == ["unreliable"] * 4


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


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    """An empty text is missing."""
    rows = [
        {"model": "a", "training": "", "epsilon": "8/255", "accuracy": 12.5, "sd": math.nan},
        {"model": "b", "training": "pgd", "epsilon": "0.10", "accuracy": 0.0, "sd": 1.5},
    ]
    path = tmp_path / "table.csv"
    write_tables({"table_csv": path}, {"table": rows})
    table = read_table(path)
    assert table["epsilon"].tolist() == ["8/255", "0.10"]
    assert table["accuracy"].tolist() == [12.5, 0.0]
    assert table["training"].isna().tolist() == [True, False]
    assert table["sd"].isna().tolist() == [True, False]
    assert list(table.columns) == list(rows[0])


def test_a_table_of_nothing_is_read_as_nothing(tmp_path: Path) -> None:
    write_tables({"a_csv": tmp_path / "a.csv"}, {"a": []})
    assert read_table(tmp_path / "a.csv").empty


def test_a_table_with_a_head_only_keeps_it(tmp_path: Path) -> None:
    write_tables({"a_csv": tmp_path / "a.csv"}, {"a": pd.DataFrame(columns=["x", "epsilon"])})
    table = read_table(tmp_path / "a.csv")
    assert (list(table.columns), len(table)) == (["x", "epsilon"], 0)


def test_a_missing_table_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.csv is missing: run `snakemake") as caught:
        read_table(tmp_path / "none.csv")
    assert "\n" not in str(caught.value)
