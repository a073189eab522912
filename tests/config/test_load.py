"""Settings are checked before anything runs; errors name the field, the value and the way out."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from dotted import put
from ruamel.yaml import YAML

from arnas.config.load import check_files, check_params, load_params, read_yaml
from arnas.config.schema import SCHEMA_PATH, schema_text
from arnas.runtime.errors import UserError

ROOT = Path(__file__).parents[2]
PRESETS = sorted((ROOT / "workflow/presets").glob("*.yaml"))
OUR_YAML = [
    ROOT / "params.yaml",
    ROOT / "dvc.yaml",
    ROOT / "arnas/pipeline/versions.yaml",
    *PRESETS,
]


def default() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((ROOT / "params.yaml").read_text())
    return content


def change(path: str, value: Any) -> dict[str, Any]:
    """Return the default settings with one value set, blocks on the way created."""
    return put(default(), path, value)


def sentence(content: Any) -> str:
    with pytest.raises(UserError) as caught:
        check_params(content, "params.yaml")
    return str(caught.value)


@pytest.mark.parametrize("path", [ROOT / "params.yaml", *PRESETS], ids=lambda p: p.name)
def test_our_settings_are_valid(path: Path) -> None:
    assert load_params(path).name == ("digits" if path.stem == "params" else path.stem)


def test_the_default_is_the_digits_preset() -> None:
    """So that `params use digits` leads back to the checkout's own file."""
    preset = ROOT / "workflow/presets/digits.yaml"
    assert (ROOT / "params.yaml").read_bytes() == preset.read_bytes()


@pytest.mark.parametrize("path", OUR_YAML, ids=lambda p: p.name)
def test_both_yaml_dialects_read_our_files_alike(path: Path) -> None:
    """DVC reads YAML 1.2 through ruamel, Snakemake YAML 1.1 through PyYAML."""
    with path.open() as stream:
        assert yaml.safe_load(path.read_text()) == YAML(typ="safe").load(stream)


def test_schema_file_is_in_step_with_the_models() -> None:
    stored = (ROOT / SCHEMA_PATH).read_text()
    assert stored == schema_text(), "run `make schema`"


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("retrain.digits.epoch", 3, ["retrain.digits.epoch", "epochs", "did you mean epochs"]),
        ("colour", "red", ["colour", "is not a setting", "supernet"]),
        ("data.digits.tset_images", 3, ["data.digits.tset_images", "did you mean test_images"]),
        ("retrain.digits.epochs", "ten", ["retrain.digits.epochs", "'ten'", "integer"]),
        ("retrain.digits.epochs", 2.5, ["retrain.digits.epochs", "2.5"]),
        ("retrain.digits.epochs", 0, ["retrain.digits.epochs", "0", "greater than or equal to 1"]),
        ("retrain.digits.learning_rate", "1e-3", ["learning_rate", "'1e-3'", "write 0.001"]),
        ("threat.digits.epsilon", 8, ["threat.digits", "epsilon is 8", "8/255"]),
        ("threat.digits.epsilon", "eight", ["threat.digits.epsilon", "'eight'", "8/255"]),
        ("threat.digits.norm", "l7", ["threat.digits.norm", "'l7'", "linf"]),
        ("networks.arnas.model", "resnet999", ["networks.arnas.model", "'resnet999'", "arnas"]),
        ("networks.arnas.loss", "hinge", ["networks.arnas.loss", "'hinge'", "pgd"]),
        (
            "networks.arnas.loss",
            {"name": "trades", "beta": -2},
            ["networks.arnas.loss.beta is -2: input should be greater", "of this loss are beta"],
        ),
        ("run.controls", ["nobody"], ["run names 'nobody' among its controls", "networks has"]),
        ("networks.arnas.recipe", {"epoch": 3}, ["networks.arnas.recipe.epoch", "mean epochs?"]),
        (
            "networks.arnas.recipe",
            {"milestones": [1], "attack": {"steps": 3}},
            ["networks.arnas.recipe over retrain.digits: schedule cosine has no milestones"],
        ),
        (
            "networks.arnas.loss",
            {"name": "cost_sensitive", "costs": [[0.0, -1.0]]},
            ["networks.arnas.loss.costs[0][1] is -1.0: input should be greater"],
        ),
        ("networks.arnas.cells", 2, ["networks.arnas.cells", "2", "3"]),
        ("data.digits.source", "mnist", ["data.digits.source is 'mnist'", "shapes, npz"]),
        ("data.digits", {"test_images": 3}, ["data.digits.source is missing", "sklearn_digits"]),
        ("networks.arnas", {"model": "resnet18", "cells": 4}, ["networks.arnas", "no cells"]),
        (
            "networks.arnas",
            {"model": "resnet18", "space": {"widths": [1, 2, 4]}},
            ["resnet18 has no cells, so it has no space"],
        ),
        ("networks.square", {"model": "arnas"}, ["'square' names a network or a search"]),
        ("networks.all", {"model": "arnas"}, ["'all' names a network or a search"]),
        ("retrain.digits.learning_rate", float("inf"), ["learning_rate", "finite"]),
        ("searches.dsara.multiobjective.adversarial_weight", 0, ["adversarial_weight is 0"]),
        ("retrain.digits.attack.step_size", 8, ["attack.step_size", "write 8/255"]),
        ("data.digits.split_seed", 2**32, ["data.digits.split_seed", "less than"]),
        ("whitebox.last_attacks", ["fgsm", "fgsm"], ["last_attacks", "name each attack once"]),
        ("run", {**default()["run"], "searches": [], "networks": []}, ["no network to train"]),
        (
            "reproduction.orderings",
            [{"dataset": "digits", "attack": "pgd20", "better": "arnas", "worse": "nobody"}],
            ["reproduction.orderings", "'nobody'"],
        ),
        (
            "reproduction.orderings",
            [{"dataset": "digits", "attack": "pgd7", "better": "arnas", "worse": "arnas"}],
            ["reproduction.orderings", "'pgd7'", "whitebox.attacks has"],
        ),
        (
            "reproduction.orderings",
            [{"dataset": "digits", "attack": "pgd20", "better": "arnas", "worse": "arnas"}],
            ["compares arnas with itself"],
        ),
        ("retrain.digits.epochs", 10**30, ["retrain.digits.epochs", "100000"]),
        ("whitebox.attacks", ["fgsm", "pgd0"], ["whitebox.attacks[1]", "'pgd0'", "pgd20"]),
        ("whitebox.epsilon_curve", [0, 0.2, 0.1], ["epsilon_curve", "budgets must rise"]),
        ("whitebox.epsilon_curve", ["8px", "8/255"], ["epsilon_curve", "each named once"]),
        ("whitebox.epsilon_curve", [0, 8], ["whitebox.epsilon_curve: epsilon is 8"]),
        ("whitebox.epsilon_curve", [], ["whitebox.epsilon_curve is"]),
        ("whitebox.autoattack_datasets", ["mars"], ["names 'mars' among its datasets"]),
        ("whitebox.epsilon_curve", [0, "wide"], ["whitebox.epsilon_curve[1]", "'wide'"]),
        ("blackbox.steps", 0, ["blackbox.steps is 0"]),
        ("blackbox.square_queries", 0, ["blackbox.square_queries", "0"]),
        ("report.example_images", 33, ["report.example_images", "33", "32"]),
        ("retrain.digits.selection.train_images", 0, ["selection.train_images", "0"]),
        ("run.seeds", [], ["run.seeds", "at least 1"]),
        ("run.seeds", [0, 0], ["run.seeds", "[0, 0]", "once"]),
        ("run.networks", ["arnas", "vgg"], ["run.networks", "'vgg'", "arnas_undefended"]),
        ("run.searches", ["rush"], ["run.searches", "'rush'", "dsara"]),
        ("run.datasets", ["shapes"], ["'digits'", "run.datasets", "shapes"]),
        ("run.networks_on", ["mars"], ["'mars'", "run.datasets", "digits"]),
        ("networks.dsara", {"model": "arnas"}, ["'dsara'", "both a search and a network"]),
        ("searches.dsara.derive.epoch", 99, ["searches.dsara.derive.epoch", "99", "0 to 7"]),
        ("searches.dsara.multiobjective.epochs", 99, ["searches.dsara", "schedule_epochs"]),
        ("searches.dsara.adversarial.warmup_epochs", 9, ["warmup_epochs is 9", "0 to its"]),
        ("searches.dsara.space.kinds", ["accurate"], ["space.kinds", "at least 3"]),
        ("retrain.digits.milestones", [5], ["retrain.digits", "cosine has no milestones"]),
        ("name", "Bad Name", ["name", "'Bad Name'"]),
        ("supernet", None, ["supernet", "None"]),
    ],
)
def test_mistakes_are_named(path: str, value: Any, words: list[str]) -> None:
    text = sentence(change(path, value))
    assert "\n" not in text
    assert text.startswith("params.yaml: ")
    for word in words:
        assert word in text, text


@pytest.mark.parametrize("content", [None, [], "text", 3])
def test_settings_that_are_no_mapping(content: Any) -> None:
    assert "needed is a block of settings" in sentence(content)


@pytest.mark.parametrize(
    "value", ["010", "+010", "1:30", "1:30.5", "0:0.1", "00", "on", "off", "yes", "NO"]
)
def test_values_that_the_engines_read_differently_are_refused(value: str, tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(f"name: a\nrun: {value}\n")
    found = rf"line 2: '{re.escape(value)}' is ([\d.]+|true|false) to Snakemake"
    with pytest.raises(UserError, match=found):
        load_params(path)


@pytest.mark.parametrize("number", ["5e-05", "1E3", "1.5e3", "-2e-3", ".5e1", "5.0e-5", "6e4x"])
def test_numbers_of_yaml_1_2_are_read_as_dvc_reads_them(number: str, tmp_path: Path) -> None:
    """DVC and JSON write 5e-05, which is text to PyYAML."""
    path = tmp_path / "params.yaml"
    path.write_text(f"value: {number}\n")
    assert read_yaml(path) == YAML(typ="safe").load(path)


def test_a_repeated_key_is_refused(tmp_path: Path) -> None:
    """PyYAML would keep the last one without a word."""
    path = tmp_path / "params.yaml"
    path.write_text("name: a\nrun: {seeds: [0]}\nname: b\n")
    with pytest.raises(UserError, match=r"line 3: 'name' appears twice"):
        read_yaml(path)


def test_a_missing_file_says_where_to_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARNAS_PARAMS", "nowhere.yaml")
    with pytest.raises(UserError, match=r"nowhere\.yaml is missing.*ARNAS_PARAMS"):
        load_params()


def test_a_file_that_the_run_reads_must_be_there(tmp_path: Path) -> None:
    npz = {"source": "npz", "path": "no.npz", "test_images": 5, "val_images": 5}
    content = change("data.mine", npz)
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(content))
    load_params(path)
    content["run"]["datasets"].append("mine")
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(UserError, match=r"data\.mine\.path is 'no\.npz'.*no such file"):
        load_params(path)


@pytest.mark.parametrize(
    "name", ["a\0b", "a" * 5000, "line\nbreak", "../../no.npz", "/", "\x1b[2J"]
)
def test_a_file_that_cannot_be_is_named_in_one_line(name: str) -> None:
    npz = {"source": "npz", "path": name, "test_images": 5, "val_images": 5}
    content = change("data.mine", npz)
    content["run"]["datasets"].append("mine")
    with pytest.raises(UserError, match=r"^data\.mine\.path is .*no such file") as caught:
        check_files(check_params(content, "test"))
    assert str(caught.value).isprintable()


def test_values_that_aliases_make_huge_are_shown_short(tmp_path: Path) -> None:
    """A few lines of YAML for 10^9 words."""
    path = tmp_path / "params.yaml"
    rows = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    rows += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    text = (ROOT / "params.yaml").read_text()
    path.write_text("\n".join([text.replace("name: digits", "name: *a8"), ""]))
    path.write_text("\n".join([*rows, path.read_text()]))
    with pytest.raises(UserError, match=r"is not a setting|name is") as caught:
        load_params(path)
    assert len(str(caught.value)) < 1000


def test_a_folder_is_no_settings_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read as settings"):
        read_yaml(tmp_path)


@pytest.mark.parametrize("part", ["space", "adversarial", "multiobjective", "derive", "network"])
def test_a_search_without_a_part_is_refused(part: str) -> None:
    """Both engines look a part up by its path, so a default would not reach them."""
    content = default()
    del content["searches"]["dsara"][part]
    with pytest.raises(UserError, match=f"searches.dsara.{part} is missing: add it beside"):
        check_params(content, "test")
    content["searches"]["dsara"][part] = {}
    if part in {"space", "derive", "network"}:
        check_params(content, "test")
