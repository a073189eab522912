"""Device and threads, read from the environment only, so that no engine reruns because of them."""

from __future__ import annotations

import os

import torch

from arnas.runtime.errors import UserError


def select_device() -> torch.device:
    """Return the device named by ``ARNAS_DEVICE`` (``auto``, ``cpu``, ``cuda`` or ``cuda:N``).

    Raises
    ------
    UserError
        For another name, or CUDA where there is none.
    """
    wanted = os.environ.get("ARNAS_DEVICE", "auto")
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name, colon, number = wanted.partition(":")
    if name not in {"cpu", "cuda"} or (colon and not number.isdecimal()):
        raise UserError(
            f"ARNAS_DEVICE is '{wanted}': allowed are auto, cpu, cuda, cuda:N; unset it for auto."
        )
    if name == "cuda" and int(number or 0) >= torch.cuda.device_count():
        raise UserError(
            f"ARNAS_DEVICE is '{wanted}', but this machine shows {torch.cuda.device_count()} CUDA "
            "devices; set ARNAS_DEVICE=cpu or unset it."
        )
    return torch.device(wanted)


def use_full_float32() -> None:
    """Switch off TF32, whose ten-bit mantissa would weaken reported attacks on a GPU."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def configure_threads() -> int:
    """Set PyTorch's thread count from ``ARNAS_THREADS`` (default 1) and return it.

    One thread a job is the default because jobs run side by side: two threads on a loaded machine
    wait for each other and are several times slower than one.
    """
    text = os.environ.get("ARNAS_THREADS", "1")
    if not (text.isascii() and text.isdecimal()) or int(text) < 1:
        raise UserError(f"ARNAS_THREADS is '{text}': it must be a whole number from 1 up.")
    torch.set_num_threads(int(text))
    return int(text)
