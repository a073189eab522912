"""What attacks have found so far, so that an evaluation that is killed does not attack twice."""

from __future__ import annotations

from torch import Tensor

from arnas.evaluation.witness import EvalMonitor
from arnas.runtime.resume import NO_CHECKPOINT, Checkpointer, Snapshot


class Ledger:
    """What each piece of work has found, image by image, and how many of its batches are done.

    Mostly flags of the images that stand; for black-box attacks the examples.
    """

    def __init__(self, checkpointer: Checkpointer = NO_CHECKPOINT) -> None:
        self._keeper = checkpointer
        self._found: dict[str, Tensor] = {}
        self._batches: dict[str, int] = {}
        self._witnesses: dict[str, EvalMonitor] = {}
        kept = checkpointer.load()
        if kept is not None:
            self._found = dict(kept.tensors)
            self._batches = kept.description["batches"]
            seen = kept.description["witnesses"].items()
            self._witnesses = {name: EvalMonitor(**values) for name, values in seen}

    def witness(self, scope: str) -> EvalMonitor:
        """Return who watches a part of the evaluation, with what was seen of it before."""
        return self._witnesses.setdefault(scope, EvalMonitor())

    def begin(self, work: str, start: Tensor) -> tuple[Tensor, int]:
        """Return what was found so far, and the number of batches that are done.

        Parameters
        ----------
        work
            Names the attack and the part of the evaluation that it belongs to.
        start
            What it begins with, of shape (n, ...): the flags of the images that stand, or images.
        """
        if work not in self._found:
            return start.clone(), 0
        return self._found[work].to(start), self._batches[work]

    def note(self, work: str, found: Tensor, batches: int) -> None:
        """Take note of a batch; the state is saved when it is time."""
        self._found[work], self._batches[work] = found, batches
        self._keeper.maybe_save(self._snapshot)

    def _snapshot(self) -> Snapshot:
        """Return all that the evaluation needs to go on."""
        seen = {name: vars(witness) for name, witness in self._witnesses.items()}
        return Snapshot(self._found, {"batches": self._batches, "witnesses": seen})
