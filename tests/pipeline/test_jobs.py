"""What an aggregate gathers: the cells of the run, and of its own axes only."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from arnas.config.load import check_params
from arnas.config.params import Params
from arnas.pipeline.jobs import (
    Instance,
    cells,
    find_instance,
    gathered,
    instances,
    instantiate,
    lookup,
    producers,
)
from arnas.pipeline.plan import STAGES, Stage, stage_by_command, stage_by_name

ROOT = Path(__file__).parents[2]
DEFAULT: dict[str, Any] = yaml.safe_load((ROOT / "params.yaml").read_text())
AGGREGATES = [stage for stage in STAGES if stage.gathers]
PLAIN = [stage for stage in STAGES if not stage.gathers]


def with_run(**changes: Any) -> Params:
    content = copy.deepcopy(DEFAULT)
    content["searches"]["sum"] = content["searches"]["dsara"]
    content["run"] |= changes
    return check_params(content, "test")


def wide() -> Params:
    """Return a run with two of everything, zoo on shapes and searches on both."""
    return with_run(
        searches=["dsara", "sum"],
        networks=["arnas", "resnet18"],
        networks_on=["shapes"],
        searches_on=["digits", "shapes"],
        seeds=[0, 2],
    )


def keys(command: str, params: Params, **axes: str) -> list[str]:
    return list(gathered(stage_by_name(command), axes, params))


def test_the_aggregates_are_these() -> None:
    assert [stage.name for stage in AGGREGATES] == ["blackbox", "analysis", "tables", "report"]
    assert stage_by_name("blackbox").axes == ("dataset",)


@pytest.mark.parametrize("stage", AGGREGATES, ids=lambda stage: stage.name)
def test_what_is_gathered_has_a_producer_with_that_output(stage: Stage) -> None:
    """By a command that exists, and that stands earlier in the plan."""
    before = STAGES[: STAGES.index(stage)]
    for command, wanted in stage.gathers.items():
        made_by = [other for other in before if other.command == command]
        assert made_by, command
        for other in made_by:
            assert set(wanted) <= set(other.outputs)
            assert set(stage.axes) <= set(other.axes)


@pytest.mark.parametrize("stage", PLAIN, ids=lambda stage: stage.name)
def test_other_stages_gather_nothing(stage: Stage) -> None:
    axes = {"dataset": "digits", "network": "arnas", "search": "dsara", "seed": "0"}
    assert gathered(stage, {axis: axes[axis] for axis in stage.axes}, wide()) == {}


def test_the_black_box_gathers_its_own_dataset_only() -> None:
    """On the digits the two searched networks, on shapes all four, for both seeds."""
    params = wide()
    expected = {
        "digits": ["dsara", "sum"],
        "shapes": ["arnas", "resnet18", "dsara", "sum"],
    }
    for dataset, networks in expected.items():
        assert keys("blackbox", params, dataset=dataset) == [
            f"{command}/{dataset}/{network}/{seed}/{key}"
            for command, outputs in (
                ("retrain", ("selected",)),
                ("blackbox_examples", ("examples",)),
            )
            for network in networks
            for seed in (0, 2)
            for key in outputs
        ]


def test_a_gathered_file_is_the_output_of_its_instance() -> None:
    params = wide()
    found = gathered(stage_by_name("blackbox"), {"dataset": "shapes"}, params)
    place = "results/digits/retrain/shapes/sum/2/selected.safetensors"
    assert found["retrain/shapes/sum/2/selected"] == Path(place)


def test_the_tables_gather_every_cell_of_the_run() -> None:
    """Two histories of two searches and seeds; twelve networks, by training and outcomes."""
    found = keys("tables", wide())
    networks = 2 * (2 + 4)
    assert len(found) == 2 * 2 * 2 + networks * (2 + 1) + 2
    assert len(set(found)) == len(found)
    starts = [key.split("/")[0] for key in found]
    assert list(dict.fromkeys(starts)) == [
        "search_adversarial",
        "search_multiobjective",
        "retrain",
        "whitebox",
        "blackbox",
    ]


def test_a_dataset_on_which_nothing_is_trained_gathers_nothing() -> None:
    params = with_run(searches_on=["digits"])
    assert keys("blackbox", params, dataset="shapes") == []
    instance = find_instance("blackbox", {"dataset": "shapes"}, params)
    assert sorted(instance.inputs) == ["splits"]


def entering(params: Params) -> dict[str, Path]:
    """Return what enters any aggregate from a search or a trained network, by instance and key."""
    return {
        key: path
        for stage in AGGREGATES
        for axes in cells(stage, params)
        for key, path in gathered(stage, axes, params).items()
        if key.split("/")[0] not in {"data", "blackbox", "analysis", "tables"}
    }


@pytest.mark.parametrize(
    ("changes", "gone"),
    [
        ({"seeds": [2]}, {"0"}),
        ({"networks": ["resnet18"]}, {"arnas"}),
        ({"searches": ["sum"]}, {"dsara"}),
        ({"searches_on": ["shapes"]}, {"digits"}),
        ({"searches_on": ["digits"]}, {"shapes", "dsara"}),
        ({"networks_on": ["digits"]}, {"shapes", "arnas"}),
    ],
)
def test_a_removed_cell_never_enters(changes: dict[str, Any], gone: set[str]) -> None:
    """Though its files may still lie in the folders."""
    after = with_run(**{**wide().run.model_dump(), **changes})

    def removed(found: dict[str, Path]) -> dict[str, Path]:
        return {key: path for key, path in found.items() if gone <= set(key.split("/"))}

    assert removed(entering(wide()))
    assert not removed(entering(after))
    assert not set(removed(entering(wide())).values()) & set(entering(after).values())
    made = {path for instance in instances(after) for path in instance.outputs.values()}
    assert set(entering(after).values()) <= made
    assert entering(after)


def test_producers_are_instances_of_the_run_in_its_order() -> None:
    params = wide()
    stage = stage_by_name("tables")
    found = producers(stage, "retrain", {}, params)
    planned = [i for i in instances(params) if i.stage.command == "retrain"]
    assert found == planned
    assert [instance.stage.name for instance in found] == ["retrain_zoo"] * 4 + [
        "retrain_searched"
    ] * 8
    of_digits = producers(stage_by_name("blackbox"), "retrain", {"dataset": "digits"}, params)
    assert of_digits == [i for i in planned if i.axes["dataset"] == "digits"]
    assert producers(stage, "no_such_command", {}, params) == []


def test_inputs_of_an_aggregate_are_its_own_and_what_it_gathers() -> None:
    params = wide()
    for instance in instances(params):
        own = set(instance.stage.inputs)
        found = set(gathered(instance.stage, instance.axes, params))
        assert not own & found
        if instance.stage.name != "data":
            assert set(instance.inputs) == own | found


def test_the_black_box_of_another_dataset_is_another_instance() -> None:
    params = wide()
    found: list[Instance] = [
        instantiate(stage_by_command("blackbox"), axes, params)
        for axes in cells(stage_by_command("blackbox"), params)
    ]
    assert [instance.axes for instance in found] == [{"dataset": "digits"}, {"dataset": "shapes"}]
    assert [" ".join(instance.command) for instance in found] == [
        "python -m arnas blackbox --dataset digits",
        "python -m arnas blackbox --dataset shapes",
    ]
    assert not set(found[0].outputs.values()) & set(found[1].outputs.values())
    assert found[0].title == "blackbox digits"


def test_a_setting_at_its_default_is_left_out_of_what_a_stage_reads() -> None:
    """So that naming it changes no fingerprint."""
    content = copy.deepcopy(DEFAULT)
    content["blackbox"] = {"steps": 20, "square_queries": 7}
    params = check_params(content, "test")
    assert lookup(params, "blackbox") == {"square_queries": 7}
