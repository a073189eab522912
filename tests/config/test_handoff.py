"""Settings that Snakemake resolved reach the stages typed and checked."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from arnas.config.handoff import check_yaml, hand_off, use_checkout
from arnas.config.load import load_params

ROOT = Path(__file__).parents[2]


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.chdir(tmp_path)
    content: dict[str, Any] = yaml.safe_load((ROOT / "params.yaml").read_text())
    return content


def test_without_overrides_the_file_holds_the_settings(config: dict[str, Any]) -> None:
    before = json.loads(json.dumps(config))
    path = Path(hand_off(config, {}))
    assert config == before
    assert load_params(path) == load_params(ROOT / "params.yaml")


def test_text_from_the_command_line_gets_its_type(config: dict[str, Any]) -> None:
    override = {"retrain": {"digits": {"epochs": "3"}}, "run": {"seeds": ["4", "5"]}}
    config["retrain"]["digits"]["epochs"] = "3"
    config["run"]["seeds"] = ["4", "5"]
    params = load_params(Path(hand_off(config, override)))
    assert params.retrain["digits"].epochs == 3
    assert params.run.seeds == [4, 5]
    assert config["run"]["seeds"] == [4, 5]


def test_small_numbers_arrive(config: dict[str, Any]) -> None:
    """As 0.00005 in the file, which Python and JSON write 5e-05, and as DVC writes it."""
    config["supernet"]["alphas"]["learning_rate"] = 0.00005
    config["threat"]["digits"]["epsilon"] = "2e-05"
    config["supernet"]["attack"]["step_size"] = 1e-5
    params = load_params(Path(hand_off(config, {})))
    assert params.supernet.alphas.learning_rate == 5e-5
    assert params.threat["digits"].epsilon == 2e-5
    assert params.supernet.attack.step_size == 1e-5


def test_processes_of_a_checkout_import_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", "mine")
    use_checkout(tmp_path)
    assert os.environ["PYTHONPATH"] == "mine"
    use_checkout(ROOT)
    assert os.environ["PYTHONPATH"] == f"{ROOT}{os.pathsep}mine"
    monkeypatch.delenv("PYTHONPATH")
    use_checkout(ROOT)
    assert os.environ["PYTHONPATH"] == str(ROOT)


def test_other_text_stays_text(config: dict[str, Any]) -> None:
    config["threat"]["digits"]["epsilon"] = "8/255"
    params = load_params(Path(hand_off(config, {"threat": {"digits": {"epsilon": "8/255"}}})))
    assert params.threat["digits"].epsilon == "8/255"


def test_different_settings_have_different_files(config: dict[str, Any]) -> None:
    first = hand_off(config, {})
    config["whitebox"]["batch_size"] = 7
    assert hand_off(config, {}) != first


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ({"colour": "red"}, "error: settings: colour is not a setting"),
        (
            {"whitebox": "{attacks: [fgsm"},
            "error: --config '{attacks: [fgsm' is not readable YAML",
        ),
    ],
)
def test_a_mistake_ends_with_exit_code_2(
    override: dict[str, Any],
    words: str,
    config: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as ended:
        hand_off(config, override)
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith(words)


@pytest.mark.parametrize("text", ["name: a\nname: b\n", "a: [1"])
def test_the_file_is_read_strictly_before_snakemake_reads_it(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(SystemExit) as ended:
        check_yaml(tmp_path / "params.yaml")
    assert ended.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
