"""Ours beside published: what matches, which difference is named, and what never shows."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import published_source
import pytest
from report_cases import measured

from arnas.attacks.registry import ATTACKS
from arnas.models.registry import ModelSpec
from arnas.reporting.published.compare import COLUMNS, Network, compare, network
from arnas.reporting.published.sources import Published, load_published
from arnas.reporting.run.tables import read_table, to_csv, to_markdown, write_tables
from arnas.runtime.errors import UserError
from arnas.spaces.options import SpaceOptions
from arnas.spaces.published import GENOTYPES
from arnas.training.options import RetrainOptions
from arnas.training.registry import LOSSES, loss_options

RECIPE = RetrainOptions(epochs=100, milestones=[])
LOSS = loss_options("pgd")
OURS = Network("cifar10", "resnet18", 64, None, RECIPE, LOSS)
CELL = ("photos", "mine")
EXACT = published_source.source(
    checkpoint="held_out",
    attacks={
        "pgd20": {"step": "2/255"},
        "pgd100": {"step": "2/255"},
        "cw_inf": {"steps": 30, "step": "2/255"},
    },
    networks=[
        {
            "model": "resnet18",
            "dataset": "cifar10",
            "training": "pgd",
            "accuracy": {
                "clean": 82.0,
                "fgsm": 57.0,
                "pgd20": 50.0,
                "pgd100": 49.5,
                "cw_inf": 49.0,
                "apgd_ce": 48.5,
                "autoattack": 46.0,
            },
        }
    ],
)


def published(**changes: Any) -> Published:
    """Return one source whose protocol is ours but for the changes."""
    return Published.model_validate({"sources": [EXACT | changes]})


def entry(**changes: Any) -> list[dict[str, Any]]:
    return [EXACT["networks"][0] | changes]


def whitebox(
    accuracies: Mapping[str, tuple[float, ...]] | None = None, **changes: Any
) -> pd.DataFrame:
    """Return both checkpoints under each attack, one row a seed; changes are columns."""
    found = accuracies or dict.fromkeys(("clean", *ATTACKS), (80.0, 81.0))
    named = {"dataset": CELL[0], "model": CELL[1], "epsilon": "8/255", "n": 10_000}
    row = measured(**named) | {"status": "ok"}
    return pd.DataFrame(
        [
            {**row, "seed": seed, "checkpoint": checkpoint, "attack": attack}
            | {"accuracy": accuracy - lost}
            | changes
            for checkpoint, lost in (("selected", 0.0), ("last", 3.0))
            for attack, values in found.items()
            for seed, accuracy in enumerate(values)
        ]
    )


def beside(table: pd.DataFrame, facts: Network, numbers: Published) -> list[dict[str, Any]]:
    return compare(table, {CELL: facts}, numbers).to_dict("records")


def test_an_equal_protocol_has_no_flags() -> None:
    rows = beside(whitebox(), OURS, published())
    assert [row["attack"] for row in rows] == list(EXACT["networks"][0]["accuracy"])
    assert {row["protocol"] for row in rows} == {""}
    assert {row["checkpoint"] for row in rows} == {"selected"}
    assert list(rows[0]) == list(COLUMNS)
    assert rows[0].items() >= {
        ("dataset", "photos"),
        ("model", "mine"),
        ("published_model", "resnet18"),
        ("n", 10_000),
        ("seeds", 2),
        ("ours", 80.5),
        ("sd", 0.71),
        ("published", 82.0),
        ("difference", -1.5),
        ("source", "One (arXiv 0000.00000)"),
    }


def test_mean_and_sample_deviation_over_seeds() -> None:
    values = (49.11, 50.32, 52.97)
    (row,) = beside(whitebox({"pgd20": values}), OURS, published())
    assert row["seeds"] == 3
    assert row["ours"] == round(statistics.fmean(values), 2)
    assert row["sd"] == round(statistics.stdev(values), 2)
    assert row["difference"] == round(row["ours"] - 50.0, 2)


FLAGS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "epsilon": ({"epsilon": "0.031"}, {}, "epsilon 0.031, ours 8/255"),
    "epsilon of ours": ({}, {"epsilon": "0.03"}, "epsilon 8/255, ours 0.03"),
    "no epsilon": ({"epsilon": None}, {}, "epsilon not stated"),
    "norm": ({}, {"norm": "l2"}, "norm linf, ours l2"),
    "test selection": (
        {"checkpoint": "best_on_test"},
        {},
        "checkpoint best on test images, ours chosen on held-out images",
    ),
    "unknown selection": (
        {"checkpoint": "unknown"},
        {},
        "checkpoint not stated, ours chosen on held-out images",
    ),
    "epochs": ({"epochs": 200}, {}, "200 epochs, ours 100"),
    "no epochs": ({"epochs": None}, {}, "epochs not stated"),
    "extra data": ({"extra_data": "500k images"}, {}, "extra data: 500k images"),
    "few images": ({}, {"n": 1000}, "ours on 1,000 of 10,000 test images"),
    "one seed": ({}, {"seed": 0}, "ours of one seed"),
    "remark": ({"networks": entry(remark="rounded")}, {}, "rounded"),
    "failed check": ({}, {"status": "unreliable"}, "a check of ours failed"),
}


@pytest.mark.parametrize("name", FLAGS)
def test_each_difference_alone_is_named(name: str) -> None:
    theirs, ours, flag = FLAGS[name]
    table = whitebox({"clean": (80.0,) if name == "one seed" else (80.0, 81.0)}, **ours)
    (row,) = beside(table, OURS, published(**theirs))
    assert row["protocol"] == flag


STEPS: dict[str, tuple[str, dict[str, Any], str]] = {
    "step": ("pgd20", {"step": "0.8px"}, "steps of 0.8px, ours 0.25 epsilon = 0.00784"),
    "decimal step": ("pgd100", {"step": "0.01"}, "steps of 0.01, ours 0.25 epsilon = 0.00784"),
    "no step": ("pgd20", {}, "length of steps not stated"),
    "steps": ("cw_inf", {"steps": 40, "step": "2/255"}, "40 steps, ours 30"),
    "no steps": ("cw_inf", {"step": "2/255"}, "number of steps not stated"),
}


@pytest.mark.parametrize("name", STEPS)
def test_each_difference_of_an_attack_alone_is_named(name: str) -> None:
    attack, details, flag = STEPS[name]
    numbers = published(attacks={attack: details})
    (row,) = beside(whitebox({attack: (50.0, 51.0)}), OURS, numbers)
    assert row["protocol"] == flag


@pytest.mark.parametrize(
    "ours", ["8/255", "8px", "0.0313725490196", 8 / 255, "0.03137254901960784313"]
)
def test_one_epsilon_may_be_written_in_many_ways(ours: str | float) -> None:
    (row,) = beside(whitebox({"clean": (80.0, 81.0)}, epsilon=ours), OURS, published())
    assert row["protocol"] == ""


def test_a_last_checkpoint_meets_a_last_checkpoint() -> None:
    (row,) = beside(whitebox({"clean": (80.0, 81.0)}), OURS, published(checkpoint="last"))
    assert (row["checkpoint"], row["ours"], row["protocol"]) == ("last", 77.5, "")
    table = whitebox({"clean": (80.0, 81.0)})
    table = table[table["checkpoint"] == "selected"]
    (row,) = beside(table, OURS, published(checkpoint="last"))
    assert row["protocol"] == "checkpoint of the last epoch, ours chosen on held-out images"


@pytest.mark.parametrize(
    "facts",
    [
        {"channels": 32},
        {"channels": 63},
        {"cells": 20},
        {"model": "preact_resnet18"},
        {"source": "cifar100"},
        {"source": "npz"},
    ],
    ids=str,
)
def test_another_network_or_dataset_is_not_beside(facts: dict[str, Any]) -> None:
    assert beside(whitebox(), replace(OURS, **facts), published()) == []


@pytest.mark.parametrize("loss", ["natural", "trades", "mart", "unknown"])
def test_another_loss_is_not_beside(loss: str) -> None:
    assert beside(whitebox(training=loss), OURS, published()) == []
    assert beside(whitebox(), OURS, published(networks=entry(training=loss))) == []


def test_a_size_that_was_published_is_compared() -> None:
    values = entry(model="advrush", channels=96, cells=23)
    facts = replace(OURS, model="advrush", channels=96, cells=23)
    rows = beside(whitebox(), facts, published(networks=values))
    assert {row["published_model"] for row in rows} == {"advrush, 96 channels, 23 cells"}
    assert (
        beside(whitebox(), replace(facts, channels=36, cells=20), published(networks=values)) == []
    )


def test_networks_without_facts_and_runs_without_rows_give_the_header() -> None:
    for table in (whitebox(), whitebox()[:0], pd.DataFrame()):
        empty = compare(table, {}, published())
        assert to_csv(empty) == ",".join(COLUMNS) + "\n"
        assert to_markdown(empty) == "Nothing of this kind was measured in this run.\n"


def described(**changes: Any) -> dict[str, Any]:
    sizes = {"num_classes": 10, "image_size": 32, "in_channels": 3}
    values: dict[str, Any] = {"name": "resnet18", "channels": None, "cells": None} | changes
    return ModelSpec(values.pop("name"), **sizes, **values).to_json()


def test_networks_come_from_their_descriptions() -> None:
    assert network(described(), "cifar10", RECIPE, LOSS) == OURS
    assert network(described(channels=64), "cifar10", RECIPE, LOSS) == OURS
    found = network(described(name="advrush", channels=96, cells=23), "svhn", RECIPE, LOSS)
    assert found == Network("svhn", "advrush", 96, 23, RECIPE, LOSS)


def test_a_genotype_or_layout_of_the_run_s_own_matches_nothing() -> None:
    genotype = GENOTYPES["advrush"].genotype
    assert network(described(name=genotype), "cifar10", RECIPE, LOSS) is None
    own = SpaceOptions(kinds=["robust", "robust", "accurate"])
    assert network(described(name="arnas", space=own), "cifar10", RECIPE, LOSS) is None
    same = GENOTYPES["advrush"].space
    assert network(described(name="advrush", space=same), "cifar10", RECIPE, LOSS) is not None


def everything() -> pd.DataFrame:
    """Return what is beside a run of every network, size, loss and dataset of the collection."""
    tables, networks = [], {}
    for _, row in load_published().entries():
        dataset, training, *key = row.key()
        cell = (f"{dataset}_{training}", "_".join(map(str, key)))
        networks[cell] = Network(
            dataset, *key, RECIPE, loss_options(training if training in LOSSES else "pgd")
        )
        tables.append(whitebox(dataset=cell[0], model=cell[1], training=training))
    return compare(pd.concat(tables).drop_duplicates(), networks, load_published())


def test_a_run_of_everything_shows_every_value() -> None:
    table = everything()
    keys = ("dataset", "training", "model", "source", "attack", "published")
    expected = []
    for source, row in load_published().entries():
        dataset, training, *key = row.key()
        cell = (f"{dataset}_{training}", training, "_".join(map(str, key)))
        named = f"{source.tag} ({source.reference})"
        expected += [(*cell, named, *item) for item in row.accuracy.items()]
    assert sorted(zip(*(table[key] for key in keys), strict=True)) == sorted(expected)


@pytest.mark.parametrize(
    ("weights", "flag"),
    [
        ({"trades": 6}, ""),
        ({"trades": 1}, "weight of trades 1, ours 6"),
        ({}, "weight of trades not stated"),
    ],
)
def test_another_weight_of_a_loss_is_named(weights: dict[str, float], flag: str) -> None:
    theirs = published(loss_weight=weights, networks=entry(training="trades"))
    ours = replace(OURS, loss=loss_options("trades"))
    rows = beside(whitebox(training="trades"), ours, theirs)
    assert {row["protocol"] for row in rows} == {flag}


def test_the_table_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "published.csv"
    for table in (everything(), compare(pd.DataFrame(), {}, published())):
        write_tables({"published_csv": path}, {"published": table})
        assert len(read_table(path)) == len(table)
    path.write_text(to_csv(everything()).replace(",2,", ",two,"))
    with pytest.raises(UserError, match="does not hold numbers only"):
        read_table(path)
    path.write_text("dataset,model\n")
    with pytest.raises(UserError, match="has no column"):
        read_table(path)
