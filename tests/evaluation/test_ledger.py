"""An evaluation that is cut short anywhere finds the same, and attacks nothing twice."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from checked_models import normalised_model, pictures
from cut_runs import Cut, Stop

from arnas.attacks.threat import Threat
from arnas.evaluation.ledger import Ledger
from arnas.evaluation.transfer import transfer_examples
from arnas.evaluation.whitebox import accuracy_curve, evaluate, predict
from arnas.runtime.progress import silent
from arnas.runtime.resume import NO_CHECKPOINT, Checkpointer

COUNT, BATCH = 20, 8
ATTACKS = ("fgsm", "pgd20", "apgd_ce")
BUDGETS = [Threat("linf", epsilon) for epsilon in (0, 0.05, 0.1)]


def run(checkpointer: Checkpointer = NO_CHECKPOINT) -> object:
    """Evaluate both checkpoints of a stage and a curve; return all outcomes and what was seen."""
    model, x = normalised_model(), pictures(COUNT)
    y = predict(model, x, COUNT)
    y[::4] = (y[::4] + 1) % 2
    ledger = Ledger(checkpointer)
    settings = {"batch_size": BATCH, "seed": 0, "report": silent, "ledger": ledger}
    found = []
    for scope in ("selected", "last"):
        threat = Threat("linf", 0.02)
        outcomes, witness = evaluate(model, x, y, threat, ATTACKS, limit=9, scope=scope, **settings)
        found.append(({k: v.tolist() for k, v in outcomes.items()}, vars(witness)))
    rows, witness = accuracy_curve(model, x, y, BUDGETS, attack="pgd20", **settings)
    shown = transfer_examples(
        model, x, y, BUDGETS[1], steps=3, batch_size=BATCH, seed=0, ledger=ledger
    )
    return found, rows.tolist(), vars(witness), shown.tolist()


def test_cut_short_after_any_batch(tmp_path: Path) -> None:
    whole = run()
    counted = Cut(tmp_path / "counted.safetensors")
    assert run(counted) == whole
    assert counted.offers >= 2 * len(ATTACKS) + len(BUDGETS) + 3
    for stop in range(1, counted.offers + 1):
        path = tmp_path / str(stop) / "state.safetensors"
        with pytest.raises(Stop):
            run(Cut(path, stop))
        second = Cut(path)
        assert run(second) == whole
        assert second.offers == counted.offers - stop, "nothing is attacked twice"


def test_a_fresh_ledger_begins_with_what_stands() -> None:
    standing = torch.tensor([True, False, True])
    found, done = Ledger().begin("selected.fgsm", standing)
    assert torch.equal(found, standing) and done == 0
    found[0] = False
    assert bool(standing[0]), "the caller's flags are its own"
