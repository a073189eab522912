"""Jobs side by side hold different GPUs, and a killed one frees its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch

from arnas.runtime.errors import UserError
from arnas.runtime.lease import (
    assigned,
    lease_folder,
    leased,
    visible_gpus,
    wanted_gpus,
)

HOLDER = """
import sys
from pathlib import Path
from arnas.runtime.lease import leased
with leased(sys.argv[2].split(","), int(sys.argv[3]), Path(sys.argv[1]), lambda text: None) as held:
    print(*held, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("CUDA_VISIBLE_DEVICES", "ARNAS_GPUS", "SLURM_JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    yield


def quietly(text: str) -> None:
    raise AssertionError(text)


def hold(folder: Path, names: str, count: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder), names, str(count)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(
    ("listed", "count", "expected"),
    [
        (None, 3, ("0", "1", "2")),
        ("", 3, ()),
        ("2,0", 3, ("2", "0")),
        (" 1 , 2 ", 3, ("1", "2")),
        ("1,-1,2", 3, ("1",)),
        ("1,1", 3, ("1",)),
        ("GPU-89-d72c,MIG-GPU-89/1/2", 3, ("GPU-89-d72c", "MIG-GPU-89/1/2")),
        ("0,1", 0, ()),
    ],
)
def test_the_list_of_cuda_is_honoured(
    listed: str | None, count: int, expected: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    if listed is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", listed)
    assert visible_gpus() == expected


def test_a_job_asks_for_one_unless_it_says_more(monkeypatch: pytest.MonkeyPatch) -> None:
    assert wanted_gpus(("0", "1")) == 1
    assert wanted_gpus(()) == 0
    for text, count in (("2", 2), ("0", 0), ("", 1)):
        monkeypatch.setenv("ARNAS_GPUS", text)
        assert wanted_gpus(("0", "1")) == count
    for text, said in (
        ("3", r"ARNAS_GPUS is 3, but this process sees 2 \(0, 1\)"),
        ("two", "'two': it must be"),
        ("-1", "'-1': it must be"),
    ):
        monkeypatch.setenv("ARNAS_GPUS", text)
        with pytest.raises(UserError, match=said):
            wanted_gpus(("0", "1"))


def test_a_cluster_that_gives_what_is_asked_for_needs_no_lease(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ARNAS_LEASE_DIR", str(tmp_path))
    assert not assigned(("0",), 1)
    assert lease_folder() == tmp_path
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    assert assigned(("0",), 1)
    assert not assigned(("0", "1"), 1)
    assert lease_folder() == tmp_path / "slurm-12"


def test_two_hold_different_ones_in_the_order_of_the_list(tmp_path: Path) -> None:
    names = ["GPU-b", "MIG-GPU-a/1/0", "0"]
    with ExitStack() as stack:
        found = [stack.enter_context(leased(names, n, tmp_path, quietly)) for n in (1, 2)]
    assert found == [("GPU-b",), ("MIG-GPU-a/1/0", "0")]
    with leased(names, 3, tmp_path, quietly) as held:
        assert held == tuple(names)


def test_a_killed_holder_frees_its_devices_at_once(tmp_path: Path) -> None:
    holder = hold(tmp_path, "0,1", 2)
    assert holder.stdout is not None
    assert holder.stdout.readline().split() == ["0", "1"]
    said: list[str] = []
    threading.Timer(1, holder.kill).start()
    start = time.monotonic()
    with leased(["0", "1"], 2, tmp_path, said.append) as held:
        waited = time.monotonic() - start
        assert held == ("0", "1")
    assert said == ["waiting for 2 of the GPUs 0, 1"]
    assert waited >= 0.9
    assert holder.wait() == -signal.SIGKILL


def test_many_jobs_never_share_and_the_big_one_is_not_starved(tmp_path: Path) -> None:
    """Six threads: one asks for both devices, the others come again and again for one."""
    users: dict[str, int] = {}
    most = 0
    done: list[float] = []
    lock, stop = threading.Lock(), threading.Event()

    def work(count: int, forever: bool) -> None:
        nonlocal most
        while not stop.is_set():
            with leased(["0", "1"], count, tmp_path, lambda text: None) as held:
                with lock:
                    for name in held:
                        users[name] = users.get(name, 0) + 1
                        most = max(most, users[name])
                time.sleep(0.01)
                with lock:
                    for name in held:
                        users[name] -= 1
            if not forever:
                done.append(time.monotonic())
                return

    small = [threading.Thread(target=work, args=(1, True)) for _ in range(5)]
    for thread in small:
        thread.start()
    big = threading.Thread(target=work, args=(2, False))
    big.start()
    big.join(timeout=20)
    stop.set()
    for thread in small:
        thread.join(timeout=20)
    assert len(done) == 1
    assert most == 1


def test_a_number_and_the_uuid_of_a_gpu_are_the_same_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "bin/nvidia-smi"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho '0, GPU-x'\necho '1, GPU-y'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    said: list[str] = []
    with (
        leased(["0"], 1, tmp_path / "locks", quietly),
        leased(["GPU-x", "1"], 1, tmp_path / "locks", said.append) as held,
    ):
        assert held == ("1",)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refused = pytest.raises(UserError, match=r"file/locks, where GPUs .* in ARNAS_LEASE_DIR")
    with refused, leased(["0"], 1, tmp_path / "file/locks", quietly):
        pass
