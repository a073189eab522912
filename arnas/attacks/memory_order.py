"""Which order of a network's maps in memory is faster on this machine: measured once, remembered.

Convolutions on a CPU may be faster with channels innermost or with pixels innermost, by up to a
third either way, depending on the network, its images and the processor. The two orders round
differently, so the choice is kept for the user (``~/.cache/arnas``): a run that is repeated or
resumed on the same machine gives the same bytes, whatever else the machine is busy with.
"""

from __future__ import annotations

import os
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor, fx, nn

from arnas.runtime.files import digest

IMAGES, ROUNDS = 16, 3
"""Of a measurement, after a pass of each to warm up. Fewer images take other kernels."""
CLEARLY = 0.95
"""Share of the other order's time below which channels are kept innermost."""
YES, NO = "channels last", "contiguous"


def channels_last_is_faster(turned: fx.GraphModule, plain: fx.GraphModule, x: Tensor) -> bool:
    """Return whether an attack is faster on the copy of a network with channels innermost.

    Parameters
    ----------
    turned, plain
        The same network with channels and with pixels innermost.
    x
        Images of the attack, float of shape (N, C, H, W); the first 16 are used, or repeated.
    """
    path = _remembered(plain, x)
    with suppress(OSError):
        return path.read_text() == YES
    x = x[:IMAGES].repeat(-(-IMAGES // len(x)), 1, 1, 1)[:IMAGES]
    times = [[_seconds(network, x) for network in (turned, plain)] for _ in range(1 + ROUNDS)]
    fastest, other = (min(column) for column in zip(*times[1:], strict=True))
    choice = YES if fastest < CLEARLY * other else NO
    with suppress(OSError):  # a home that cannot be written to: measured again next time
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent) as stream:
            stream.write(choice)
            stream.flush()
            with suppress(FileExistsError):  # another process was first
                os.link(stream.name, path)
        choice = path.read_text()
    return choice == YES


def input_slope(model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the logits, and the gradient of the sum of their squares by the images."""
    with torch.enable_grad():
        x = x.detach().clone().requires_grad_()
        logits = model(x)
        (gradient,) = torch.autograd.grad(logits.square().sum(), x)
    return logits.detach(), gradient


def _seconds(network: nn.Module, x: Tensor) -> float:
    """Return the CPU time of a forward and backward pass."""
    start = time.process_time()
    input_slope(network, x)
    return time.process_time() - start


def _remembered(network: fx.GraphModule, x: Tensor) -> Path:
    """Return the file that holds the choice for networks of these shapes on this processor."""
    described = {
        "layers": [repr(module) for module in network.modules()],
        "forward": network.code,
        "image": list(x.shape[1:]),
        "torch": torch.__version__,
        "processor": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
    }
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111
    if home.startswith("~"):  # a user without a home
        home = tempfile.gettempdir()
    return Path(home) / "arnas" / "memory-order" / digest(described)
