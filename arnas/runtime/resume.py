"""Checkpoints of a run in progress, from which a killed run resumes.

A checkpoint is a safetensors file, verified when it is read. Two files are written in turns, so one
of them is whole whenever the process is killed. They lie outside every engine's outputs, in a
folder that is named by the fingerprint of the result, locked by one process at a time and removed
when the result is complete.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from filelock import FileLock, Timeout

from arnas.runtime.errors import Preempted, UserError
from arnas.runtime.files import (
    TensorFile,
    load_tensors,
    read_json,
    save_tensors,
    unwritable,
    write_json,
)

if TYPE_CHECKING:  # to hold a lock takes no torch
    from torch import Tensor

INTERVAL = "30"
"""Seconds between two saves, at most, unless ``ARNAS_SAVE_SECONDS`` says otherwise; an epoch's end
saves too."""
LARGE_BYTES = 10_000_000
"""A smaller state is on the disk before a thread would pay."""
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
"""What engines and clusters send before they kill."""


class Snapshot(NamedTuple):
    """All that a loop needs to resume."""

    tensors: Mapping[str, Tensor]
    values: Mapping[str, Any]
    """JSON values."""


class Checkpointer(Protocol):
    """Loads and saves the state of a loop."""

    @property
    def stopping(self) -> bool:
        """Return whether a signal arrived, after which the next `maybe_save` stops."""

    def load(self) -> TensorFile | None:
        """Return the state of an earlier, interrupted run, if there is one."""

    def maybe_save(self, snapshot: Callable[[], Snapshot], now: bool = False) -> None:
        """Save if it is time, or if `now`; called between two steps."""


class NoCheckpoint:
    """A checkpointer that saves nothing."""

    stopping = False

    def load(self) -> TensorFile | None:
        """Return None: nothing was saved."""
        return None

    def maybe_save(self, snapshot: Callable[[], Snapshot], now: bool = False) -> None:
        """Save nothing."""


NO_CHECKPOINT: Checkpointer = NoCheckpoint()


class Sections:
    """The state of a job that has several parts, one after the other, each with its own state."""

    def __init__(self, checkpointer: Checkpointer) -> None:
        self.checkpointer = checkpointer
        self.snapshots: dict[str, Callable[[], Snapshot]] = {}
        kept = checkpointer.load() or TensorFile({}, {})
        for name, values in kept.description.items():
            start = f"{name}/"
            tensors = {
                k.removeprefix(start): v for k, v in kept.tensors.items() if k.startswith(start)
            }
            self.snapshots[name] = partial(Snapshot, tensors, values)

    def joined(self) -> Snapshot:
        """Return the states of all parts as one."""
        parts = {name: snapshot() for name, snapshot in self.snapshots.items()}
        tensors = {f"{n}/{key}": v for n, part in parts.items() for key, v in part.tensors.items()}
        return Snapshot(tensors, {name: part.values for name, part in parts.items()})


@dataclass(frozen=True)
class Section:
    """The checkpointer of one part of a job."""

    sections: Sections
    name: str

    @property
    def stopping(self) -> bool:
        """As for `Checkpointer`."""
        return self.sections.checkpointer.stopping

    def load(self) -> TensorFile | None:
        """Return the state of the part in an earlier run that was cut short, if there is one."""
        if self.name not in self.sections.snapshots:
            return None
        tensors, values = self.sections.snapshots[self.name]()
        return TensorFile(dict(tensors), dict(values))

    def maybe_save(self, snapshot: Callable[[], Snapshot], now: bool = False) -> None:
        """Save the state of all parts if it is time, or if `now`."""
        self.sections.snapshots[self.name] = snapshot
        self.sections.checkpointer.maybe_save(self.sections.joined, now)


class FolderCheckpointer:
    """Saves the state of one run in a folder.

    A large state is copied and written by a thread while the run continues: digest and disk take
    seconds, so that saving every half minute would cost several percent.
    """

    def __init__(self, folder: Path, interval: float) -> None:
        self.folder = folder
        self._interval = interval
        self._looping = False
        self._number = 0
        self._saved = time.monotonic()
        self._signal: signal.Signals | None = None
        self._writer = ThreadPoolExecutor(1, "state")
        self._writing: Future[None] | None = None

    @property
    def stopping(self) -> bool:
        """Return whether a signal arrived, after which the next `maybe_save` stops."""
        return self._signal is not None

    def _path(self, number: int) -> Path:
        """Return the file of a save; two alternate, so a kill while writing costs one save."""
        return self.folder / f"state.{number % 2}.safetensors"

    def load(self, quiet: bool = False) -> TensorFile | None:
        """Return the newest undamaged state; a damaged one is reported on stderr unless quiet."""
        self._looping = True
        found: list[tuple[int, TensorFile]] = []
        for path in filter(Path.exists, map(self._path, range(2))):
            try:
                tensors, content = load_tensors(path)
                if content.keys() != {"save", "values"}:
                    raise UserError(f"{path} is no state of a run.")
                found.append((content["save"], TensorFile(tensors, content["values"])))
            except UserError as error:
                if not quiet:
                    sys.stderr.write(f"warning: {error} It is not used.\n")
        if not found:
            return None
        self._number, newest = max(found, key=lambda pair: pair[0])
        return newest

    def maybe_save(self, snapshot: Callable[[], Snapshot], now: bool = False) -> None:
        """Save if it is time, or if `now`; after a signal, save and stop.

        Raises
        ------
        Preempted
            After a signal to stop; the state is saved.
        UserError
            When the save before could not be written.
        """
        due = now or time.monotonic() - self._saved >= self._interval
        if due or self._signal is not None:
            self.flush()
            tensors, values = snapshot()
            self._number += 1
            path, content = self._path(self._number), {"save": self._number, "values": dict(values)}
            if sum(value.nbytes for value in tensors.values()) < LARGE_BYTES:
                save_tensors(path, tensors, content)
            else:
                copies = {
                    key: value.detach().to("cpu", copy=True) for key, value in tensors.items()
                }
                content = json.loads(json.dumps(content))  # a copy too
                self._writing = self._writer.submit(save_tensors, path, copies, content)
            self._saved = time.monotonic()
        if self._signal is not None:
            self.flush()
            raise Preempted(self._signal.name)

    def flush(self) -> None:
        """Wait until the last save is on the disk; a `UserError` if it could not be written."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def close(self) -> None:
        """Wait for the last save, even if it failed."""
        self._writer.shutdown()

    def on_signal(self, number: int, _: FrameType | None) -> None:
        """Stop at the next `maybe_save`; at once if no loop has started."""
        self._signal = signal.Signals(number)
        if not self._looping:
            raise Preempted(self._signal.name)


def save_interval() -> float:
    """Return the seconds between two saves: ``ARNAS_SAVE_SECONDS``, by default 30."""
    text = os.environ.get("ARNAS_SAVE_SECONDS") or INTERVAL
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not seconds >= 0:
        raise UserError(f"ARNAS_SAVE_SECONDS is '{text}': allowed are 0 and more, as in 30.")
    return seconds


@contextmanager
def checkpointing(folder: Path, title: str, result: str = "") -> Iterator[FolderCheckpointer]:
    """Lock the folder of a run and yield its checkpointer; remove the folder on success.

    Copies of a checkout that work on the same result at once, as experiments of DVC do, have a
    slot each; in one checkout a second process is refused.

    Parameters
    ----------
    folder
        Named by the fingerprint of the result.
    title, result
        Name of the instance and path of its manifest, for whoever looks at the state.

    Raises
    ------
    UserError
        When another process makes the same result in this checkout.
    """
    for number in itertools.count():
        slot = folder / str(number)
        lock = FileLock(slot / "lock")
        try:
            slot.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0.2)  # `state_slots` holds it for an instant
            break
        except Timeout:
            who = _holder(slot)
            if who.get("folder") == str(Path.cwd()):
                raise UserError(
                    f"{title} is being made by process {who['pid']} on {who['host']} since "
                    f"{who['since']}: wait for it, or stop it first."
                ) from None
        except OSError as error:
            raise unwritable(slot, error) from None
    try:
        write_json(slot / "holder.json", {**_myself(), "title": title, "result": result})
        checkpointer = FolderCheckpointer(slot, save_interval())
        try:
            with _signals_to(checkpointer):
                yield checkpointer
        finally:
            checkpointer.close()
        shutil.rmtree(slot)
        with suppress(OSError):  # other slots, or a history that another process writes
            folder.rmdir()
    finally:
        lock.release()


def _myself() -> dict[str, Any]:
    """Return who this process is."""
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        "folder": str(Path.cwd()),
    }


def _holder(slot: Path) -> dict[str, Any]:
    """Return who holds a slot; one that has just taken it may not have written that yet."""
    for _ in range(50):
        with suppress(UserError):
            found = read_json(slot / "holder.json")
            if isinstance(found, dict) and found.keys() >= _myself().keys():
                return found
        time.sleep(0.02)
    return {}


@contextmanager
def _signals_to(checkpointer: FolderCheckpointer) -> Iterator[None]:
    """Send SIGNALS to the checkpointer instead of ending the process."""
    here = threading.current_thread() is threading.main_thread()
    # In other threads signals cannot be caught, and end the process as usual.
    before = {number: signal.signal(number, checkpointer.on_signal) for number in SIGNALS if here}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
