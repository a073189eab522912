"""What attacks have found so far, so that an evaluation that is killed does not attack twice."""

from __future__ import annotations

from torch import Tensor

from arnas.evaluation.witness import Witness
from arnas.runtime.resume import FORGETFUL, Keeper, Snapshot


class Ledger:
    """Flags of the images that stand, by piece of work, and how many of its batches are done."""

    def __init__(self, keeper: Keeper = FORGETFUL) -> None:
        self._keeper = keeper
        self._flags: dict[str, Tensor] = {}
        self._batches: dict[str, int] = {}
        self._witnesses: dict[str, Witness] = {}
        kept = keeper.load()
        if kept is not None:
            self._flags = dict(kept.tensors)
            self._batches = kept.description["batches"]
            seen = kept.description["witnesses"].items()
            self._witnesses = {name: Witness(**values) for name, values in seen}

    def witness(self, scope: str) -> Witness:
        """Return who watches a part of the evaluation, with what was seen of it before."""
        return self._witnesses.setdefault(scope, Witness())

    def begin(self, work: str, standing: Tensor) -> tuple[Tensor, int]:
        """Return which images stand so far, and the number of batches that are done.

        Parameters
        ----------
        work
            Names the attack and the part of the evaluation that it belongs to.
        standing
            bool of shape (n,): the images that it begins with.
        """
        if work not in self._flags:
            return standing.clone(), 0
        return self._flags[work].to(standing), self._batches[work]

    def note(self, work: str, standing: Tensor, batches: int) -> None:
        """Take note of a batch; the state is saved when it is time."""
        self._flags[work], self._batches[work] = standing, batches
        self._keeper.offer(self._snapshot)

    def _snapshot(self) -> Snapshot:
        """Return all that the evaluation needs to go on."""
        seen = {name: vars(witness) for name, witness in self._witnesses.items()}
        return Snapshot(self._flags, {"batches": self._batches, "witnesses": seen})
