"""Only results that are what their manifests and the settings say are adopted."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from fake_run import make, make_all, record, state_of

from arnas.config.load import check_params
from arnas.config.params import Params
from arnas.pipeline.dvc import _targets, adopt, unfit
from arnas.pipeline.jobs import Instance, instances
from arnas.runtime.errors import UserError
from arnas.runtime.resume import checkpointing

TEXT = (Path(__file__).parents[2] / "workflow/presets/smoke.yaml").read_text()
RETRAIN = "retrain digits/arnas/0"
BELOW = {
    "whitebox digits/arnas/0",
    "blackbox_examples digits/arnas/0",
    "blackbox digits",
    "analysis",
    "tables",
    "report",
}


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """Settings of a run that is complete, in the present folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ARNAS_PARAMS", raising=False)
    monkeypatch.delenv("ARNAS_STATE_DIR", raising=False)
    Path("params.yaml").write_text(TEXT)
    found = check_params(yaml.safe_load(TEXT), "smoke")
    make_all(found)
    return found


def named(title: str, params: Params) -> Instance:
    return next(i for i in instances(params) if i.title == title)


def test_a_complete_run_is_fit(params: Params) -> None:
    assert unfit(instances(params), params) == {}


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda i: flip(i.outputs["last"]), "last.safetensors is not what the stage has written"),
        (lambda i: i.outputs["history"].unlink(), "history.jsonl cannot be read: No such file"),
        (lambda i: i.manifest.unlink(), "it is missing"),
        (lambda i: i.manifest.write_text("{"), "it is missing"),
        (lambda i: record(i, version=0), "the stage's version was 0, is "),
        (lambda i: record(i, params="0"), "its settings differ"),
        (lambda i: record(i, outputs={}), "is not what the stage has written"),
    ],
)
def test_what_is_not_fit_is_refused_with_all_below(params: Params, harm: Any, words: str) -> None:
    harm(named(RETRAIN, params))
    found = unfit(instances(params), params)
    assert words in found[RETRAIN]
    assert set(found) == {RETRAIN, *BELOW}


def test_a_result_of_another_input_is_refused(params: Params) -> None:
    make(named("derive dsara/0", params), params, "other")
    found = unfit(instances(params), params)
    assert found["retrain digits/dsara/0"].endswith("genotype.json has changed")
    assert "derive dsara/0" not in found


def test_nothing_is_adopted_while_something_runs(params: Params) -> None:
    instance = named(RETRAIN, params)
    with (
        checkpointing(state_of(instance, params), RETRAIN, str(instance.manifest)),
        pytest.raises(UserError, match=f"{RETRAIN} is being made by process .* wait for it"),
    ):
        adopt()


def test_the_settings_must_be_those_that_dvc_reads(
    params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("other.yaml").write_text(TEXT.replace("epochs: 2\n", "epochs: 3\n"))
    monkeypatch.setenv("ARNAS_PARAMS", "other.yaml")
    with pytest.raises(UserError, match=r"names other\.yaml, but DVC reads params\.yaml"):
        adopt()


def test_without_dvc_it_says_so(params: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dvc.repo", None)
    with pytest.raises(UserError, match="DVC is not installed"):
        adopt()


def test_outside_a_repository_of_dvc_it_says_so(params: Params) -> None:
    with pytest.raises(UserError, match=r"DVC refuses: .* not inside of a DVC repository"):
        adopt()


def test_a_whole_matrix_is_named_at_once() -> None:
    stages = ["data@a", "data@b", "retrain@a-0", "retrain@b-0", "tables"]
    assert _targets(set(stages), stages) == ["data", "retrain", "tables"]
    assert _targets({"data@a", "retrain@a-0", "retrain@b-0"}, stages) == ["data@a", "retrain"]
    assert _targets(set(), stages) == []
