"""Results that another engine made are judged by their manifests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from fake_run import job_named, make, smoke

from arnas.config.load import check_params, load_params
from arnas.config.params import Params
from arnas.config.references import referenced_files
from arnas.pipeline import jobs
from arnas.pipeline.dvc import dvc_yaml
from arnas.pipeline.freshness import LONG_AGO, why_stale, write_token
from arnas.pipeline.jobs import find_job
from arnas.pipeline.plan import stage_versions
from arnas.pipeline.runner import run_command
from arnas.runtime.errors import UserError
from arnas.runtime.files import read_json, write_sealed
from arnas.stages.data import run as run_data

AXES = {"dataset": "digits"}
MANIFEST = Path("results/smoke/data/digits/manifest.json")
RETRAIN = "retrain digits/arnas/0"


@pytest.fixture
def settings(empty_run: Params) -> dict[str, Any]:
    """A folder in which `data` was run by hand."""
    run_command("data", AXES, run_data)
    return smoke()


def token(settings: dict[str, Any]) -> Path:
    params = check_params(settings, "test")
    return write_token(find_job("data", AXES, params), params)


def reason(settings: dict[str, Any]) -> str | None:
    params = check_params(settings, "test")
    return why_stale(find_job("data", AXES, params), params)


def test_what_fits_the_settings_is_current(settings: dict[str, Any]) -> None:
    assert reason(settings) is None
    token_file = token(settings)
    assert token_file.stat().st_mtime == LONG_AGO


def test_changed_settings_make_it_stale_and_the_token_new(settings: dict[str, Any]) -> None:
    current = token(settings).read_text()
    settings["data"]["digits"]["split_seed"] = 5
    assert reason(settings) == "data.digits.split_seed was 0, is 5"
    token_file = token(settings)
    assert token_file.stat().st_mtime >= MANIFEST.stat().st_mtime
    assert token_file.read_text() != current
    assert read_json(token_file)["stale"].startswith("data.digits.split_seed was ")


def test_changed_and_reverted_settings_are_current_again(settings: dict[str, Any]) -> None:
    first = token(settings).read_text()
    settings["data"]["digits"]["split_seed"] = 5
    token(settings)
    settings["data"]["digits"]["split_seed"] = 0
    token_file = token(settings)
    assert token_file.read_text() == first
    assert token_file.stat().st_mtime == LONG_AGO


def test_a_setting_that_is_younger_than_the_result_is_named_only_if_somebody_set_it(
    settings: dict[str, Any],
) -> None:
    manifest = read_json(MANIFEST)
    del manifest["settings"]["data.digits"]["split"]  # at its default now
    write_sealed(MANIFEST, manifest)
    assert reason(settings) is None
    settings["data"]["digits"]["split_seed"] = 5
    assert reason(settings) == "data.digits.split_seed was 0, is 5"
    settings["data"]["digits"] |= {"split_seed": 0, "split": "contiguous"}
    assert reason(settings) == 'data.digits.split was not there, is "contiguous"'


def test_an_older_version_is_stale(settings: dict[str, Any]) -> None:
    write_sealed(MANIFEST, read_json(MANIFEST) | {"version": 0})
    assert reason(settings) == f"the stage's version was 0, is {stage_versions()['data']}"


@pytest.mark.parametrize("content", ["", "[]", '{"stage": "data"}'])
def test_a_damaged_manifest_is_stale(settings: dict[str, Any], content: str) -> None:
    MANIFEST.write_text(content)
    assert reason(settings) == "it has no manifest"
    token(settings)


def test_an_input_made_anew_makes_its_consumer_stale(settings: dict[str, Any]) -> None:
    params = load_params()
    retrain = job_named(RETRAIN, params)
    make(retrain, params)
    assert why_stale(retrain, params) is None
    for path in retrain.outputs.values():
        content = path.read_bytes()
        path.unlink()
        assert why_stale(retrain, params) == f"{path} is missing"
        path.write_bytes(content)
    producer = read_json(MANIFEST)
    changed = dict.fromkeys(producer["outputs"], "0" * 64)
    write_sealed(MANIFEST, {**producer, "outputs": changed})
    assert "has changed" in str(why_stale(retrain, params))


def test_a_result_of_a_stale_one_has_a_stale_token(settings: dict[str, Any]) -> None:
    """Or Snakemake would not look for what it is made from, which may be gone."""
    params = load_params()
    retrain = job_named(RETRAIN, params)
    make(retrain, params)
    assert "stale" not in read_json(write_token(retrain, params))
    MANIFEST.with_name("splits.safetensors").unlink()
    stale = read_json(write_token(retrain, params))["stale"]
    assert stale.startswith(f"data digits: {MANIFEST.parent}/splits.safetensors is missing")


def test_no_two_stale_tokens_are_alike(settings: dict[str, Any]) -> None:
    """Snakemake compares contents; a first run from nothing had a stale token too."""
    MANIFEST.unlink()
    first = token(settings).read_text()
    assert token(settings).read_text() != first


@pytest.mark.parametrize("damaged", [False, True])
def test_a_mistake_is_named_and_leaves_the_manifest_of_unchanged_outputs(
    settings: dict[str, Any], damaged: bool
) -> None:
    if damaged:
        MANIFEST.write_text("{")
    before = MANIFEST.read_bytes()
    settings["data"]["digits"]["test_images"] = 99999
    Path("params.yaml").write_text(yaml.safe_dump(settings))
    with pytest.raises(UserError, match="images to divide"):
        run_command("data", AXES, run_data)
    assert damaged or MANIFEST.read_bytes() == before


def test_a_file_of_the_users_own_is_hashed(settings: dict[str, Any], tmp_path: Path) -> None:
    images = np.full((200, 8, 8), 200, dtype=np.uint8)
    np.savez(tmp_path / "mine.npz", images=images, labels=np.arange(200) % 2)
    sizes = {"source": "npz", "path": "mine.npz", "test_images": 20, "val_images": 20}
    settings["data"]["mine"] = sizes
    Path("params.yaml").write_text(yaml.safe_dump(settings))
    run_command("data", {"dataset": "mine"}, run_data)
    params = load_params()
    job = find_job("data", {"dataset": "mine"}, params)
    assert why_stale(job, params) is None
    np.savez(tmp_path / "mine.npz", images=images + 1, labels=np.arange(200) % 2)
    assert why_stale(job, params) == "mine.npz has changed"


def test_code_of_the_users_own_is_an_input(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever setting names it; DVC depends on it once `dvc.yaml` is generated again."""
    monkeypatch.setattr(jobs, "lookup", lambda *_: {"loss": "hinges.losses:hinge", "epochs": 1})
    Path("hinges").mkdir()
    code = Path("hinges/losses.py")
    code.write_text("def hinge(): ...\n")
    assert reason(settings) == "its input files changed, now also hinges/losses.py"
    Path("dvc.yaml").write_text("stages: {}\n")
    monkeypatch.setenv("DVC_STAGE", "data@digits")
    run_command("data", AXES, run_data)
    assert "dvc.yaml does not name hinges/losses.py" in capsys.readouterr().err
    assert reason(settings) is None
    code.write_text("def hinge(): return 1\n")
    assert reason(settings) == "hinges/losses.py has changed"
    Path("dvc.yaml").write_text(dvc_yaml(load_params()))
    run_command("data", AXES, run_data)
    assert "does not name" not in capsys.readouterr().err


def test_only_texts_of_that_form_name_code(settings: dict[str, Any]) -> None:
    params = check_params(settings, "test")
    paths = ("data.digits", "whitebox", "retrain.digits", "run")
    assert referenced_files([jobs.lookup(params, path) for path in paths]) == []
    assert referenced_files({"path": "C:data"}) == []
