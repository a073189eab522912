"""Both engines run the smoke preset, and a changed setting leads both to the same jobs."""

from __future__ import annotations

import copy
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from dotted import put
from engines import (
    checked,
    commit,
    copied,
    dvc_changed,
    edit_settings,
    jobs_to_run,
    run,
    stages_with_changed_params,
)

from arnas.config.load import check_params
from arnas.pipeline.jobs import lookup, planned_jobs
from arnas.pipeline.plan import FIGURES, stage_versions

pytestmark = pytest.mark.long

CHANGES: dict[str, Any] = {
    "threat.digits.epsilon": 0.2,
    "searches.dsara.derive.epoch": 1,
    "whitebox.batch_size": 99,
    "run.networks": [],
    "reproduction.orderings": [
        {"dataset": "digits", "attack": "pgd20", "better": "dsara", "worse": "arnas", "by": 1}
    ],
}
"""A block that many stages read, one of a search, one of a stage, the grid, and one that no stage
reads; `test_agreement.py` compares the settings of every stage."""


def touched(before: dict[str, Any], after: dict[str, Any]) -> set[str]:
    """Return the commands of the plan's jobs whose own settings differ."""
    old, new = check_params(before, "before"), check_params(after, "after")
    return {
        " ".join(job.command)
        for job in planned_jobs(new)
        if any(lookup(old, path) != lookup(new, path) for path in job.params)
    }


def with_consumers(commands: set[str], settings: dict[str, Any]) -> set[str]:
    """Return the commands and those of all jobs that depend on them."""
    planned = planned_jobs(check_params(settings, "after"))
    made: set[Path] = set()
    result = set()
    for job in planned:
        command = " ".join(job.command)
        if command in commands or made & set(job.inputs.values()):
            result.add(command)
            made |= set(job.outputs.values())
    return result


@pytest.fixture(scope="module")
def by_snakemake(run_by_snakemake: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copied(run_by_snakemake, tmp_path_factory.mktemp("snakemake"))


@pytest.fixture(scope="module")
def by_dvc(run_by_dvc: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copied(run_by_dvc, tmp_path_factory.mktemp("dvc"))


@pytest.fixture
def settings(request: pytest.FixtureRequest) -> Iterator[dict[str, Any]]:
    """Yield the smoke settings; afterwards every copy has them again."""
    folders = [request.getfixturevalue(name) for name in ("by_snakemake", "by_dvc")]
    text = (folders[0] / "params.yaml").read_text()
    yield yaml.safe_load(text)
    for folder in folders:
        (folder / "params.yaml").write_text(text)


def test_both_engines_make_the_same_bytes(by_snakemake: Path, by_dvc: Path) -> None:
    names = sorted(path.name for path in (by_snakemake / "results/tables/smoke").iterdir())
    assert len(names) == 29
    for name in names:
        table = Path("results/tables/smoke") / name
        assert (by_snakemake / table).read_bytes() == (by_dvc / table).read_bytes(), name


def test_nothing_is_left_to_do(by_snakemake: Path, by_dvc: Path) -> None:
    again = run(by_snakemake, "snakemake", "-n")
    assert "Nothing to be done" in again.stdout + again.stderr
    assert dvc_changed(by_dvc) == {}


@pytest.mark.parametrize("path", CHANGES)
def test_a_change_leads_both_to_the_same_instances(
    path: str, settings: dict[str, Any], by_snakemake: Path, by_dvc: Path
) -> None:
    after = put(copy.deepcopy(settings), path, CHANGES[path])
    expected = touched(settings, after)
    assert bool(expected) == (not path.startswith("reproduction"))
    for folder in (by_snakemake, by_dvc):
        (folder / "params.yaml").write_text(yaml.safe_dump(after, sort_keys=False))
    assert jobs_to_run(by_snakemake) == with_consumers(expected, after)
    assert stages_with_changed_params(by_dvc) == expected


def test_raising_a_version_reruns_the_stage_in_both(by_snakemake: Path, by_dvc: Path) -> None:
    expected = {"python -m arnas derive --search dsara --seed 0"}
    settings = yaml.safe_load((by_snakemake / "params.yaml").read_text())
    now = stage_versions()["derive"]
    for folder in (by_snakemake, by_dvc):
        versions = folder / "arnas/pipeline/versions.yaml"
        versions.write_text(versions.read_text().replace(f"derive: {now}", "derive: 99"))
    assert jobs_to_run(by_snakemake) == with_consumers(expected, settings)
    assert stages_with_changed_params(by_dvc) == expected
    for folder in (by_snakemake, by_dvc):
        versions = folder / "arnas/pipeline/versions.yaml"
        versions.write_text(versions.read_text().replace("derive: 99", f"derive: {now}"))


def test_an_edit_of_code_reruns_nothing(by_snakemake: Path, by_dvc: Path) -> None:
    for folder in (by_snakemake, by_dvc):
        with (folder / "arnas/training/loop.py").open("a") as stream:
            stream.write("\n# an edit\n")
    assert jobs_to_run(by_snakemake) == set()
    assert dvc_changed(by_dvc) == {}


def test_an_override_reaches_the_stage(by_snakemake: Path) -> None:
    history = "results/smoke/retrain/digits/arnas/1/history.jsonl"
    override = '{"digits": {"epochs": 1}}'
    done = run(
        by_snakemake, "snakemake", "--cores", "1", history, "--config", f"retrain={override}"
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert len((by_snakemake / history).read_text().splitlines()) == 1


def test_targets_have_names(by_snakemake: Path) -> None:
    targets = ["search", "retrain", "evaluate", "tables", "report"]
    assert "Nothing to be done" in checked(by_snakemake, "snakemake", "-n", *targets)


def test_a_mistake_in_the_settings_is_one_sentence(by_snakemake: Path) -> None:
    done = run(by_snakemake, "snakemake", "-n", "--config", 'retrain={"digits": {"epoch": 3}}')
    assert done.returncode != 0
    assert "error: settings: retrain.digits.epoch is not a setting" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_run_without_searches_works_in_both(by_dvc: Path, tmp_path: Path) -> None:
    """The folders that DVC's aggregates depend on are there all the same."""
    folder = copied(by_dvc, tmp_path)
    edit_settings(folder, run__searches=[])
    for path in ("search", "retrain/digits/dsara", "blackbox_examples/digits/dsara"):
        shutil.rmtree(folder / "results/smoke" / path)
    checked(folder, "python", "-m", "arnas", "data", "--dataset", "digits")  # which makes them
    expected = {"blackbox --dataset digits", "analysis", "tables", "report"}
    assert jobs_to_run(folder) == {f"python -m arnas {line}" for line in expected}
    checked(folder, "dvc", "repro")
    assert jobs_to_run(folder) == set()


def test_snakemake_reports_and_draws(by_snakemake: Path) -> None:
    done = run(by_snakemake, "snakemake", "--report", "report.html")
    assert done.returncode == 0, done.stderr[-3000:]
    report = (by_snakemake / "report.html").read_text()
    assert "cells.svg" in report
    assert "whitebox.csv" in report
    for figure in FIGURES:
        assert f"{figure}.svg" in report
        caption = (by_snakemake / f"workflow/report/{figure}.rst").read_text()
        assert " ".join(caption.split()[:6]) in report
    graph = run(by_snakemake, "snakemake", "--rulegraph", "mermaid-js")
    assert re.search(r"search_adversarial", graph.stdout)
    assert run(by_snakemake, "snakemake", "--lint").returncode == 0


def test_dvc_shows_metrics_params_and_plots(by_dvc: Path) -> None:
    metrics = run(by_dvc, "dvc", "metrics", "show", "--json")
    content = json.loads(metrics.stdout)[""]["data"]["results/tables/smoke/metrics.json"]["data"]
    assert set(content["digits"]) == {"arnas", "dsara"}
    # Whether checks break more than the attacks depends on the last digit of the weights.
    rows = set(content["digits"]["dsara"]) - {"checks and curve"}
    assert rows == {"clean", "fgsm", "pgd20", "union"}
    plots = run(by_dvc, "dvc", "plots", "show", "-o", "plots")
    assert plots.returncode == 0, plots.stderr
    shown = (by_dvc / "plots/index.html").read_text()
    for curve in ("val_robust", "gamma", "epsilon", "adversarial_loss"):
        assert curve in shown


def test_dvc_experiments_compare_variants(by_dvc: Path) -> None:
    """Only the attacks and the tables rerun, and the variant stands beside the baseline."""
    commit(by_dvc)
    wider = "whitebox.attacks=[fgsm,pgd20,pgd100]"
    said = checked(by_dvc, "dvc", "exp", "run", "-n", "wider", "-S", wider)
    assert "Running stage 'whitebox@digits-arnas-0'" in said
    assert "Running stage 'retrain" not in said
    shown = run(by_dvc, "dvc", "exp", "show", "--csv", "--no-pager")
    assert "wider" in shown.stdout
    assert "digits.dsara.pgd100" in shown.stdout
    differences = run(by_dvc, "dvc", "params", "diff", "--md")
    assert "whitebox.attacks" in differences.stdout
