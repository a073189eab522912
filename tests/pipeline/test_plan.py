"""The plan: instances, their commands, and what a change of settings touches."""

from __future__ import annotations

import copy
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from arnas.config.load import check_params, load_params
from arnas.config.params import Params
from arnas.pipeline.jobs import find_instance, gathered, instances
from arnas.pipeline.plan import STAGES, stage_versions
from arnas.runtime.errors import UserError

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def params() -> Params:
    return load_params(ROOT / "params.yaml")


def with_run(**changes: Any) -> Params:
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    content = copy.deepcopy(content)
    content["run"] |= changes
    return check_params(content, "test")


def counts(params: Params) -> dict[str, int]:
    return dict(Counter(instance.stage.name for instance in instances(params)))


def test_the_default_has_twentyfive_instances(params: Params) -> None:
    """Three networks on the digits; one search, whose network is trained on both datasets."""
    assert counts(params) == {
        "data": 2,
        "search_adversarial": 1,
        "search_multiobjective": 1,
        "derive": 1,
        "retrain_zoo": 3,
        "retrain_searched": 2,
        "whitebox": 5,
        "blackbox_examples": 5,
        "blackbox": 2,
        "analysis": 1,
        "tables": 1,
        "report": 1,
    }
    assert len(instances(params)) == 25


def test_two_seeds_double_all_but_data_and_aggregates(params: Params) -> None:
    single = {"data", "blackbox", "analysis", "tables", "report"}
    expected = {k: n if k in single else 2 * n for k, n in counts(params).items()}
    assert counts(with_run(seeds=[0, 1])) == expected
    assert len(instances(with_run(seeds=[0, 1]))) == 2 + 2 * 18 + 2 + 3


def test_no_path_has_two_producers(params: Params) -> None:
    paths = [p for i in instances(params) for p in [*i.outputs.values(), i.manifest]]
    assert len(set(paths)) == len(paths)


def test_every_input_has_a_producer_earlier_in_the_list(params: Params) -> None:
    made: set[Path] = set()
    for instance in instances(params):
        assert set(instance.inputs.values()) <= made
        made |= set(instance.outputs.values())


def test_all_paths_lie_under_the_name(params: Params) -> None:
    for instance in instances(params):
        for path in [*instance.outputs.values(), instance.manifest]:
            assert str(path).startswith(("results/digits/", "results/tables/digits/"))


def test_every_stage_has_a_version() -> None:
    assert set(stage_versions()) == {stage.command for stage in STAGES}
    assert all(type(v) is int and v >= 1 for v in stage_versions().values())


def test_aggregates_read_no_last_checkpoint(params: Params) -> None:
    """None reads manifests, which carry clock times."""
    for instance in instances(params):
        names = {path.name for path in gathered(instance.stage, instance.axes, params).values()}
        assert not names & {"manifest.json", "last.safetensors"}, instance.title


def test_a_cell_outside_the_run_can_be_named(params: Params) -> None:
    axes = {"dataset": "digits", "network": "dsara", "seed": "7"}
    instance = find_instance("retrain", axes, params)
    assert instance.stage.name == "retrain_searched"
    assert "results/digits/search/dsara/7/genotype/genotype.json" in map(
        str, instance.inputs.values()
    )


def test_an_npz_is_an_input_of_its_data_stage() -> None:
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    content["data"]["mine"] = {
        "source": "npz",
        "path": "mine.npz",
        "test_images": 5,
        "val_images": 5,
    }
    found = find_instance("data", {"dataset": "mine"}, check_params(content, "test"))
    assert [str(path) for path in found.inputs.values()] == ["mine.npz"]


@pytest.mark.parametrize(
    ("command", "axes", "words"),
    [
        ("data", {"dataset": "mars"}, ["--dataset is 'mars'", "digits, shapes"]),
        ("derive", {"search": "rush", "seed": "0"}, ["--search is 'rush'", "dsara"]),
        ("derive", {"search": "dsara", "seed": "-1"}, ["--seed is '-1'"]),
        ("derive", {"search": "dsara", "seed": "00"}, ["--seed is '00'"]),
        ("derive", {"search": "dsara", "seed": "²"}, ["--seed is '²'"]),
        (
            "retrain",
            {"dataset": "digits", "network": "vgg", "seed": "0"},
            ["--network is 'vgg'", "arnas, resnet18, arnas_undefended, dsara"],
        ),
    ],
)
def test_unknown_axes_are_named(
    command: str, axes: dict[str, str], words: list[str], params: Params
) -> None:
    with pytest.raises(UserError) as caught:
        find_instance(command, axes, params)
    for word in words:
        assert word in str(caught.value)
