"""Two engines on one checkout: no result is stale, and none is made twice for nothing.

One run by Snakemake; every test works on a copy of it, results included. Overrides by ``--config``,
raised versions and a setting that changes and returns under DVC alone are in `test_engines.py`.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import time
from pathlib import Path

import pytest
import yaml
from engines import (
    checked,
    commit,
    copied,
    dvc_changed,
    edit_settings,
    jobs_to_run,
    pretended_gpus,
    run,
)

from arnas.config.load import load_params
from arnas.pipeline.jobs import planned_jobs
from arnas.runtime.files import read_json

pytestmark = pytest.mark.long

TABLES = "python -m arnas tables"
REPORT = "python -m arnas report"
WHITEBOX = "python -m arnas whitebox --dataset digits --network arnas --seed 0"
METRICS = "results/tables/smoke/metrics.json"


def arnas(folder: Path, line: str, **environment: str) -> str:
    return checked(folder, "python", "-m", "arnas", *line.split(), **environment)


def change(folder: Path, old: str, new: str) -> None:
    """Change a setting as an editor would."""
    path = folder / "params.yaml"
    text = path.read_text()
    assert text.count(old) == 1, old
    path.write_text(text.replace(old, new))


@pytest.fixture(scope="module")
def adopted(run_by_snakemake: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same after `adopt`, committed to git."""
    folder = copied(run_by_snakemake, tmp_path_factory.mktemp("adopted"))
    said = arnas(folder, "adopt")
    count = len(planned_jobs(load_params(folder / "params.yaml")))
    assert f"{count} results were told to DVC, 0 known before, 0 refused." in said
    commit(folder)
    return folder


def explained(folder: Path, target: str) -> set[str]:
    """Return the commands that `explain` says would run."""
    titles = {
        i.title: " ".join(i.command) for i in planned_jobs(load_params(folder / "params.yaml"))
    }
    said = arnas(folder, f"explain {target}")
    return {titles[title] for title in re.findall(r"^  (.*?): ", said, re.M)}


def test_adopted_results_are_dvcs_own(adopted: Path, tmp_path: Path) -> None:
    folder = copied(adopted, tmp_path)
    assert dvc_changed(folder) == {}
    assert "Running stage" not in checked(folder, "dvc", "repro")
    assert "0 results were told to DVC" in arnas(folder, "adopt")
    assert "python -m arnas adopt" not in arnas(folder, "status")
    assert jobs_to_run(folder) == set()


def test_before_it_status_names_adopt_and_a_dry_run_does_nothing(run_by_snakemake: Path) -> None:
    assert "`python -m arnas adopt` tells it" in arnas(run_by_snakemake, "status")
    assert "would adopt report" in arnas(run_by_snakemake, "adopt --dry-run")
    assert not (run_by_snakemake / "dvc.lock").exists()


def test_what_is_stale_or_altered_is_not_adopted(run_by_snakemake: Path, tmp_path: Path) -> None:
    """The rest is, and DVC makes exactly what was refused."""
    folder = copied(run_by_snakemake, tmp_path)
    table = folder / "results/tables/smoke/whitebox.csv"
    table.write_text(table.read_text().replace("digits", "digit5", 1))
    change(folder, "square_queries: 10", "square_queries: 9")
    done = run(folder, "python", "-m", "arnas", "adopt")
    assert done.returncode == 1
    refused = set(re.findall(r"^not adopted: (.*?): ", done.stdout, re.M))
    assert refused == {
        "blackbox_examples digits/arnas/0",
        "blackbox_examples digits/dsara/0",
        "blackbox digits",
        "analysis",
        "tables",
        "report",
    }
    assert "blackbox.square_queries was 10, is 9" in done.stdout
    assert "whitebox.csv is not what the stage has written" in done.stdout
    assert {name.partition("@")[0] for name in dvc_changed(folder)} == {
        "blackbox_examples",
        "blackbox_examples_searched",
        "blackbox",
        "analysis",
        "tables",
        "report",
    }
    (folder / "dvc.lock").write_text("<<<<<<< HEAD\n")
    done = run(folder, "python", "-m", "arnas", "adopt")
    assert done.returncode == 2
    assert done.stderr.startswith("error: DVC refuses: ") and "Traceback" not in done.stderr


def test_changed_between_the_engines_and_reverted(adopted: Path, tmp_path: Path) -> None:
    """Snakemake at one setting, DVC at another, and back: neither is stale, nothing runs twice."""
    folder = copied(adopted, tmp_path)
    settings = (folder / "params.yaml").read_text()
    outcomes = folder / "results/smoke/whitebox/digits/arnas/0/outcomes.safetensors"
    before = outcomes.read_bytes()
    change(folder, "curve_images: 20", "curve_images: 10")
    wanted = {WHITEBOX, WHITEBOX.replace("arnas --seed", "dsara --seed"), TABLES}
    assert jobs_to_run(folder, METRICS) == wanted
    ran = checked(folder, "dvc", "repro", "tables")
    assert set(re.findall(r"^Running stage '(\w+)", ran, re.M)) == {
        "whitebox",
        "whitebox_searched",
        "tables",
    }
    assert jobs_to_run(folder, METRICS) == set(), "DVC has made it, though Snakemake made another"
    assert outcomes.read_bytes() != before

    (folder / "params.yaml").write_text(settings)
    assert jobs_to_run(folder, METRICS) == wanted, "what is there belongs to the other setting"
    assert explained(folder, METRICS) == wanted
    assert "whitebox.curve_images was 10, is 20" in arnas(folder, "explain whitebox")
    ran = checked(folder, "dvc", "repro", "tables")
    assert "Stage 'whitebox@digits-arnas-0' is cached - skipping run" in ran
    assert outcomes.read_bytes() == before
    assert jobs_to_run(folder) == set(), "DVC's checkout gives times in any order"
    assert dvc_changed(folder) == {}


def test_an_applied_experiment_is_current_to_snakemake(adopted: Path, tmp_path: Path) -> None:
    folder = copied(adopted, tmp_path)
    checked(folder, "dvc", "exp", "run", "-n", "one", "-S", "report.example_images=1")
    checked(folder, "git", "checkout", "-q", "-f", "HEAD")
    assert REPORT in jobs_to_run(folder), "the settings are back, the files are the experiment's"
    checked(folder, "dvc", "checkout", "-q", "-f")
    assert jobs_to_run(folder) == set()
    checked(folder, "dvc", "exp", "apply", "one")
    settings = yaml.safe_load((folder / "params.yaml").read_text())
    assert settings["report"] == {"example_images": 1}
    assert jobs_to_run(folder) == set()
    assert dvc_changed(folder) == {}


def test_a_fresh_clone_with_results_runs_nothing(adopted: Path, tmp_path: Path) -> None:
    """Snakemake has no memory of these files, and DVC checks them out in any order."""
    folder = tmp_path / "clone"
    checked(tmp_path, "git", "clone", "-q", str(adopted), str(folder))
    shutil.copytree(adopted / ".dvc/cache", folder / ".dvc/cache")
    checked(folder, "dvc", "checkout", "-q")
    for number, path in enumerate(sorted((folder / "results").rglob("*.*"), reverse=True)):
        os.utime(path, (1e9 + number, 1e9 + number))
    assert jobs_to_run(folder) == set()
    assert explained(folder, "report") == set()
    assert dvc_changed(folder) == {}


def cache_is_whole(folder: Path) -> int:
    """Check that each object of DVC's cache has the bytes that name it; return their number."""
    objects = [
        path
        for path in (folder / ".dvc/cache/files/md5").rglob("*")
        if path.is_file() and not path.name.endswith(".dir")
    ]
    for path in objects:
        name = path.parent.name + path.name
        assert hashlib.md5(path.read_bytes()).hexdigest() == name, path
    return len(objects)


@pytest.mark.parametrize("link", ["hardlink", "symlink"])
def test_no_stage_writes_through_a_link(run_by_snakemake: Path, tmp_path: Path, link: str) -> None:
    folder = copied(run_by_snakemake, tmp_path)
    checked(folder, "dvc", "config", "--local", "cache.type", link)
    arnas(folder, "adopt")
    report = folder / "results/smoke/report.html"
    assert report.is_symlink() if link == "symlink" else report.stat().st_nlink == 2
    assert jobs_to_run(folder) == set()
    objects = cache_is_whole(folder)
    change(folder, "epoch: last", "epoch: 0")
    arnas(folder, "derive --search dsara --seed 0")
    genotype = folder / "results/smoke/search/dsara/0/genotype/genotype.json"
    assert "after epoch 0" in genotype.read_text() and not genotype.is_symlink()
    assert cache_is_whole(folder) == objects
    change(folder, "epoch: 0", "epoch: last")
    checked(folder, "snakemake", "--cores", "1", str(genotype.relative_to(folder)))
    assert "after epoch 2" in genotype.read_text() and not genotype.is_symlink()
    assert cache_is_whole(folder) == objects
    arnas(folder, "adopt")
    # As many, if even the new manifest's wall time is that of the old one.
    assert cache_is_whole(folder) >= objects
    assert dvc_changed(folder) == {}
    assert jobs_to_run(folder) == set()


@pytest.mark.parametrize(
    ("situation", "target"),
    [
        ("setting", "report"),
        ("target deleted", "results/smoke/report.html"),
        ("output deleted", "report"),
        ("result deleted", "report"),
        ("clock was ahead", "report"),
        ("manifest deleted", "report"),
        ("input altered", "report"),
        ("input made anew", "report"),
        ("cells removed", "report"),
    ],
)
def test_explain_agrees_with_snakemake(
    situation: str, target: str, run_by_snakemake: Path, tmp_path: Path
) -> None:
    folder = copied(run_by_snakemake, tmp_path)
    results = folder / "results/smoke"
    if situation == "setting":
        change(folder, "epoch: last", "epoch: 1")
    if situation == "target deleted":
        (results / "report.html").unlink()
    if situation == "output deleted":
        (results / "retrain/digits/arnas/0/last.safetensors").unlink()
    if situation == "result deleted":
        shutil.rmtree(results / "retrain/digits/arnas/0")
    if situation == "clock was ahead":
        for path in (folder / "results").rglob("*"):
            os.utime(path, (time.time() + 10**6,) * 2, follow_symlinks=False)
        change(folder, "curve_images: 20", "curve_images: 19")
    if situation == "manifest deleted":
        (results / "whitebox/digits/arnas/0/manifest.json").unlink()
    if situation == "input altered":
        table = folder / "results/tables/smoke/curve.csv"
        table.write_text(table.read_text() + "\n")
    if situation == "input made anew":
        change(folder, "epoch: last", "epoch: 1")
        arnas(folder, "derive --search dsara --seed 0")
        change(folder, "epoch: 1", "epoch: last")
    if situation == "cells removed":
        edit_settings(folder, run__networks=[])
    expected = jobs_to_run(folder, target)
    assert explained(folder, target) == expected
    assert expected


def test_overrides_reach_the_stage(adopted: Path, tmp_path: Path) -> None:
    """Of a file; `--config` is in `test_engines.py`, DVC's `-S` with the queue below."""
    folder = copied(adopted, tmp_path)
    (folder / "few.yaml").write_text("report: {example_images: 1}\n")
    table = folder / "results/tables/smoke/examples.csv"
    before = len(table.read_text().splitlines())
    target = str(table.relative_to(folder))
    checked(folder, "snakemake", "--cores", "1", target, "--configfile", "few.yaml")
    one = len(table.read_text().splitlines())
    assert (before - 1, one - 1) == (2 * 3, 2 * 1)
    manifest = read_json(folder / "results/smoke/analysis/manifest.json")
    assert manifest["settings"]["report"] == {"example_images": 1}
    assert "python -m arnas analysis" in jobs_to_run(folder), "params.yaml says otherwise"


def test_a_number_that_the_engines_read_differently_is_refused(
    adopted: Path, tmp_path: Path
) -> None:
    """YAML 1.1 has 010 as 8, YAML 1.2 as 10; `tests/config` has the other spellings."""
    folder, value = copied(adopted, tmp_path), "010"
    change(folder, "square_queries: 10", "square_queries: 010")
    for command in (("snakemake", "-n"), ("dvc", "repro", "tables", "--force", "--single-item")):
        done = run(folder, *command)
        said = done.stdout + done.stderr
        assert done.returncode != 0 and f"'{value}'" in said, said[-2000:]
        assert "Traceback" not in said


def test_queued_experiments_run_side_by_side(adopted: Path, tmp_path: Path) -> None:
    """Each in a copy with its own settings, all data and its own GPU; the workspace stays."""
    folder = copied(adopted, tmp_path)
    table = folder / "results/tables/smoke/examples.csv"
    before = {path: path.read_bytes() for path in (table, folder / "params.yaml")}
    for name, value in (("one", 1), ("two", 2)):
        options = (f"report.example_images={value}", f"whitebox.curve_images={10 + value}")
        settings = [word for option in options for word in ("-S", option)]
        checked(folder, "dvc", "exp", "run", "--queue", "-n", name, *settings)
    # The workers would keep a pipe open.
    line = "dvc queue start -j 2 >queue.log 2>&1 </dev/null"
    checked(folder, "bash", "-c", line, **pretended_gpus(tmp_path / "gpus", "a", "b"))
    end, rows = time.monotonic() + 400, {"one": "Queued"}
    while time.monotonic() < end and set(rows.values()) & {"Queued", "Running"}:
        time.sleep(3)
        shown = checked(folder, "dvc", "queue", "status")
        rows = dict(re.findall(r"\b(one|two)\b.*?\b(Queued|Running|Success|Failed)\b", shown))
    assert rows == {"one": "Success", "two": "Success"}, checked(folder, "dvc", "queue", "status")
    assert {path: path.read_bytes() for path in before} == before
    logs = [checked(folder, "dvc", "queue", "logs", name) for name in rows]
    held = [re.findall(r"\[whitebox .*\] on cpu \(GPU (.)\)", log) for log in logs]
    assert all(held), logs
    assert {"a", "b"} == {gpu for gpus in held for gpu in gpus}, held
    shown = checked(folder, "dvc", "exp", "show", "--json", "--no-pager")
    for name, value in (("one", 1), ("two", 2)):
        assert f'"name": "{name}"' in shown
        made = checked(
            folder, "git", "show", f"{reference(folder, name)}:{table.relative_to(folder)}"
        )
        assert len(made.splitlines()) - 1 == 2 * value
    assert not list((folder / ".arnas/state").rglob("holder.json"))


def reference(folder: Path, name: str) -> str:
    """Return the git reference of an experiment."""
    shown = checked(folder, "git", "for-each-ref", "--format=%(refname)", "refs/exps")
    return next(line for line in shown.splitlines() if line.endswith(f"/{name}"))
