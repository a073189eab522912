"""Leases on GPUs, so that jobs side by side on one machine get different ones.

No engine deals out devices: Snakemake's ``gpu`` is a counter, and DVC's queue has none. So each job
locks the devices that it uses, one lock file for each. The kernel takes the locks away from a
process that dies, and the devices are free at once.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import quote

import torch
from filelock import FileLock, Timeout

from arnas.runtime.errors import UserError

POLL_SECONDS = 0.2


def visible_gpus() -> tuple[str, ...]:
    """Return the names of the GPUs that this process may use.

    Those of ``CUDA_VISIBLE_DEVICES`` as they are spelled there (numbers, UUIDs or MIG names; as in
    CUDA the list ends at a negative number), otherwise the numbers of all.

    The GPUs are counted without CUDA, which would read ``CUDA_VISIBLE_DEVICES`` for good.
    """
    listed, count = os.environ.get("CUDA_VISIBLE_DEVICES"), torch.cuda.device_count()
    if listed is None or count == 0:
        return tuple(map(str, range(count)))
    names: list[str] = []
    for name in map(str.strip, listed.split(",")):
        if not name or name.startswith("-"):
            break
        names.append(name)
    return tuple(dict.fromkeys(names))


def lease_folder() -> Path:
    """Return where the locks lie: one folder for each user and machine.

    Inside a job of Slurm one for that job, because each job numbers its own devices from 0.
    """
    root = os.environ.get("ARNAS_LEASE_DIR")
    base = Path(root) if root else Path(tempfile.gettempdir()) / f"arnas-gpus-{os.getuid()}"
    job = os.environ.get("SLURM_JOB_ID")
    return base / f"slurm-{job}" if job else base


def assigned(names: Sequence[str], count: int) -> bool:
    """Return whether a cluster has already given this job exactly the GPUs that it asked for."""
    return "SLURM_JOB_ID" in os.environ and len(names) == count


@contextmanager
def leased(
    names: Sequence[str], count: int, folder: Path, tell: Callable[[str], None]
) -> Iterator[tuple[str, ...]]:
    """Hold `count` of the GPUs, waiting until so many are free.

    A waiting job holds what it has and blocks later ones, so that a job that asks for several GPUs
    is not starved by jobs that ask for one, and no two wait for each other.

    Parameters
    ----------
    names
        As from `visible_gpus`.
    count
        At most as many as there are names.
    folder
        Where the locks lie, the same for all processes that share the devices.
    tell
        Called with one sentence if it has to wait.

    Yields
    ------
    tuple of str
        Names of the devices held, in their order.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise UserError(
            f"{folder}, where GPUs are leased, cannot be made ({error.strerror}): name another "
            "folder of this machine in ARNAS_LEASE_DIR."
        ) from None
    identities = _identities(names)
    with ExitStack() as held:
        mine: set[str] = set()
        gate = FileLock(folder / "gate.lock")
        waiting = False

        def wait() -> None:
            nonlocal waiting
            if not waiting:
                tell(f"waiting for {count} of the GPUs {', '.join(names)}")
            waiting = True
            time.sleep(POLL_SECONDS)

        while not _taken(gate):
            wait()
        try:
            while True:
                for name in names:
                    lock = FileLock(folder / f"{quote(identities[name], safe='')}.lock")
                    if name not in mine and len(mine) < count and _taken(lock):
                        held.callback(lock.release)
                        mine.add(name)
                if len(mine) == count:
                    break
                wait()
        finally:
            gate.release()
        yield tuple(name for name in names if name in mine)


def _taken(lock: FileLock) -> bool:
    """Take a lock if it is free."""
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    return True


def _identities(names: Sequence[str]) -> dict[str, str]:
    """Return for each name what the device is called by everybody: its UUID where it is known.

    One job may name a GPU by its number and another by its UUID.
    """
    if not any(name.isdecimal() for name in names):
        return {name: name for name in names}
    command = ["nvidia-smi", "--query-gpu=index,uuid", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return {name: name for name in names}
    rows = [line.split(", ") for line in done.stdout.splitlines()]
    known = {row[0].strip(): row[1].strip() for row in rows if len(row) == 2}
    return {name: known.get(name, name) for name in names}


def wanted_gpus(visible: Sequence[str]) -> int:
    """Return how many GPUs a job asks for: ``ARNAS_GPUS``, by default 1, and 0 where none is.

    Raises
    ------
    UserError
        When it asks for more than there are.
    """
    text = os.environ.get("ARNAS_GPUS") or "1"
    if not (text.isascii() and text.isdecimal()):
        raise UserError(f"ARNAS_GPUS is '{text}': it must be a whole number from 0 up.")
    if not visible:
        return 0
    if int(text) > len(visible):
        raise UserError(
            f"ARNAS_GPUS is {text}, but this process sees {len(visible)} ({', '.join(visible)}): "
            "ask for fewer, or show it more by CUDA_VISIBLE_DEVICES."
        )
    return int(text)
