"""Processes that share the batches of one job, one for each of its devices.

The process that the user started is rank 0. It starts the others with the same command; they do
the same work on the same random numbers, share every forward pass with it
(`arnas.models.sharing`), and write nothing. They end when it ends, however it ends, and it ends
when one of them does, so a killed rank leaves a state to go on from and no process behind.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from arnas.runtime.errors import STOPPED, UserError
from arnas.runtime.files import TensorFile
from arnas.runtime.resume import SIGNALS, FolderCheckpointer, Snapshot

VARIABLE = "ARNAS_FOLLOWS"
"""Holds the `RankInfo` of a process that is not rank 0; set by rank 0 and by nobody else."""
HOST = "127.0.0.1"
GRACE_SECONDS = 10
"""How long a rank that met a mistake waits for rank 0, which meets the same and says so."""
TIMEOUT = timedelta(minutes=30)


@dataclass(frozen=True)
class RankInfo:
    """Which rank a process is."""

    rank: int
    ranks: int
    port: int
    """Of the store on this machine, where the ranks meet."""
    device: str
    state: str
    """Folder of the state that all of them go on from."""


def rank_info() -> RankInfo | None:
    """Return the place that rank 0 gave this process; None for a process of its own."""
    text = os.environ.get(VARIABLE)
    return None if text is None else RankInfo(**json.loads(text))


@contextmanager
def launch_workers(
    words: Sequence[str], devices: Sequence[torch.device], state: Path, last_words: str
) -> Iterator[None]:
    """Start a process for every device but the first, and be their rank 0 meanwhile.

    Parameters
    ----------
    words
        What follows ``python``, as of the command that this process runs.
    devices
        One for each rank; with a single one nothing happens.
    state
        Folder of the state that all of them go on from.
    last_words
        A line to end with when another rank ends before its time.
    """
    if len(devices) == 1:
        yield
        return
    store = TCPStore(HOST, 0, len(devices), is_master=True, wait_for_workers=False, timeout=TIMEOUT)
    others = []
    for rank, device in enumerate(devices[1:], start=1):
        place = RankInfo(rank, len(devices), store.port, str(device), str(state))
        environment = os.environ | {VARIABLE: json.dumps(asdict(place))}
        command = [sys.executable, *words]
        others.append(subprocess.Popen(command, env=environment, stdin=subprocess.PIPE))
    ending = threading.Event()
    for rank, process in enumerate(others, start=1):
        watch = (process, rank, ending, last_words)
        threading.Thread(target=_leave_with, args=watch, daemon=True).start()
    try:
        with _group(store, 0, devices):
            yield
    finally:
        ending.set()
        for process in others:
            process.kill()
            process.wait()


def _leave_with(
    process: subprocess.Popen[bytes], rank: int, ending: threading.Event, last_words: str
) -> None:
    """End this process when another rank has ended before its time.

    At once, because the main thread may wait for that rank forever.
    """
    code = process.wait()
    if ending.is_set():
        return
    how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    sentence = f"error: rank {rank} ended by {how}; rerun the same command to resume."
    sys.stderr.write(f"{sentence}\n{last_words}\n")
    sys.stderr.flush()
    os._exit(STOPPED)


@contextmanager
def join_as_worker(place: RankInfo) -> Iterator[torch.device]:
    """Be a rank other than 0, and yield its device; ends with the process that started it."""
    end = threading.Thread(target=_end_with_leader, daemon=True)
    end.start()
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # rank 0 saves, and ends the others
    device = torch.device(place.device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    store = TCPStore(HOST, place.port, place.ranks, is_master=False, timeout=TIMEOUT)
    try:
        with _group(store, place.rank, [device] * place.ranks):
            yield device
            end.join()
    except UserError as error:
        time.sleep(GRACE_SECONDS)
        raise UserError(f"rank {place.rank}: {error}") from None


def _end_with_leader() -> None:
    """Wait until rank 0 is gone, which closes this process's input, and end."""
    sys.stdin.buffer.read()
    os._exit(STOPPED)


@contextmanager
def _group(store: TCPStore, rank: int, devices: Sequence[torch.device]) -> Iterator[None]:
    """Join the ranks: NCCL between GPUs, gloo between processors."""
    # The ranks are on one machine, whose name need not be known to its network.
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    backend = "nccl" if devices[0].type == "cuda" else "gloo"
    dist.init_process_group(
        backend, store=store, rank=rank, world_size=len(devices), timeout=TIMEOUT
    )
    try:
        yield
    finally:
        dist.destroy_process_group()


class ReadOnlyCheckpointer:
    """Goes on from the state that rank 0 keeps, and keeps none."""

    stopping = False

    def __init__(self, folder: Path) -> None:
        self._keeper = FolderCheckpointer(folder, interval=0)

    def load(self) -> TensorFile | None:
        """Return the newest state that is whole; rank 0 names a damaged one."""
        return self._keeper.load(quiet=True)

    def maybe_save(self, snapshot: Callable[[], Snapshot], now: bool = False) -> None:
        """Keep nothing."""
