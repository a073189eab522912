"""Only results that are what their manifests and the settings say are adopted."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from fake_run import SMOKE, job_named, make, record, state_of

from arnas.config.params import Params
from arnas.pipeline.dvc import _targets, adopt, unfit
from arnas.pipeline.jobs import planned_jobs
from arnas.runtime.errors import UserError
from arnas.runtime.resume import checkpointing

RETRAIN = "retrain digits/arnas/0"
BELOW = {
    "whitebox digits/arnas/0",
    "blackbox_examples digits/arnas/0",
    "blackbox digits",
    "analysis",
    "tables",
    "report",
}


def test_a_complete_run_is_fit(complete_run: Params) -> None:
    assert unfit(planned_jobs(complete_run), complete_run) == {}


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda i: flip(i.outputs["last"]), "last.safetensors is not what the stage has written"),
        (lambda i: i.outputs["history"].unlink(), "history.jsonl is missing"),
        (lambda i: i.manifest.unlink(), "it has no manifest"),
        (lambda i: i.manifest.write_text("{"), "it has no manifest"),
        (lambda i: record(i, version=0), "the stage's version was 0, is "),
        (lambda i: record(i, params="0"), "its settings differ"),
        (lambda i: record(i, outputs={}), "is not what the stage has written"),
    ],
)
def test_what_is_not_fit_is_refused_with_all_below(
    complete_run: Params, harm: Any, words: str
) -> None:
    harm(job_named(RETRAIN, complete_run))
    found = unfit(planned_jobs(complete_run), complete_run)
    assert words in found[RETRAIN]
    assert set(found) == {RETRAIN, *BELOW}


def test_a_result_of_another_input_is_refused(complete_run: Params) -> None:
    make(job_named("derive dsara/0", complete_run), complete_run, "other")
    found = unfit(planned_jobs(complete_run), complete_run)
    assert found["retrain digits/dsara/0"].endswith("genotype.json has changed")
    assert "derive dsara/0" not in found


def test_nothing_is_adopted_while_something_runs(complete_run: Params) -> None:
    job = job_named(RETRAIN, complete_run)
    with (
        checkpointing(state_of(job, complete_run), RETRAIN, str(job.manifest)),
        pytest.raises(UserError, match=f"{RETRAIN} is being made by process .* wait for it"),
    ):
        adopt()


def test_the_settings_must_be_those_that_dvc_reads(
    complete_run: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("other.yaml").write_text(SMOKE.replace("epochs: 2\n", "epochs: 3\n"))
    monkeypatch.setenv("ARNAS_PARAMS", "other.yaml")
    with pytest.raises(UserError, match=r"names other\.yaml, but DVC reads params\.yaml"):
        adopt()


def test_without_dvc_it_says_so(complete_run: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dvc.repo", None)
    with pytest.raises(UserError, match="DVC is not installed"):
        adopt()


def test_outside_a_repository_of_dvc_it_says_so(complete_run: Params) -> None:
    with pytest.raises(UserError, match=r"DVC refuses: .* not inside of a DVC repository"):
        adopt()


def test_a_whole_matrix_is_named_at_once() -> None:
    stages = ["data@a", "data@b", "retrain@a-0", "retrain@b-0", "tables"]
    assert _targets(set(stages), stages) == ["data", "retrain", "tables"]
    assert _targets({"data@a", "retrain@a-0", "retrain@b-0"}, stages) == ["data@a", "retrain"]
    assert _targets(set(), stages) == []
