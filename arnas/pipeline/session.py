"""What every long computation shares: its devices, its saved state, its ranks and its log.

The stages of the pipeline and ``python -m arnas attack`` run inside a session:

>>> with session(title, words, state) as running:  # doctest: +SKIP
...     compute(running.device, running.checkpointer, running.report)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from arnas.pipeline.log import say, shell
from arnas.runtime.device import (
    Devices,
    configure_determinism,
    configure_threads,
    held_devices,
    memory_ran_out,
)
from arnas.runtime.errors import UserError
from arnas.runtime.manifest import environment
from arnas.runtime.progress import Report, console_report, silent
from arnas.runtime.ranks import RankInfo, ReadOnlyCheckpointer, join_as_worker, launch_workers
from arnas.runtime.resume import Checkpointer, checkpointing


@dataclass(frozen=True)
class Session:
    """What a computation works with."""

    device: torch.device
    checkpointer: Checkpointer
    """Saves the state of a loop, outside every engine's outputs."""
    state: Path
    """The folder of that state."""
    report: Report
    record: dict[str, Any]
    """Versions, device and threads, for the manifest."""


@contextmanager
def session(
    title: str,
    words: Sequence[str],
    state: Path,
    *,
    heading: str = "",
    result: str = "",
    most_gpus: int | None = None,
    less_memory: str = "lower the batch_size that it reads",
) -> Iterator[Session]:
    """Hold devices, state and ranks while a computation runs.

    Parameters
    ----------
    title
        Names the computation in messages.
    words
        What follows ``python`` in the command that this process runs.
    state
        Folder that the state is saved in, named by a fingerprint.
    heading
        Heads each line of the log; the title by default.
    result
        Path of the manifest, for whoever looks at the state.
    most_gpus
        How many GPUs it can use; None for any number, each with a rank.
    less_memory
        What helps when it does not fit on the device.
    """
    heading = heading or title
    with (
        checkpointing(state, title, result) as checkpointer,
        _devices(title, heading, most_gpus, less_memory) as devices,
    ):
        threads = configure_threads()
        record = environment(devices.text, threads, configure_determinism())
        say(heading, f"on {devices.text}, threads {threads}")
        with (
            launch_workers(words, devices.all, checkpointer.folder, f"next: {shell(words)}"),
            console_report(heading) as report,
        ):
            yield Session(devices.all[0], checkpointer, checkpointer.folder, report, record)


@contextmanager
def worker_session(place: RankInfo) -> Iterator[Session]:
    """Compute as a rank other than 0, which saves and records nothing; its state is scratch."""
    configure_threads()
    configure_determinism()
    with join_as_worker(place) as device, TemporaryDirectory() as scratch:
        checkpointer = ReadOnlyCheckpointer(Path(place.state))
        yield Session(device, checkpointer, Path(scratch), silent, {})


@contextmanager
def _devices(title: str, heading: str, most: int | None, less_memory: str) -> Iterator[Devices]:
    """Hold the devices; their memory running out is a mistake with a way out."""
    with held_devices(lambda text: say(heading, text), most) as devices:
        try:
            yield devices
        except (RuntimeError, MemoryError) as error:
            if memory_ran_out(error):
                reason = str(error).partition(". ")[0]
                raise UserError(
                    f"{title} does not fit on {devices.text} ({reason}): {less_memory}, or give "
                    "it more memory."
                ) from None
            if "does not have a deterministic implementation" not in str(error):
                raise
            operation = str(error).partition(" does not")[0]
            raise UserError(
                f"ARNAS_DETERMINISTIC is 1, but {operation} has no deterministic form on "
                f"{devices.text}: unset it, or set ARNAS_DEVICE=cpu."
            ) from None
