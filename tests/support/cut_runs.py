"""A checkpointer that stops a loop after so many steps, as a kill would right after a save."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from arnas.runtime.files import TensorFile, load_tensors, save_tensors
from arnas.runtime.resume import Snapshot


class Stop(Exception):  # noqa: N818
    """The run was cut short here."""


class Cut:
    """Keeps every offer in a file; after `steps` of them the run stops, if there is a number."""

    def __init__(self, path: Path, steps: int | None = None) -> None:
        self.path, self.steps, self.offers = path, steps, 0

    def load(self) -> TensorFile | None:
        return load_tensors(self.path) if self.path.exists() else None

    def maybe_save(self, snapshot: Callable[[], Snapshot], now: bool = False) -> None:
        save_tensors(self.path, *snapshot())
        self.offers += 1
        if self.offers == self.steps:
            raise Stop
