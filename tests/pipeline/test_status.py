"""Every state of a job is seen as what it is, and looking changes nothing."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from fake_run import job_named, make, make_all, record, smoke, state_of
from rich.console import Console

from arnas.config.load import check_params
from arnas.config.params import Params
from arnas.pipeline import status as overview_table
from arnas.pipeline.jobs import Job, planned_jobs
from arnas.pipeline.key_figures import key_figure
from arnas.pipeline.status import Overview, Status, as_text, follow, overview
from arnas.reporting.run.tables import whitebox_rows
from arnas.runtime.files import load_tensors, save_tensors, write_sealed
from arnas.runtime.manifest import read_manifest
from arnas.runtime.resume import FolderCheckpointer, Snapshot, checkpointing

ROOT = Path(__file__).parents[2]
RETRAIN = "retrain digits/arnas/0"
WHITEBOX = "whitebox digits/arnas/0"


def with_epochs(epochs: int) -> Params:
    content = smoke()
    content["retrain"]["digits"]["epochs"] = epochs
    return check_params(content, "changed")


def seen(params: Params) -> dict[str, Status]:
    return {status.job: status for status in overview(params).jobs}


def save(folder: Path, epoch: int, step: int) -> None:
    values = {"epoch": epoch, "step": step, "history": ["{}"]}
    FolderCheckpointer(folder, 0).maybe_save(lambda: Snapshot({"w": torch.zeros(9)}, values))


@contextmanager
def at_work(state: Path, title: str, result: Path, cwd: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds a state folder until it is killed."""
    program = f"""
        import sys, time
        from pathlib import Path
        from arnas.runtime.resume import checkpointing
        with checkpointing(Path({str(state.absolute())!r}), {title!r}, {str(result)!r}):
            print("held", flush=True)
            time.sleep(60)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_finished_run_is_done(complete_run: Params) -> None:
    found = overview(complete_run)
    assert found.counts == {"done": len(planned_jobs(complete_run))}
    assert not found.running and found.elsewhere == ()
    status = found.jobs[0]
    assert (status.job, status.detail, status.device) == ("data digits", "", "cpu")
    assert status.made == pytest.approx(
        job_named("data digits", complete_run).manifest.stat().st_mtime
    )


def test_an_empty_folder_is_missing_or_waiting(empty_run: Params) -> None:
    found = seen(empty_run)
    assert found["data digits"].state == "missing"
    assert (found[RETRAIN].state, found[RETRAIN].detail) == ("waiting", "for data digits")


def test_a_changed_setting_is_named_with_both_values(complete_run: Params) -> None:
    found = seen(with_epochs(7))
    assert found[RETRAIN].state == "stale"
    assert found[RETRAIN].detail == "retrain.digits.epochs was 2, is 7"
    assert found[WHITEBOX].detail == f"follows {RETRAIN}"
    assert found["derive dsara/0"].state == "done"


def test_a_setting_that_goes_back_to_its_default_is_named(complete_run: Params) -> None:
    job = job_named(WHITEBOX, complete_run)
    slices = {path: dict(block) for path, block in read_settings(job).items()}
    slices["whitebox"]["batch_size"] = 7
    record(job, settings=slices, params="other")
    assert seen(complete_run)[WHITEBOX].detail == "whitebox.batch_size was 7, is 256"


def read_settings(job: Job) -> dict[str, dict[str, Any]]:
    settings: dict[str, dict[str, Any]] = read_manifest(job.manifest)["settings"]
    return settings


def test_an_older_manifest_says_only_that_settings_differ(complete_run: Params) -> None:
    job = job_named(RETRAIN, complete_run)
    content = read_manifest(job.manifest)
    del content["settings"]
    write_sealed(job.manifest, content)
    assert seen(complete_run)[RETRAIN].state == "done"
    assert seen(with_epochs(7))[RETRAIN].detail == "its settings differ"


def test_another_set_of_inputs_is_named(complete_run: Params) -> None:
    content = smoke()
    content["run"]["networks"] = ["arnas"]
    found = seen(check_params(content, "fewer"))["blackbox digits"]
    assert found.detail == 'run.networks was ["arnas","arnas_undefended"], is ["arnas"]'
    report = job_named("report", complete_run)
    inputs = dict(yaml.safe_load(report.manifest.read_text())["inputs"])
    gone = sorted(inputs)[0]
    record(report, inputs={**{k: v for k, v in inputs.items() if k != gone}, "x.csv": "0"})
    detail = seen(complete_run)["report"].detail
    assert detail == f"its input files changed, now also {gone}, no more x.csv"


def test_a_deleted_output_is_missing(complete_run: Params) -> None:
    path = job_named(RETRAIN, complete_run).outputs["last"]
    path.unlink()
    assert (seen(complete_run)[RETRAIN].state, seen(complete_run)[RETRAIN].detail) == (
        "missing",
        f"{path} is missing",
    )


def test_a_process_at_work_is_named_until_it_is_killed(empty_run: Params, tmp_path: Path) -> None:
    """Its holder.json stays behind: the lock decides."""
    make_all(empty_run, but=[RETRAIN])
    job = job_named(RETRAIN, empty_run)
    state = state_of(job, empty_run)
    with at_work(state, RETRAIN, job.manifest, tmp_path) as process:
        save(state / "0", epoch=1, step=3)
        found = seen(empty_run)[RETRAIN]
        assert found.state == "running"
        assert f"process {process.pid} on " in found.detail
        assert found.detail.endswith(", 1 of 2 epochs, step 3")
        assert seen(empty_run)[WHITEBOX].state == "stale"
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert (state / "0/holder.json").exists()
        found = seen(empty_run)[RETRAIN]
        assert (found.state, found.detail) == ("partial", "1 of 2 epochs, step 3")
    shutil.rmtree(state)
    assert seen(empty_run)[RETRAIN].state == "missing"


def test_a_process_with_other_settings_is_running_too(complete_run: Params) -> None:
    job = job_named(RETRAIN, complete_run)
    with checkpointing(state_of(job, with_epochs(9)), RETRAIN, str(job.manifest)):
        found = seen(complete_run)[RETRAIN]
    assert found.state == "running"
    assert found.detail.endswith("with settings or inputs other than the present ones")


def test_copies_and_other_runs_are_named_apart(
    complete_run: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_named(RETRAIN, complete_run)
    state = state_of(job, complete_run).absolute()
    (tmp_path / "copy").mkdir()
    monkeypatch.chdir(tmp_path / "copy")
    with checkpointing(state, RETRAIN, str(job.manifest)):
        monkeypatch.chdir(tmp_path)
        found = overview(complete_run)
    assert not found.running
    assert found.elsewhere[0].startswith(f"{RETRAIN} in {tmp_path}/copy, process {os.getpid()} on")
    with checkpointing(state, RETRAIN, "results/other/manifest.json"):
        found = overview(complete_run)
    assert not found.running and len(found.elsewhere) == 1


def test_a_damaged_state_is_partial_by_the_save_that_is_whole(empty_run: Params) -> None:
    make_all(empty_run, but=[RETRAIN])
    state = state_of(job_named(RETRAIN, empty_run), empty_run)
    slot = state / "0"
    save(slot, epoch=0, step=1)
    newest = FolderCheckpointer(slot, 0)
    newest.load()
    newest.maybe_save(lambda: Snapshot({}, {"epoch": 1, "step": 0}), now=True)
    assert seen(empty_run)[RETRAIN].detail == "1 of 2 epochs"
    (slot / "state.0.safetensors").write_text("{")
    assert seen(empty_run)[RETRAIN].detail == "0 of 2 epochs, step 1"
    (slot / "state.1.safetensors").write_text("[]")
    assert seen(empty_run)[RETRAIN].state == "missing"


def test_what_another_copy_has_left_does_not_make_a_result_partial(complete_run: Params) -> None:
    """Copies share the state folder."""
    save(state_of(job_named(RETRAIN, complete_run), complete_run) / "0", epoch=1, step=3)
    assert seen(complete_run)[RETRAIN].state == "done"


def test_an_evaluation_says_how_many_batches(empty_run: Params) -> None:
    make_all(empty_run, but=[WHITEBOX])
    slot = state_of(job_named(WHITEBOX, empty_run), empty_run) / "0"
    batches = {"last.fgsm": 3, "selected.pgd20": 2}
    FolderCheckpointer(slot, 0).maybe_save(
        lambda: Snapshot({}, {"batches": batches, "witnesses": {}})
    )
    assert seen(empty_run)[WHITEBOX].detail == "5 batches of attacks"


def test_the_key_figure_of_attacks_is_that_of_the_tables(empty_run: Params) -> None:
    job = job_named(WHITEBOX, empty_run)
    generator = torch.Generator().manual_seed(0)
    names = [f"{kind}.{attack}" for kind in ("selected", "last") for attack in ("clean", "pgd20")]
    flags = {n: (torch.rand(50, generator=generator) < 0.8).to(torch.uint8) for n in names}
    flags["selected.autoattack"] = torch.zeros(4, dtype=torch.uint8)
    origin = {"loss": "pgd", "epoch": 1}
    description = {
        "dataset": {"name": "digits"},
        "network": "arnas",
        "seed": 0,
        "threat": {"norm": "linf", "epsilon": 0.1},
        "checkpoints": {"selected": origin, "last": origin},
    }
    save_tensors(job.outputs["outcomes"], flags, description)
    rows = whitebox_rows(*load_tensors(job.outputs["outcomes"]))
    table = {row["attack"]: row["accuracy"] for row in rows if row["checkpoint"] == "selected"}
    assert key_figure(job) == f"clean {table['clean']:.1f}, robust {table['union']:.1f}"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b"null"])
def test_unreadable_results_have_no_figure(empty_run: Params, content: bytes) -> None:
    for job in planned_jobs(empty_run):
        for path in job.outputs.values():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        assert key_figure(job) == ""


def test_dvc_is_asked_by_its_lock_file(complete_run: Params) -> None:
    total = len(planned_jobs(complete_run))
    assert overview(complete_run).unknown_to_dvc == total
    paths = [job.manifest for job in planned_jobs(complete_run)]
    outs = [{"path": str(p), "md5": hashlib.md5(p.read_bytes()).hexdigest()} for p in paths]
    stages = {str(number): {"outs": [out]} for number, out in enumerate(outs)}
    Path("dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": stages}))
    assert overview(complete_run).unknown_to_dvc == 0
    record(job_named(RETRAIN, complete_run), wall_seconds=3)
    assert overview(complete_run).unknown_to_dvc == 1
    for damaged in ("{", "[]", "stages: {a: {}}", "<<<<<<< HEAD\nstages:"):
        Path("dvc.lock").write_text(damaged)
        assert overview(complete_run).unknown_to_dvc == total


def files(folder: Path) -> dict[str, tuple[int, int]]:
    found = {str(p): p.stat() for p in folder.rglob("*")}
    return {path: (stat.st_mtime_ns, stat.st_size) for path, stat in found.items()}


def test_looking_writes_nothing_but_what_it_has_verified(empty_run: Params, tmp_path: Path) -> None:
    make_all(empty_run, but=[RETRAIN])
    job = job_named(RETRAIN, empty_run)
    with checkpointing(state_of(job, empty_run), RETRAIN, str(job.manifest)):
        before = files(tmp_path)
        overview(empty_run)
        after, verified = files(tmp_path), tmp_path / ".arnas/verified"
        kept = {p: s for p, s in after.items() if not Path(p).is_relative_to(verified)}
        assert kept | {str(verified.parent): before[str(verified.parent)]} == before


def test_files_may_come_and_go_meanwhile(empty_run: Params) -> None:
    make_all(empty_run, but=[RETRAIN])
    job = job_named(RETRAIN, empty_run)
    state = state_of(job, empty_run)
    ended = threading.Event()

    def churn() -> None:
        while not ended.is_set():
            with checkpointing(state, RETRAIN, str(job.manifest)) as checkpointer:
                checkpointer.maybe_save(lambda: Snapshot({}, {"epoch": 1, "step": 1}), now=True)
                make(job, empty_run)
            job.manifest.unlink()

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        states = {seen(empty_run)[RETRAIN].state for _ in range(40)}
    finally:
        ended.set()
        thread.join()
    assert states <= {"running", "missing", "done", "partial"}
    assert "running" in states


def shown(found: Overview, width: int) -> str:
    console = Console(width=width, file=io.StringIO())
    console.print(as_text(found, width))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [30, 60, 80, 100, 200])
def test_any_width_shows_every_job(complete_run: Params, width: int) -> None:
    text = shown(overview(with_epochs(7)), width)
    assert all(len(line) <= width for line in text.splitlines())
    flat = "".join(text.split())
    assert "17jobs:" in flat and "pythonmarnasadopt" in flat.replace("-", "")
    if width >= 80:
        assert all(job.title in text for job in planned_jobs(complete_run))
    if width >= 200:
        assert "retrain.digits.epochs was 2, is 7" in text


def test_following_ends_when_all_is_done(complete_run: Params) -> None:
    console = Console(width=200, file=io.StringIO())
    follow(complete_run, console)
    assert isinstance(console.file, io.StringIO)
    assert "17 jobs: 17 done" in console.file.getvalue()


def test_following_goes_on_while_something_runs(
    empty_run: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overview_table, "REFRESH", 0.05)
    monkeypatch.setattr(overview_table, "PATIENCE", 0.3)
    make_all(empty_run, but=[RETRAIN])
    job = job_named(RETRAIN, empty_run)
    console = Console(width=200, file=io.StringIO())
    with checkpointing(state_of(job, empty_run), RETRAIN, str(job.manifest)):
        thread = threading.Thread(target=follow, args=(empty_run, console))
        thread.start()
        thread.join(1)
        assert thread.is_alive(), "longer than its patience, because a process is at work"
    thread.join(10)
    assert not thread.is_alive()
    assert isinstance(console.file, io.StringIO)
    assert "1 missing" in console.file.getvalue()
