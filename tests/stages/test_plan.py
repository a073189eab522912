"""The plan: instances, their commands, and what a change of settings touches."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from arnas.config.load import check_params, load_params
from arnas.config.params import Params
from arnas.runtime.errors import UserError
from arnas.stages.plan import STAGES, aggregate_inputs, find_instance, instances, stage_versions

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def params() -> Params:
    return load_params(ROOT / "params.yaml")


def with_run(**changes: Any) -> Params:
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    content = copy.deepcopy(content)
    content["run"] |= changes
    return check_params(content, "test")


def test_the_default_has_eleven_instances(params: Params) -> None:
    assert len(instances(params)) == 1 + 2 + 1 + 3 + 3 + 1


def test_two_seeds_double_all_but_data_and_tables() -> None:
    assert len(instances(with_run(seeds=[0, 1]))) == 1 + 2 * 9 + 1


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


def test_aggregates_never_read_weights_or_manifests(params: Params) -> None:
    names = {path.name for path in aggregate_inputs(params).values()}
    assert not names & {"manifest.json", "selected.safetensors", "last.safetensors"}


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
        "selection_images": 5,
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
            ["--network is 'vgg'", "arnas, arnas_undefended, dsara"],
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
