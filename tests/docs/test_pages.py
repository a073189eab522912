"""The pages tell the truth: their code runs, their commands, settings, files and checks exist."""

from __future__ import annotations

import copy
import importlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import typer
import yaml
from docs_pages import DOCS, PAGES, ROOT, blocks, having, write_modules

import arnas
from arnas import Threat
from arnas.cli import app
from arnas.config.load import check_params, read_yaml
from arnas.config.schema import fields_at, schema
from arnas.data.load import load_dataset
from arnas.data.sources.registry import DigitsOptions, NpzOptions
from arnas.data.splits import save_splits
from arnas.evaluation.checks import CHECKS, OLD_IDS
from arnas.models.registry import ModelSpec
from arnas.models.weight_files import save_weights
from arnas.pipeline.jobs import planned_jobs
from arnas.pipeline.plan import STAGES, stage_by_name
from arnas.runtime.errors import UserError
from arnas.runtime.files import save_tensors
from arnas.runtime.progress import silent
from arnas.runtime.seeds import seeded
from arnas.training.loop import TrainingData, TrainingTask, train
from arnas.training.options import RetrainOptions, SelectionOptions
from arnas.training.registry import loss_options

TEXTS = {page: path.read_text() for page, path in PAGES.items()}
TEXTS["tutorial.py"] = (DOCS / "tutorial.py").read_text()
JUDGE = "how-to/evaluate-a-model.md"
RESULTS = Path("results/digits")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the results that pages read: small, but of the same kind."""
    folder = tmp_path_factory.mktemp("project")
    options = DigitsOptions(source="sklearn_digits", test_images=60, val_images=40)
    splits = load_dataset("digits", options)
    save_splits(folder / RESULTS / "data/digits/splits.safetensors", splits)

    sizes: Any = {"num_classes": 10, "image_size": 8, "in_channels": 1, "channels": 4}
    with seeded("docs"):
        net = arnas.build_model("resnet18", **sizes)
    recipe = RetrainOptions(
        epochs=4,
        batch_size=64,
        schedule="cosine",
        milestones=[],
        selection=SelectionOptions(steps=1, train_images=20),
    )
    parts = TrainingData(splits.subset("train"), splits.subset("val"), splits.info.scale)
    task = TrainingTask(loss_options("natural"), parts, recipe, Threat("linf", 0.1), ("docs",))
    train(net, task, silent)
    described = ModelSpec("resnet18", cells=None, **sizes)
    path = folder / RESULTS / "retrain/digits/dsara/0/selected.safetensors"
    save_weights(path, net, described, {"loss": "natural", "epoch": 4})

    for name, flags in (("dsara", [1, 1, 1, 0]), ("plain_sum", [1, 1, 0, 1])):
        path = folder / RESULTS / f"whitebox/digits/{name}/0/outcomes.safetensors"
        save_tensors(path, {"selected.pgd100": torch.tensor(flags, dtype=torch.uint8)}, {})

    tables = folder / "results/tables/digits"
    tables.mkdir(parents=True)
    row = {"dataset": "digits", "model": "arnas", "check": "eval_mode", "evidence": "seen"}
    verdicts = pd.DataFrame([{**row, "status": "PASS"}, {**row, "status": "FAIL"}])
    verdicts.to_csv(tables / "checks.csv", index=False)
    return folder


def run_page(page: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Run a page's Python blocks one after the other and return the namespace."""
    monkeypatch.chdir(folder)
    namespace: dict[str, Any] = {}
    for block in blocks(page):
        if block.checked and block.language == "python":
            exec(compile(block.text, page, "exec"), namespace)
    return namespace


def test_every_page_with_code_is_run() -> None:
    assert set(having("python")) == {
        JUDGE,
        "how-to/add-an-attack.md",
        "how-to/compare-searches.md",
        "how-to/gate-and-reproduce.md",
        "how-to/use-your-own-code.md",
        "tutorial/first-run.md",
    }


@pytest.mark.long
def test_a_checkpoint_is_judged(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = run_page(JUDGE, project, monkeypatch)["found"]
    assert found.clean > 50, "the network has learnt"
    assert set(found.outcomes) == {"clean", "pgd20", "apgd_ce"}
    assert found.robust < found.clean
    status = {check.id: check.status for check in found.checks}
    assert status["ball_and_box"] == status["epsilon_zero"] == "PASS"
    shown = capsys.readouterr().out
    assert "of 16" in shown
    assert f"reliable: {found.reliable}" in shown


def test_networks_are_compared_image_by_image(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_page("how-to/compare-searches.md", project, monkeypatch)
    shown = capsys.readouterr().out
    assert "1 images stand in the first only, 1 in the second only" in shown
    assert "p = 1.000" in shown


def test_the_gate_counts_failures(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_page("how-to/gate-and-reproduce.md", project, monkeypatch)
    assert "1 of 2 checks fail" in capsys.readouterr().out


def test_new_objectives_and_attacks_run(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    write_modules("how-to/add-an-attack.md", project)
    seen = run_page("how-to/add-an-attack.md", project, monkeypatch)
    gap, net, y = (seen[name] for name in ("probability_gap", "net", "y"))
    before, after = (gap(net(seen[images]), y) for images in ("x", "x_adv"))
    assert (after > before).float().mean() > 0.7
    assert after.mean() > before.mean()
    assert set(seen["found"].attacks) == {"pgd20", "corners:random_corners"}


def test_the_npz_of_the_tutorial_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_page("tutorial/first-run.md", tmp_path, monkeypatch)
    options = NpzOptions(source="npz", path="mine.npz", test_images=300, val_images=120)
    splits = load_dataset("mine", options)
    assert splits.counts()["test"] == 300
    assert np.isclose(splits.pixels(splits.images).max(), 1)


def merged(base: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """Return settings with a page's changes: blocks merge, lists are replaced."""
    result = copy.deepcopy(base)
    for key, value in change.items():
        inner = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merged(result[key], value) if inner else value
    return result


@pytest.mark.parametrize("page", having("yaml"))
def test_settings_of_pages_are_valid(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_modules(page, tmp_path)
    default = yaml.safe_load((ROOT / "params.yaml").read_text())
    for block in blocks(page):
        if block.checked and block.language == "yaml":
            (tmp_path / "block.yaml").write_text(block.text)
            change = read_yaml(tmp_path / "block.yaml")
            params = check_params(merged(default, change), page)
            assert planned_jobs(params)
            wrong = merged(change, {next(iter(change)): {"magic": 1}})
            with pytest.raises(UserError):
                check_params(merged(default, wrong), page)


def test_entries_of_searches_are_complete() -> None:
    """The engines look up each part of a search by its path."""
    parts = set(fields_at(("searches", "x")))
    change = yaml.safe_load(next(b.text for b in blocks("how-to/compare-searches.md")))
    for name, search in change["searches"].items():
        assert set(search) == parts, name


def test_named_settings_exist() -> None:
    blocks_of_settings = schema()["properties"]
    named = {
        path
        for text in TEXTS.values()
        for path in re.findall(r"`([a-z_]+(?:\.(?:<name>|[a-z_0-9]+))+)(?:: [^`]*)?`", text)
        if path.split(".")[0] in blocks_of_settings
        and not path.endswith((".csv", ".md", ".html", ".py"))
    }
    assert len(named) > 10
    for path in named:
        keys = path.replace("<name>", "x").split(".")
        *above, last = [*keys[:2], "npz", *keys[2:]] if keys[0] == "data" else keys
        assert last in fields_at(tuple(above)) or fields_at((*above, last)), path


def command_options() -> dict[str, set[str]]:
    """Return each command of the command line with its options."""
    root: Any = typer.main.get_command(app)
    found = {}
    for name, command in root.commands.items():
        for inner, leaf in getattr(command, "commands", {"": command}).items():
            options = {option for p in leaf.params for option in p.opts if option.startswith("-")}
            found[f"{name} {inner}".strip()] = options
    return found


def test_named_commands_exist() -> None:
    known = command_options()
    count = 0
    for page, text in TEXTS.items():
        for line in re.findall(r"python -m arnas ((?:(?:params|plan) )?[a-z_]+[^`\n]*)", text):
            words = line.split()
            name = " ".join(words[: 2 if words[0] in {"params", "plan"} else 1])
            assert name in known, f"{page}: {line}"
            assert {word for word in words if word.startswith("--")} <= known[name], (
                f"{page}: {line}"
            )
            count += 1
    assert count > 10


def test_make_targets_are_named_and_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):.*## ", makefile, re.M)) - {"help"}
    named = {
        t for text in TEXTS.values() for t in re.findall(r"(?:`|^ {4})make ([a-z-]+)", text, re.M)
    }
    assert named == targets


def documented_tables() -> dict[str, tuple[bool, list[str]]]:
    """Return each table of files.md: whether it is Markdown too, and its columns."""
    found = {}
    text = TEXTS["reference/files.md"]
    for name, star, body in re.findall(
        r"^### `(\w+)\.csv`( \*)?\n(.*?)(?=^### )", text, re.M | re.S
    ):
        columns = re.search(r"^Columns: (.*?)\.$", body, re.M | re.S)
        assert columns is not None, name
        found[name] = (bool(star), re.findall(r"`([\w<>]+)`", columns[1]))
    return found


def test_every_table_is_documented() -> None:
    keys = {*stage_by_name("analysis").outputs, *stage_by_name("tables").outputs} - {"metrics"}
    planned = {
        k.removesuffix("_csv"): k.replace("_csv", "_md") in keys for k in keys if k.endswith("_csv")
    }
    assert {name: star for name, (star, _) in documented_tables().items()} == planned


@pytest.mark.parametrize("path", sorted((ROOT / "results/tables").glob("*/*.csv")), ids=str)
def test_columns_are_documented(path: Path) -> None:
    """Of the committed tables; one column for each kind of cell stands for all of them.

    Tables that a run has no rows for, as those of a search where there is none, are empty.
    """
    header = path.read_text().split("\n", 1)[0].split(",")
    if header == [""]:
        return
    found = [re.sub(r"(?<=skips_|tropy_)\w+$", "<kind>", column) for column in header]
    assert list(dict.fromkeys(found)) == documented_tables()[path.stem][1]


def test_every_output_has_its_folder_documented() -> None:
    text = TEXTS["reference/files.md"]
    for stage in STAGES:
        for template in [*stage.outputs.values(), stage.manifest]:
            path = re.sub(r"\{(\w+)\}", r"<\1>", template)
            if path.startswith("results/tables/"):
                continue
            inside = path.removeprefix("results/<name>/")
            folder = inside.rpartition("/")[0]
            assert inside in text or f"`{folder}/" in text, template


def test_every_check_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the table that is made from the registry; pages use no old name of a check."""
    monkeypatch.syspath_prepend(DOCS)
    pytest.importorskip("mkdocs")
    page = importlib.import_module("hooks").checks()
    for number, entry in enumerate(CHECKS.values(), start=1):
        assert f"| {number} | `{entry.id}` | {entry.fail}" in page
    for text in TEXTS.values():
        assert not set(OLD_IDS) & set(re.findall(r"`(\w+)`", text))
    assert "<!-- made: checks -->" in TEXTS["explanation/trust.md"]


def test_pages_speak_of_the_project_alone() -> None:
    """No path of somebody's machine, and no address of a package index."""
    for page, text in TEXTS.items():
        assert not re.search(r"/(home|root|tmp|work)/|/simple/", text), page
