"""The folders in which runs keep their state: who holds them, and which are abandoned.

Whether a process is at work is asked of the lock alone, which the kernel frees when its holder
dies; ``holder.json`` only says who that is, and stays behind when the holder is killed.
"""

from __future__ import annotations

import fcntl
import glob
import os
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from arnas.runtime.errors import UserError
from arnas.runtime.files import read_description, read_json


@dataclass(frozen=True)
class StateSlot:
    """The state folder of one run of a stage instance."""

    folder: Path
    stage: str
    fingerprint: str
    """The first 16 digits of the result's fingerprint."""
    held: bool
    """Whether a process works on it now."""
    holder: Mapping[str, Any]
    """Who holds it, or held it last: host, pid, since, folder, title, result; empty if unknown."""
    progress: Mapping[str, Any] | None
    """JSON values of the newest save; None if nothing is saved."""
    size: int
    """Bytes."""
    changed: float
    """When something in it was written last, in seconds since 1970."""

    @property
    def title(self) -> str:
        """Return a name for messages."""
        return self.holder.get("title") or f"{self.stage} {self.fingerprint}"

    @property
    def here(self) -> bool:
        """Return whether it is held, or was held last, by a process of this checkout."""
        return self.holder.get("folder") == str(Path.cwd())

    @property
    def making(self) -> str:
        """Return the manifest that a process of this checkout is making; empty if there is none."""
        return str(self.holder.get("result", "")) if self.held and self.here else ""

    @property
    def who(self) -> str:
        """Return the holder in words."""
        said = {"pid": "unknown", "host": "an unknown host", "since": "an unknown time"}
        return "process {pid} on {host} since {since}".format(**{**said, **self.holder})


def state_slots(root: Path) -> list[StateSlot]:
    """Return all state folders under `root`, of every stage; they may come and go meanwhile.

    Parameters
    ----------
    root
        As `arnas.runtime.history.state_root` returns.
    """
    found = []
    # Unlike Path.glob, this one does not mind folders that vanish while it looks.
    pattern = f"{glob.escape(str(root))}/*/*/[0-9]*"
    for folder in map(Path, sorted(glob.glob(pattern))):  # noqa: PTH207
        stage, fingerprint = folder.parts[-3:-1]
        held = is_held(folder / "lock")
        holder = _holder(folder)
        size, changed = _extent(folder)
        if held or changed:  # else it has just gone
            progress = _progress(folder)
            found.append(
                StateSlot(folder, stage, fingerprint, held, holder, progress, size, changed)
            )
    return found


def is_held(lock: Path) -> bool:
    """Return whether a process holds a lock file, without creating or changing it.

    For the instant of the question the lock is shared with whoever else asks.
    """
    try:
        handle = os.open(lock, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(handle)
    return False


def remove_slot(slot: StateSlot) -> bool:
    """Remove an abandoned state folder; return False if a process has taken it meanwhile."""
    lock = FileLock(slot.folder / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    except FileNotFoundError:
        return True
    try:
        shutil.rmtree(slot.folder)
        with suppress(OSError):  # other slots
            slot.folder.parent.rmdir()
    finally:
        lock.release()
    return True


def _holder(folder: Path) -> Mapping[str, Any]:
    """Return who holds a state folder, or held it last; nothing if that is unknown."""
    with suppress(UserError):
        found = read_json(folder / "holder.json")
        if isinstance(found, dict):
            return found
    return {}


def _progress(folder: Path) -> Mapping[str, Any] | None:
    """Return the JSON values of the newest save; its tensors are not read."""
    whole = []
    for number in range(2):
        with suppress(UserError):  # missing, damaged, or just replaced
            content = read_description(folder / f"state.{number}.safetensors")
            if {"save", "values"} <= content.keys():
                whole.append(content)
    values = max(whole, key=lambda content: content["save"])["values"] if whole else None
    return values if isinstance(values, dict) else None


def _extent(folder: Path) -> tuple[int, float]:
    """Return the bytes in a folder and when one of its files was written last; 0 if it is gone."""
    size, changed = 0, 0.0
    for inside, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                found = Path(inside, name).stat()
                size += found.st_size
                changed = max(changed, found.st_mtime)
    return size, changed


def age(moment: float) -> str:
    """Return in words how long ago a moment was, given in seconds since 1970."""
    seconds = max(0, time.time() - moment)
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
