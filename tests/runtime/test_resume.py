"""State on disk: saved when due, verified when read, held by one, gone on success."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from arnas.runtime import resume
from arnas.runtime.errors import Preempted, UserError
from arnas.runtime.files import save_tensors
from arnas.runtime.resume import (
    NO_CHECKPOINT,
    FolderCheckpointer,
    Snapshot,
    checkpointing,
    save_interval,
)

ROOT = Path(__file__).parents[2]
TITLE = "retrain digits/arnas/0"
FIRST, SECOND = "state.1.safetensors", "state.0.safetensors"
"""The files of the first and the second save."""


def snapshot(step: int) -> Snapshot:
    return Snapshot({"weights": torch.full((3,), float(step))}, {"step": step})


def test_a_state_comes_back_as_it_was_offered(tmp_path: Path) -> None:
    FolderCheckpointer(tmp_path, 0).maybe_save(lambda: snapshot(7))
    found = FolderCheckpointer(tmp_path, 0).load()
    assert found is not None
    assert found.description == {"step": 7}
    assert torch.equal(found.tensors["weights"], torch.full((3,), 7.0))


def test_it_is_saved_when_it_is_due_or_asked_for(tmp_path: Path) -> None:
    checkpointer = FolderCheckpointer(tmp_path, 3600)
    checkpointer.maybe_save(lambda: snapshot(1))
    assert checkpointer.load() is None
    checkpointer.maybe_save(lambda: snapshot(2), now=True)
    checkpointer.maybe_save(lambda: snapshot(3))
    found = checkpointer.load()
    assert found is not None and found.description == {"step": 2}


@pytest.mark.parametrize("damage", ["flip", "cut", "no metadata"])
@pytest.mark.parametrize("earlier", [True, False])
def test_a_damaged_state_is_named_and_the_one_before_it_is_used(
    damage: str, earlier: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpointer = FolderCheckpointer(tmp_path, 0)
    if earlier:
        checkpointer.maybe_save(lambda: snapshot(6))
    checkpointer.maybe_save(lambda: snapshot(7))
    path = tmp_path / (SECOND if earlier else FIRST)
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[-2] ^= 1
    path.write_bytes(data[:-3] if damage == "cut" else data)
    if damage == "no metadata":
        save_file({"weights": torch.zeros(3)}, path)
    found = FolderCheckpointer(tmp_path, 0).load()
    assert (found is not None) == earlier
    if found is not None:
        assert found.description == {"step": 6}
    said = capsys.readouterr().err
    assert str(path) in said and "is not used" in said
    assert said.count("\n") == 1


def test_saves_go_on_from_the_newest(tmp_path: Path) -> None:
    for step in range(1, 6):
        checkpointer = FolderCheckpointer(tmp_path, 0)
        found = checkpointer.load()
        assert (found.description["step"] if found else 0) == step - 1
        checkpointer.maybe_save(lambda step=step: snapshot(step))


def test_on_success_nothing_is_left_and_after_a_failure_the_state_is(tmp_path: Path) -> None:
    folder = tmp_path / "retrain/abc"
    with (
        pytest.raises(UserError, match="a mistake"),
        checkpointing(folder, "a result") as checkpointer,
    ):
        checkpointer.maybe_save(lambda: snapshot(7), now=True)
        raise UserError("a mistake")
    with checkpointing(folder, "a result") as checkpointer:
        found = checkpointer.load()
        assert found is not None and found.description == {"step": 7}
    assert not folder.exists()


def test_a_second_process_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    with checkpointing(tmp_path, TITLE):
        done = elsewhere(tmp_path, Path.cwd())
    assert done.returncode == 2
    assert f"{TITLE} is being made by process {os.getpid()} on " in done.stderr
    assert "wait for it, or stop it first" in done.stderr


def test_a_copy_of_the_checkout_works_beside(tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    with checkpointing(tmp_path / "state", TITLE):
        assert elsewhere(tmp_path / "state", tmp_path / "copy").returncode == 0


def test_a_killed_holder_holds_nothing(tmp_path: Path) -> None:
    code = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    assert elsewhere(tmp_path, Path.cwd(), code).returncode == -signal.SIGKILL
    with checkpointing(tmp_path, "a result"):
        pass


def elsewhere(folder: Path, cwd: Path, code: str = "pass") -> subprocess.CompletedProcess[str]:
    """Hold the folder in another process and run code there."""
    program = f"""
        import sys
        from pathlib import Path
        from arnas.runtime.errors import one_sentence
        from arnas.runtime.resume import checkpointing
        with one_sentence(), checkpointing(Path({str(folder)!r}), {TITLE!r}):
            {code}
    """
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_saves_and_leaves(number: signal.Signals, tmp_path: Path) -> None:
    before = signal.getsignal(number)
    with (
        pytest.raises(Preempted, match=number.name),
        checkpointing(tmp_path, "a result") as checkpointer,
    ):
        assert checkpointer.load() is None
        os.kill(os.getpid(), number)
        checkpointer.maybe_save(lambda: snapshot(9))
        raise AssertionError("the loop goes on after a signal")
    assert signal.getsignal(number) == before
    with checkpointing(tmp_path, "a result") as checkpointer:
        found = checkpointer.load()
        assert found is not None and found.description == {"step": 9}


def test_a_signal_where_nothing_is_looped_over_ends_at_once(tmp_path: Path) -> None:
    with pytest.raises(Preempted), checkpointing(tmp_path, "a result"):
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("the work goes on after a signal")


def test_the_exit_code_says_try_again(tmp_path: Path) -> None:
    done = elsewhere(tmp_path, tmp_path, "import os, signal; os.kill(os.getpid(), signal.SIGTERM)")
    assert done.returncode == 75
    assert done.stderr == "stopped by SIGTERM; rerun the same command to resume.\n"


def test_the_interval_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ARNAS_SAVE_SECONDS", raising=False)
    assert save_interval() == 30
    monkeypatch.setenv("ARNAS_SAVE_SECONDS", "0.5")
    assert save_interval() == 0.5
    for text in ("often", "-1", "nan"):
        monkeypatch.setenv("ARNAS_SAVE_SECONDS", text)
        with pytest.raises(UserError, match=f"ARNAS_SAVE_SECONDS is '{text}'"):
            save_interval()


def test_a_library_loop_keeps_nothing_by_default() -> None:
    NO_CHECKPOINT.maybe_save(lambda: snapshot(1), now=True)
    assert NO_CHECKPOINT.load() is None


def large(step: int) -> Snapshot:
    return Snapshot(
        {"w": torch.full((2_000_000,), float(step)), "v": torch.zeros(600_000)}, {"n": [step]}
    )


def test_a_large_state_is_written_while_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is written is the state of the moment, however the loop changes it meanwhile."""
    go_on, began = threading.Event(), threading.Event()
    write = resume.save_tensors

    def slowly(*what: object) -> None:
        began.set()
        assert go_on.wait(30)
        write(*what)  # type: ignore[arg-type]

    monkeypatch.setattr(resume, "save_tensors", slowly)
    checkpointer, state = FolderCheckpointer(tmp_path, 0), large(1)
    checkpointer.maybe_save(lambda: state)
    assert began.wait(30), "the loop has gone on before the file is there"
    assert not list(tmp_path.iterdir())
    state.tensors["w"].fill_(2)
    state.values["n"].append(2)
    go_on.set()
    checkpointer.flush()
    found = FolderCheckpointer(tmp_path, 0).load()
    assert found is not None
    assert (float(found.tensors["w"][0]), found.description) == (1.0, {"n": [1]})


def test_a_save_that_failed_ends_the_run_at_the_next_and_keeps_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpointer = FolderCheckpointer(tmp_path, 0)
    checkpointer.maybe_save(lambda: large(1))
    checkpointer.flush()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    checkpointer.maybe_save(lambda: large(2))
    with pytest.raises(UserError, match="cannot be written: No space left on device"):
        checkpointer.maybe_save(lambda: large(3))
    monkeypatch.undo()
    found = FolderCheckpointer(tmp_path, 0).load()
    assert found is not None
    assert found.description == {"n": [1]}


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.EDQUOT])
def test_a_state_folder_that_cannot_be_made_is_named(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "mkdir", refuse)
    refused = pytest.raises(UserError, match=f"state/0 cannot be written: {os.strerror(number)}")
    with refused, checkpointing(tmp_path / "state", "retrain x"):
        raise AssertionError("it has begun")


def test_a_file_of_another_kind_is_named_and_not_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_tensors(tmp_path / FIRST, {"w": torch.zeros(1)}, {"model": "another"})
    assert FolderCheckpointer(tmp_path, 0).load() is None
    assert f"{FIRST} is no state of a run. It is not used." in capsys.readouterr().err
