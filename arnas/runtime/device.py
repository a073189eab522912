"""Devices and threads, read from the environment only, so that no engine reruns for them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from arnas.runtime.errors import UserError
from arnas.runtime.lease import assigned, lease_folder, leased, visible_gpus, wanted_gpus


@dataclass(frozen=True)
class Devices:
    """What a job computes on."""

    gpus: tuple[str, ...]
    """Names of the GPUs that it holds; none on the CPU."""
    all: tuple[torch.device, ...]
    """One device for each rank."""

    @property
    def text(self) -> str:
        """Return the devices in words, for the log and the manifest."""
        kind = self.all[0].type
        if kind == "cuda":
            kind = torch.cuda.get_device_name(self.all[0])
        held = f" (GPU {', '.join(self.gpus)})" if self.gpus else ""
        ranks = f", {len(self.all)} ranks" if len(self.all) > 1 else ""
        return f"{kind}{held}{ranks}"


@contextmanager
def held_devices(tell: Callable[[str], None], most: int | None = None) -> Iterator[Devices]:
    """Hold the devices of a job while it runs.

    ``ARNAS_DEVICE`` is ``auto``, ``cpu``, ``cuda`` or ``cuda:N``, which counts the visible GPUs
    from 0; ``ARNAS_GPUS`` says how many. ``ARNAS_RANKS`` sets the number of processes on the CPU.

    Parameters
    ----------
    tell
        Called with one sentence if the job has to wait for GPUs.
    most
        The number of GPUs that the job can use, however many ``ARNAS_GPUS`` offers it: a job that
        can use one at most has no ranks.

    Raises
    ------
    UserError
        For another name, or GPUs that are not there.
    """
    names, number = _allowed()
    offered = wanted_gpus(names)
    count = offered if most is None else min(offered, most)
    if not count:
        ranks = _positive("ARNAS_RANKS") if most is None else 1
        yield Devices((), (torch.device("cpu"),) * ranks)
    elif assigned(names, offered):
        yield _devices(names[:count], names)
    else:
        asked = names if number is None else names[number : number + 1]
        with leased(asked, min(count, len(asked)), lease_folder(), tell) as held:
            yield _devices(held, names)


def _allowed() -> tuple[tuple[str, ...], int | None]:
    """Return the GPUs that may be used, and the number of the one that is asked for, if any."""
    wanted = os.environ.get("ARNAS_DEVICE", "auto")
    if wanted == "cpu":
        return (), None
    name, colon, number = wanted.partition(":")
    if wanted != "auto" and (name != "cuda" or (colon and not number.isdecimal())):
        raise UserError(
            f"ARNAS_DEVICE is '{wanted}': allowed are auto, cpu, cuda, cuda:N; unset it for auto."
        )
    visible = visible_gpus()
    if wanted != "auto" and int(number or 0) >= len(visible):
        raise UserError(
            f"ARNAS_DEVICE is '{wanted}', but this machine shows {len(visible)} CUDA "
            "devices; set ARNAS_DEVICE=cpu or unset it."
        )
    return visible, int(number) if number else None


def _devices(held: tuple[str, ...], names: tuple[str, ...]) -> Devices:
    """Return the devices of the GPUs held, which alone become visible."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(held)
    # If something has initialised CUDA before, the old list still counts.
    shown = held if torch.cuda.device_count() == len(held) else names
    devices = tuple(torch.device("cuda", shown.index(name)) for name in held)
    torch.cuda.set_device(devices[0])
    return Devices(held, devices)


def memory_ran_out(error: BaseException) -> bool:
    """Return whether an error says that a device, or the machine, has no memory left."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


@contextmanager
def full_float32() -> Iterator[None]:
    """Do without TF32, whose ten-bit mantissa would weaken reported attacks on a GPU.

    After the block the settings are what they were.
    """
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def configure_determinism() -> bool:
    """Ask PyTorch for deterministic algorithms if ``ARNAS_DETERMINISTIC`` is 1, and return that.

    On a CPU results are deterministic without it. On a GPU sums run in any order unless it is set;
    equal runs on equal GPUs then give equal bytes, at some cost in time.

    Raises
    ------
    UserError
        When the variable is neither 0 nor 1.
    """
    wanted = _is_set("ARNAS_DETERMINISTIC")
    if wanted:
        # cuBLAS reads it when the first handle is made, which is later than this.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # Not `use_deterministic_algorithms`, which loads the compiler: two seconds a process.
    torch.set_deterministic_debug_mode("error" if wanted else "default")
    torch.backends.cudnn.deterministic = wanted
    return wanted


def compiles() -> bool:
    """Return whether ``ARNAS_COMPILE`` is 1: networks are compiled before they are attacked.

    Raises
    ------
    UserError
        When the variable is neither 0 nor 1.
    """
    return _is_set("ARNAS_COMPILE")


def configure_threads() -> int:
    """Set PyTorch's thread count from ``ARNAS_THREADS`` (default 1) and return it.

    One thread a job is the default because jobs run side by side: two threads on a loaded machine
    wait for each other and are several times slower than one.
    """
    count = _positive("ARNAS_THREADS")
    torch.set_num_threads(count)
    return count


def _is_set(variable: str) -> bool:
    """Return whether an environment variable is 1; 0 and none are the same."""
    text = os.environ.get(variable) or "0"
    if text not in {"0", "1"}:
        raise UserError(f"{variable} is '{text}': allowed are 0 and 1.")
    return text == "1"


def _positive(variable: str) -> int:
    """Return the whole number that an environment variable holds, 1 by default."""
    text = os.environ.get(variable, "1")
    if not (text.isascii() and text.isdecimal()) or int(text) < 1:
        raise UserError(f"{variable} is '{text}': it must be a whole number from 1 up.")
    return int(text)
