"""The jobs of a run: their files, their commands, and what an aggregate gathers."""

from __future__ import annotations

import copy
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from arnas.config.load import check_params, load_params
from arnas.config.params import Params
from arnas.pipeline import plan
from arnas.pipeline.jobs import (
    cells,
    find_job,
    gathered,
    lookup,
    planned_jobs,
    producers,
)
from arnas.pipeline.plan import STAGES, Stage, stage_by_name, stage_versions
from arnas.runtime.errors import UserError

ROOT = Path(__file__).parents[2]
DEFAULT: dict[str, Any] = yaml.safe_load((ROOT / "params.yaml").read_text())
AGGREGATES = [stage for stage in STAGES if stage.gathers]


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
    job = find_job("blackbox", {"dataset": "shapes"}, params)
    assert sorted(job.inputs) == ["splits"]


def entering(params: Params) -> dict[str, Path]:
    """Return what enters any aggregate from a search or a trained network, by job and key."""
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
    made = {path for job in planned_jobs(after) for path in job.outputs.values()}
    assert set(entering(after).values()) <= made
    assert entering(after)


def test_producers_are_instances_of_the_run_in_its_order() -> None:
    params = wide()
    stage = stage_by_name("tables")
    found = producers(stage, "retrain", {}, params)
    planned = [i for i in planned_jobs(params) if i.stage.command == "retrain"]
    assert found == planned
    assert [job.stage.name for job in found] == ["retrain_zoo"] * 4 + ["retrain_searched"] * 8
    of_digits = producers(stage_by_name("blackbox"), "retrain", {"dataset": "digits"}, params)
    assert of_digits == [i for i in planned if i.axes["dataset"] == "digits"]
    assert producers(stage, "no_such_command", {}, params) == []


def test_a_setting_at_its_default_is_left_out_of_what_a_stage_reads() -> None:
    """So that naming it changes no fingerprint."""
    content = copy.deepcopy(DEFAULT)
    content["blackbox"] = {"steps": 20, "square_queries": 7}
    params = check_params(content, "test")
    assert lookup(params, "blackbox") == {"square_queries": 7}


@pytest.fixture(scope="module")
def params() -> Params:
    return load_params(ROOT / "params.yaml")


def counts(params: Params) -> dict[str, int]:
    return dict(Counter(job.stage.name for job in planned_jobs(params)))


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
    assert len(planned_jobs(params)) == 25


def test_every_input_has_a_producer_earlier_in_the_list(params: Params) -> None:
    made: set[Path] = set()
    for job in planned_jobs(params):
        assert set(job.inputs.values()) <= made
        made |= set(job.outputs.values())


def test_every_stage_has_a_version() -> None:
    assert set(stage_versions()) == {stage.command for stage in STAGES}
    assert all(type(v) is int and v >= 1 for v in stage_versions().values())


def test_aggregates_read_no_last_checkpoint(params: Params) -> None:
    """None reads manifests, which carry clock times.

    `blackbox` reads the selected checkpoint's weights, `analysis` and `tables` its description.
    """
    checkpoints = {"selected.safetensors", "last.safetensors"}
    readers = {"blackbox", "analysis", "tables"}
    for job in planned_jobs(params):
        names = {path.name for path in gathered(job.stage, job.axes, params).values()}
        assert "manifest.json" not in names
        expected = {"selected.safetensors"} if job.stage.name in readers else set()
        assert names & checkpoints == expected, job.title


def test_a_cell_outside_the_run_can_be_named(params: Params) -> None:
    axes = {"dataset": "digits", "network": "dsara", "seed": "7"}
    job = find_job("retrain", axes, params)
    assert job.stage.name == "retrain_searched"
    assert "results/digits/search/dsara/7/genotype/genotype.json" in map(str, job.inputs.values())


def test_an_npz_is_an_input_of_its_data_stage() -> None:
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    content["data"]["mine"] = {
        "source": "npz",
        "path": "mine.npz",
        "test_images": 5,
        "val_images": 5,
    }
    found = find_job("data", {"dataset": "mine"}, check_params(content, "test"))
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
        find_job(command, axes, params)
    for word in words:
        assert word in str(caught.value)


def test_a_stage_without_a_version_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions = stage_versions()
    path = tmp_path / "versions.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in versions.items() if k != "blackbox"}))
    monkeypatch.setattr(plan, "VERSIONS_PATH", path)
    with pytest.raises(UserError, match="has no version of blackbox: add it"):
        stage_versions.__wrapped__()
