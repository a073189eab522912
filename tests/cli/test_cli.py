"""The command line: a mistake is one sentence on stderr, exit code 2, nothing written is lost."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import yaml
from calls import Arnas, caller

from arnas.config.load import load_params
from arnas.config.schema import schema_text

ROOT = Path(__file__).parents[2]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with settings and presets, and nothing else."""
    shutil.copytree(ROOT / "workflow/presets", tmp_path / "workflow/presets")
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ARNAS_PARAMS", raising=False)
    return tmp_path


@pytest.fixture
def arnas(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Arnas:
    """Return a function that runs a command line in this process."""
    return caller(monkeypatch, capsys)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("data --dataset mars", ["--dataset is 'mars'", "digits, shapes"]),
        ("retrain --dataset digits --network vgg --seed 0", ["--network is 'vgg'"]),
        ("derive --search dsara --seed one", ["--seed is 'one'"]),
        ("derive --search dsara --seed 0", ["multiobjective/state.safetensors is missing"]),
        ("tables", ["is missing", "snakemake --cores all"]),
        ("results", ["results/tables/digits/whitebox.csv is missing"]),
        ("params use nothing", ["no preset 'nothing'", "digits, digits_zoo, mnist5k, smoke"]),
        ("params show --params nowhere.yaml", ["nowhere.yaml is missing"]),
        ("reproduces here there", ["here/whitebox.csv is missing"]),
    ],
)
def test_a_mistake_is_one_sentence(arnas: Arnas, line: str, words: list[str]) -> None:
    ended = arnas(line)
    assert ended.code == 2
    assert ended.out == ""
    assert ended.err.startswith("error: ")
    assert ended.err.count("\n") == 1
    for word in words:
        assert word in ended.err


@pytest.mark.parametrize("line", ["data", "fly", "data --dataset", "retrain --speed 3"])
def test_a_wrong_command_line_is_refused(arnas: Arnas, line: str) -> None:
    assert arnas(line).code == 2


def test_settings_are_checked_before_the_work(project: Path, arnas: Arnas) -> None:
    """A mistake in a block that the stage does not read stops it all the same."""
    content = yaml.safe_load((project / "params.yaml").read_text())
    content["whitebox"]["attacks"] = ["fgsm", "magic"]
    (project / "params.yaml").write_text(yaml.safe_dump(content))
    ended = arnas("data --dataset digits")
    assert ended.code == 2
    assert "whitebox.attacks[1] is 'magic'" in ended.err
    assert not (project / "results").exists()


def test_params_use_keeps_settings_of_the_users_own(project: Path, arnas: Arnas) -> None:
    own = (project / "params.yaml").read_text() + "# mine\n"
    (project / "params.yaml").write_text(own)
    ended = arnas("params use smoke")
    assert ended.code in {0, None}
    assert "params.previous.1.yaml" in ended.out
    assert (project / "params.previous.1.yaml").read_text() == own
    assert load_params().name == "smoke"
    again = arnas("params use digits")
    assert "previous" not in again.out
    assert load_params().name == "digits"


def test_a_preset_that_is_wrong_is_not_taken(project: Path, arnas: Arnas) -> None:
    before = (project / "params.yaml").read_bytes()
    (project / "workflow/presets/bad.yaml").write_text("name: bad\n")
    assert arnas("params use bad").code == 2
    assert (project / "params.yaml").read_bytes() == before


def test_params_show_prints_valid_settings(project: Path, arnas: Arnas) -> None:
    ended = arnas("params show")
    (project / "shown.yaml").write_text(ended.out)
    assert load_params(project / "shown.yaml") == load_params()


def test_params_schema_is_the_stored_one(arnas: Arnas) -> None:
    ended = arnas("params schema")
    assert ended.out == schema_text()
    assert json.loads(ended.out)["properties"]["threat"]


def test_the_zoo_is_listed_with_its_sizes(arnas: Arnas) -> None:
    shown = arnas("models").out
    for words in ("arnas", "4,520,394", "1,240,151,040", "resnet18", "11,173,962", "2405.05502"):
        assert words in shown
    assert "advrush" not in arnas("models arnas").out


def test_cells_are_drawn_on_request(project: Path, arnas: Arnas) -> None:
    assert arnas("models advrush --draw").code in {0, None}
    assert "Normal cell" in (project / "advrush.svg").read_text()
    assert "needs a model with cells" in arnas("models resnet18 --draw").err
    assert "no model 'vgg'" in arnas("models vgg").err


def test_unusable_threads_and_devices(arnas: Arnas, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARNAS_THREADS", "many")
    assert "ARNAS_THREADS is 'many'" in arnas("data --dataset digits").err
    monkeypatch.setenv("ARNAS_THREADS", "1")
    monkeypatch.setenv("ARNAS_DEVICE", "abacus")
    assert "ARNAS_DEVICE is 'abacus'" in arnas("data --dataset digits").err


def test_every_table_of_accuracies_must_reproduce(project: Path, arnas: Arnas) -> None:
    """The committed tables against themselves, and with one accuracy far off in each."""
    shutil.copytree(ROOT / "results/tables/digits", project / "before")
    shutil.copytree(project / "before", project / "now")
    ended = arnas("reproduces before now")
    assert ended.code in {0, None}
    assert "the same bytes" in ended.out
    for name in ("whitebox", "curve", "blackbox"):
        path = project / "now" / f"{name}.csv"
        text = path.read_text()
        table = pd.read_csv(path, dtype=str)
        table.loc[0, "accuracy"] = "12.5"
        table.to_csv(path, index=False)
        ended = arnas("reproduces before now")
        assert ended.code == 1
        assert f"drift: {name}: " in ended.out
        assert "now does not reproduce before: 1 differences" in ended.out
        path.write_text(text)


def test_results_name_the_accuracies_the_checks_and_the_report(project: Path, arnas: Arnas) -> None:
    shutil.copytree(ROOT / "results/tables/digits", project / "results/tables/digits")
    assert "Report:" not in arnas("results").out
    (project / "results/digits").mkdir()
    (project / "results/digits/report.html").write_text("<html>")
    few = arnas("results").out
    verdicts = pd.read_csv(project / "results/tables/digits/checks.csv")
    counts = verdicts["status"].value_counts()
    assert f"Checks: {counts['PASS']} PASS, {counts.get('WARN', 0)} WARN" in few
    assert "Report: results/digits/report.html" in few
    every = arnas("results --checks").out
    assert every.count("\nPASS ") == counts["PASS"]
    assert few.count("\nPASS ") == 0
    assert "\nSKIP " not in few
    for row in verdicts[verdicts["status"].isin(["WARN", "FAIL"])].itertuples():
        assert row.advice in few
