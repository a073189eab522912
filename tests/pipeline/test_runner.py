"""How a stage job ends early: one line of cause, the next command, nothing lost."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import torch
import yaml

from arnas.config.load import load_params
from arnas.config.params import Params
from arnas.pipeline.jobs import find_job
from arnas.pipeline.runner import StageContext, run_command
from arnas.runtime.errors import Preempted, UserError, one_sentence
from arnas.stages import data

AXES = {"dataset": "digits"}
MANIFEST = Path("results/smoke/data/digits/manifest.json")
COMMAND = "python -m arnas data --dataset digits"


@pytest.fixture(autouse=True)
def prepared(empty_run: Params) -> None:
    """Go to a folder with the smoke settings and prepared digits."""
    run_command("data", AXES, data.run)


def ending_with(error: BaseException, spoil: bool = False) -> BaseException:
    """Return what comes out of a stage that ends with an error, its output spoilt or not."""

    def work(job: StageContext) -> None:
        assert not MANIFEST.exists(), "a stage that is cut short has no manifest"
        if spoil:
            job.outputs["splits"].write_bytes(b"half")
        raise error

    with pytest.raises(BaseException) as caught:
        run_command("data", AXES, work)
    return caught.value


@pytest.mark.parametrize(
    "error", [UserError("a"), Preempted("SIGTERM"), RuntimeError("b"), KeyboardInterrupt()]
)
def test_a_result_that_was_not_touched_keeps_its_manifest(error: BaseException) -> None:
    before = MANIFEST.read_bytes()
    ending_with(error)
    assert MANIFEST.read_bytes() == before
    ending_with(error, spoil=True)
    assert not MANIFEST.exists()
    assert [path.name for path in MANIFEST.parent.glob(".*")] == []


def test_a_mistake_and_a_signal_end_with_the_next_command(
    capsys: pytest.CaptureFixture[str],
) -> None:
    stopped = "stopped by SIGUSR1; rerun the same command to resume."
    for error, code, lines in (
        (UserError("the cause."), 2, ["error: the cause.", f"after the fix: {COMMAND}"]),
        (Preempted("SIGUSR1"), 75, [stopped, f"next: {COMMAND}"]),
    ):
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_, one_sentence():
            raise ending_with(error)
        assert exit_.value.code == code
        assert capsys.readouterr().err.splitlines()[-2:] == lines


def test_what_nobody_expected_shows_where_and_ends_alike() -> None:
    text = traceback.format_exception(ending_with(RuntimeError("a bug")))
    assert "".join(text).splitlines()[-2:] == ["RuntimeError: a bug", f"next: {COMMAND}"]


def test_the_next_command_has_the_settings_that_an_engine_gave(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ARNAS_PARAMS", "my settings.yaml")
    Path("params.yaml").rename("my settings.yaml")
    notes = ending_with(Preempted("SIGTERM")).__notes__
    assert notes == [f"next: ARNAS_PARAMS='my settings.yaml' {COMMAND}"]


def test_memory_that_does_not_suffice_is_one_sentence() -> None:
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB. GPU 0 has ...")
    found = ending_with(error)
    assert isinstance(found, UserError)
    assert str(found) == (
        "data digits does not fit on cpu (CUDA out of memory): lower the batch_size that it reads, "
        "or give it more memory."
    )


def test_an_operation_without_a_deterministic_form_is_one_sentence() -> None:
    text = "put_with_accumulate_cuda does not have a deterministic implementation, but you set ..."
    found = ending_with(RuntimeError(text))
    assert isinstance(found, UserError)
    assert str(found) == (
        "ARNAS_DETERMINISTIC is 1, but put_with_accumulate_cuda has no deterministic form on cpu: "
        "unset it, or set ARNAS_DEVICE=cpu."
    )
    other = RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    assert ending_with(other) is other


def test_the_device_is_in_the_log_and_in_the_manifest(capsys: pytest.CaptureFixture[str]) -> None:
    run_command("data", AXES, data.run)
    assert "[data digits] on cpu, threads 1\n" in capsys.readouterr().err
    assert json.loads(MANIFEST.read_text())["device"] == "cpu"


RETRAIN = {"dataset": "digits", "network": "arnas", "seed": "0"}
SPLITS = MANIFEST.with_name("splits.safetensors")


def manifest_after(work: Callable[[], object]) -> bool:
    """Return whether a training with something done meanwhile is recorded."""
    job = find_job("retrain", RETRAIN, load_params())

    def train(context: StageContext) -> None:
        for path in context.outputs.values():
            path.write_bytes(b"weights")
        work()

    with suppress(UserError):
        run_command("retrain", RETRAIN, train)
    return job.manifest.exists()


def test_a_result_of_inputs_that_were_replaced_is_not_recorded() -> None:
    """Also if they were put back before the end."""
    assert manifest_after(lambda: None)
    for made in Path("results/smoke/retrain").rglob("*.json"):
        made.unlink()

    def replace() -> None:
        aside = SPLITS.rename(SPLITS.with_name("aside"))
        SPLITS.write_bytes(aside.read_bytes())

    assert not manifest_after(replace)


def test_inputs_of_other_settings_are_refused() -> None:
    content = yaml.safe_load(Path("params.yaml").read_text())
    content["data"]["digits"]["split_seed"] = 5
    Path("params.yaml").write_text(yaml.safe_dump(content))
    message = (
        r"data digits, which retrain digits/arnas/0 is made from, is not current \(data\.digits"
    )
    with pytest.raises(UserError, match=message):
        run_command("retrain", RETRAIN, lambda context: None)


def test_dvc_runs_no_stage_on_settings_that_it_does_not_record(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    content = yaml.safe_load(Path("params.yaml").read_text())
    content["retrain"]["digits"]["epochs"] = 3
    Path("other.yaml").write_text(yaml.safe_dump(content))
    monkeypatch.setenv("ARNAS_PARAMS", "other.yaml")
    assert manifest_after(lambda: None), "by hand"
    for made in Path("results/smoke/retrain").rglob("*.json"):
        made.unlink()
    monkeypatch.setenv("DVC_STAGE", "retrain")
    assert not manifest_after(lambda: None)
    monkeypatch.delenv("ARNAS_PARAMS")
    assert not manifest_after(lambda: Path("other.yaml").replace("params.yaml"))
    assert manifest_after(lambda: None)
