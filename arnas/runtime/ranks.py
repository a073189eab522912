"""Processes that share the batches of one job, one for each of its devices.

The process that the user started is rank 0. It starts the others with the same command; they do
the same work on the same random numbers, share every forward pass with it
(`arnas.models.sharing`), and write nothing. They end when it ends, however it ends, and it ends
when one of them does, so a killed rank leaves a checkpoint to resume from and no process behind.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from arnas.runtime.errors import STOPPED, UserError
from arnas.runtime.files import TensorFile
from arnas.runtime.resume import SIGNALS, FolderCheckpointer, NoCheckpoint

VARIABLE = "ARNAS_FOLLOWS"
"""Holds the `RankInfo` of a process that is not rank 0; set by rank 0 and by nobody else."""
HOST = "127.0.0.1"
GRACE_SECONDS = 10
"""How long a worker that fails waits for rank 0, which mostly fails too and says why."""
WATCH_SECONDS = 1
"""How long rank 0, when it fails, waits for the word that another rank has ended."""
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
    """Folder of the checkpoint that all ranks resume from."""


def rank_info() -> RankInfo | None:
    """Return which rank this process is; None for rank 0 or a process without ranks."""
    text = os.environ.get(VARIABLE)
    return None if text is None else RankInfo(**json.loads(text))


@contextmanager
def launch_workers(
    arguments: Sequence[str], devices: Sequence[torch.device], state: Path, hint: str
) -> Iterator[None]:
    """Start a worker process for every device but the first; this process is rank 0.

    Parameters
    ----------
    arguments
        Of ``python``, as in the command that this process runs.
    devices
        One for each rank; with a single one nothing happens.
    state
        Folder of the checkpoint that all ranks resume from.
    hint
        Printed last if another rank ends too early.
    """
    if len(devices) == 1:
        yield
        return
    store = TCPStore(HOST, 0, len(devices), is_master=True, wait_for_workers=False, timeout=TIMEOUT)
    workers = []
    for rank, device in enumerate(devices[1:], start=1):
        info = RankInfo(rank, len(devices), store.port, str(device), str(state))
        environment = os.environ | {VARIABLE: json.dumps(asdict(info))}
        command = [sys.executable, *arguments]
        workers.append(subprocess.Popen(command, env=environment, stdin=subprocess.PIPE))
    ending = threading.Event()
    watches = []
    for rank, process in enumerate(workers, start=1):
        watched = (process, rank, ending, hint)
        watches.append(threading.Thread(target=_exit_with, args=watched, daemon=True))
        watches[-1].start()
    try:
        with _group(store, 0, devices):
            yield
    except RuntimeError:
        # A rank that ends breaks the connection too, which may be noticed here first.
        for watch in watches:
            watch.join(WATCH_SECONDS)
        raise
    finally:
        ending.set()
        for process in workers:
            process.kill()
            process.wait()


def _exit_with(
    process: subprocess.Popen[bytes], rank: int, ending: threading.Event, hint: str
) -> None:
    """End this process if another rank ends too early.

    At once, because the main thread may wait for that rank forever.
    """
    code = process.wait()
    if ending.is_set():
        return
    how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    sentence = f"error: rank {rank} ended by {how}; rerun the same command to resume."
    sys.stderr.write(f"{sentence}\n{hint}\n")
    sys.stderr.flush()
    os._exit(STOPPED)


@contextmanager
def join_as_worker(info: RankInfo) -> Iterator[torch.device]:
    """Join the ranks as a worker and yield its device; ends when rank 0 does."""
    end = threading.Thread(target=_exit_with_rank_0, daemon=True)
    end.start()
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # rank 0 saves, and ends the others
    device = torch.device(info.device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    store = TCPStore(HOST, info.port, info.ranks, is_master=False, timeout=TIMEOUT)
    try:
        with _group(store, info.rank, [device] * info.ranks):
            yield device
            end.join()
    except Exception as error:
        time.sleep(GRACE_SECONDS)
        if isinstance(error, UserError):
            raise UserError(f"rank {info.rank}: {error}") from None
        raise


def _exit_with_rank_0() -> None:
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


class ReadOnlyCheckpointer(NoCheckpoint):
    """Loads the checkpoint of rank 0 and saves nothing: a worker's checkpointer."""

    def __init__(self, folder: Path) -> None:
        self._checkpointer = FolderCheckpointer(folder, interval=0)

    def load(self) -> TensorFile | None:
        """Return the newest undamaged state; rank 0 reports a damaged one."""
        return self._checkpointer.load(quiet=True)
