"""What the checks of an evaluation look at: the model, the images, and what the attacks left."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from arnas.attacks.eval_mode import frozen_eval
from arnas.attacks.oracle import Oracle
from arnas.attacks.threat import Threat
from arnas.evaluation.checks.run import Check
from arnas.evaluation.result import AttackResult
from arnas.runtime.seeds import per_image_uniform

PROBE = 64
"""Most images that a check runs attacks of its own on."""


@dataclass
class CheckContext:
    """One model on trial. Checks leave model, images and outcomes alone."""

    model: nn.Module
    """Pixels in [0, 1] to logits, on the device of `x`; in whatever mode the user had it."""
    x: Tensor
    """float of shape (n, C, H, W)."""
    y: Tensor
    """int64 of shape (n,)."""
    threat: Threat
    suite: str
    seed: int
    batch_size: int
    expectation: int = 1
    """Passes a gradient is averaged over; above 1 the model is taken for a random one."""
    indices: Tensor | None = None
    """int64 of shape (n,): the images' places in their dataset; None for the first n."""
    known: dict[str, Any] = field(default_factory=dict)
    """What is known of model and data, JSON values: ``model_sha256``, ``data_sha256``,
    ``clean_accuracy`` (percent, with ``clean_accuracy_on`` naming the images), ``mean``, ``std``,
    ``selection`` (how the checkpoint was chosen), ``best_robust``, ``last_robust``,
    ``training_history`` (robust accuracy by epoch), ``corruptions`` (``mean`` and ``size``),
    ``epsilon_written`` (as the user wrote it), ``dataset_size``, ``packages`` (versions),
    ``device``. Every key may be missing."""
    attacks: Mapping[str, AttackResult] = field(default_factory=dict)
    """After the attacks: results in their order."""
    outcomes: Mapping[str, Tensor] = field(default_factory=dict)
    """After the attacks: as `EvalResult.outcomes`."""
    x_adv: Tensor | None = None
    """After the attacks: as `EvalResult.x_adv`."""
    notes: dict[str, Any] = field(default_factory=dict)
    """What one check has measured and another one uses."""

    @property
    def places(self) -> Tensor:
        """Return the images' places in their dataset, int64 of shape (n,), on the CPU."""
        return torch.arange(len(self.y)) if self.indices is None else self.indices.cpu()

    def probe(self) -> tuple[Tensor, Tensor]:
        """Return the first images, and their labels, for an attack of a check."""
        return self.x[:PROBE], self.y[:PROBE]

    def oracle(self) -> Oracle:
        """Return the model as attacks ask it; only inside `arnas.attacks.eval_mode.frozen_eval`."""
        return Oracle(self.model, self.batch_size, self.expectation)

    def logits(self, x: Tensor) -> Tensor:
        """Return the logits in evaluation mode, with the model as it was afterwards."""
        with frozen_eval(self.model):
            return Oracle(self.model, self.batch_size).logits(x)

    def uniform(self, purpose: str, count: int) -> Tensor:
        """Return numbers uniform in [0, 1] for the first images, of their shape and device."""
        numbers = per_image_uniform(
            ("check", purpose, self.seed), torch.arange(count), self.x.shape[1:]
        )
        return numbers.to(self.x)


CheckFn = Callable[[CheckContext], Check]
"""One check of the list. It never raises: what it cannot look at is SKIP, with the reason."""
