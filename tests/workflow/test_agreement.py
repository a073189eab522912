"""Snakemake and DVC express the same pipeline as the plan."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from engines import ROOT, Seen, copy_checkout, seen_by_dvc, seen_by_snakemake

from arnas.config.load import load_params
from arnas.config.params import Params
from arnas.pipeline.dvc import dvc_yaml
from arnas.pipeline.jobs import Job, planned_jobs
from arnas.pipeline.plan import STAGES, stage_by_name


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A copy whose run has two datasets, searches, networks and seeds, so that axes can mix up."""
    folder = copy_checkout(tmp_path_factory.mktemp("agreement"), "digits")
    settings = yaml.safe_load((folder / "params.yaml").read_text())
    settings["searches"]["sum"] = settings["searches"]["dsara"]
    settings["run"] |= {
        "datasets": ["digits", "shapes"],
        "searches": ["dsara", "sum"],
        "searches_on": ["digits", "shapes"],
        "networks_on": ["shapes"],
        "seeds": [0, 1],
    }
    (folder / "params.yaml").write_text(yaml.safe_dump(settings))
    yield folder


@pytest.fixture(scope="module")
def params(checkout: Path) -> Params:
    return load_params(checkout / "params.yaml")


def as_seen(job: Job) -> Seen:
    outputs = [str(path) for path in [*job.outputs.values(), job.manifest]]
    inputs = sorted(str(path) for path in job.inputs.values())
    return Seen(" ".join(job.command), tuple(inputs), tuple(sorted(outputs)))


def test_snakemake_has_the_plan(checkout: Path, params: Params) -> None:
    assert seen_by_snakemake(checkout) == {as_seen(job) for job in planned_jobs(params)}


def test_jobs_that_compute_on_networks_ask_for_a_gpu() -> None:
    for path in (ROOT / "workflow/rules").glob("*.smk"):
        for rule in re.split(r"\n(?=rule )", path.read_text()):
            name = re.match(r"rule (\w+):", rule)
            if name and name[1] in {stage.name for stage in STAGES}:
                asks = stage_by_name(name[1]).gpus != "none"
                assert ("gpu=1," in rule) == asks, name[1]


def test_the_committed_dvc_yaml_is_generated_from_the_plan() -> None:
    text = dvc_yaml(load_params(ROOT / "params.yaml"))
    assert (ROOT / "dvc.yaml").read_text() == text, "make plan"


def split(params: Params) -> tuple[set[Seen], dict[str, Seen]]:
    """Return the plan's plain jobs, and its aggregates by command."""
    plain = {as_seen(i) for i in planned_jobs(params) if not i.stage.gathers}
    gathering = (as_seen(i) for i in planned_jobs(params) if i.stage.gathers)
    return plain, {seen.command: seen for seen in gathering}


def test_dvc_has_the_plan(checkout: Path, params: Params) -> None:
    """An aggregate of DVC depends on folders, because it cannot take a list from `run`."""
    plain, aggregates = split(params)
    assert sorted(aggregates) == [
        "python -m arnas analysis",
        "python -m arnas blackbox --dataset digits",
        "python -m arnas blackbox --dataset shapes",
        "python -m arnas report",
        "python -m arnas tables",
    ]
    found = [seen for seen, _ in seen_by_dvc(checkout).values()]
    assert len({seen.command for seen in found}) == len(found)
    assert {seen for seen in found if seen.command not in aggregates} == plain
    assert {seen.command for seen in found} >= set(aggregates)


def contains(place: str, path: str) -> bool:
    """Return whether a dependency of DVC is the file, or a folder that holds it."""
    return Path(path).is_relative_to(place)


def test_the_aggregates_of_dvc_depend_on_what_contains_their_inputs(
    checkout: Path, params: Params
) -> None:
    """On no less, or a change would go unseen; and on nothing besides."""
    _, aggregates = split(params)
    found = {seen.command: seen for seen, _ in seen_by_dvc(checkout).values()}
    for command, plan in aggregates.items():
        assert found[command].outputs == plan.outputs
        for path in plan.inputs:
            assert any(contains(place, path) for place in found[command].inputs), (command, path)
        for place in found[command].inputs:
            assert any(contains(place, path) for path in plan.inputs), (command, place)


def test_dvc_reads_the_settings_of_the_plan(checkout: Path, params: Params) -> None:
    by_command = {" ".join(i.command): i for i in planned_jobs(params)}
    for seen, settings in seen_by_dvc(checkout).values():
        job = by_command[seen.command]
        assert sorted(settings["params.yaml"]) == sorted(job.params)
        assert settings["arnas/pipeline/versions.yaml"] == [job.stage.command]
