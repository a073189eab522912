"""Seconds and memory of a piece of work on the present device."""

from __future__ import annotations

import ctypes
import gc
import math
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from arnas.runtime.device import memory_ran_out

ENOUGH_SECONDS = 1.0
"""One step that takes so long is timed by itself."""
SLOW_SECONDS = 5.0
"""One that takes so long is not even repeated: what it prepares at first is little beside it."""
MOST_STEPS = 20
KIB = 1024
STATUS = Path("/proc/self/status")
USABLE = 0.9
"""Share of the free memory that a measurement may take."""


@dataclass(frozen=True)
class Timing:
    """What one step costs."""

    seconds: float
    memory: int
    """Most bytes in use meanwhile: on a GPU allocated by PyTorch, on a CPU of the process."""


def time_steps(work: Callable[[int], object], device: torch.device) -> Timing:
    """Return what one step of `work` costs.

    The difference between many steps and one is taken, so that what is done once, before and
    after them, does not count, unless a step takes long.

    Parameters
    ----------
    work
        Called with a number of steps.
    device
        Where it computes.
    """
    _forget_peak(device)
    first = _seconds(work, 1, device)  # which also prepares kernels and memory
    if first >= SLOW_SECONDS:
        return Timing(first, _peak(device))
    one = _seconds(work, 1, device)
    if one >= ENOUGH_SECONDS:
        return Timing(min(first, one), _peak(device))
    more = min(max(math.ceil(ENOUGH_SECONDS / max(one, 1e-6)), 2), MOST_STEPS)
    many = _seconds(work, 1 + more, device)
    return Timing(max((many - one) / more, 1e-9), _peak(device))


def time_or_reason(
    work: Callable[[int], object], device: torch.device
) -> tuple[Timing | None, str]:
    """Return what `time_steps` does, or why it could not be measured: the memory ran out."""
    try:
        with _within_memory(device):
            return time_steps(work, device), ""
    except (RuntimeError, MemoryError) as error:
        if not memory_ran_out(error):
            raise
        return None, "out of memory"


@contextmanager
def _within_memory(device: torch.device) -> Iterator[None]:
    """Let a CPU's memory that runs out be an error here; Linux would kill the process."""
    try:
        free, used = _kib(Path("/proc/meminfo"), "MemAvailable"), _kib(STATUS, "VmData")
    except (OSError, StopIteration):
        free = used = 0
    if device.type != "cpu" or not free:
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_DATA)
    limit = used + int(USABLE * free)
    if before[0] != resource.RLIM_INFINITY:
        limit = min(limit, before[0])
    resource.setrlimit(resource.RLIMIT_DATA, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def _kib(path: Path, name: str) -> int:
    """Return in bytes what a file of the kernel says of `name` in KiB."""
    line = next(line for line in path.read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * KIB


def _seconds(work: Callable[[int], object], steps: int, device: torch.device) -> float:
    """Return the seconds that some steps take."""
    _wait(device)
    start = time.perf_counter()
    work(steps)
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    """Wait until the device has done all that it was asked to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _forget_peak(device: torch.device) -> None:
    """Start the measurement of peak memory anew, as far as the system lets it."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        return
    gc.collect()
    with suppress(OSError, AttributeError):  # what Linux with glibc has
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM


def _peak(device: torch.device) -> int:
    """Return the peak memory in bytes."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        return _kib(STATUS, "VmHWM")
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIB
