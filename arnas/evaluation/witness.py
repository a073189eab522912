"""What is seen while a model is attacked, for the checks afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from arnas.attacks.threat import Threat
from arnas.models.weights import weights_sha256


@dataclass
class EvalMonitor:
    """Sums up every forward pass and every adversarial example of an evaluation."""

    forwards: int = 0
    """Forward passes of the model."""
    awake: int = 0
    """Forward passes during which some submodule was in training mode."""
    changed: bool = False
    """Whether weights or buffers differ after the attacks from before."""
    examples: int = 0
    """Adversarial examples made."""
    excess: float = -float("inf")
    """Largest norm of a perturbation minus its budget."""
    low: float = float("inf")
    """Smallest pixel of an example."""
    high: float = -float("inf")
    """Largest pixel of an example."""
    finite: bool = True
    """Whether every pixel is a finite number."""

    def __add__(self, other: EvalMonitor) -> EvalMonitor:
        """Return what both have seen together."""
        return EvalMonitor(
            self.forwards + other.forwards,
            self.awake + other.awake,
            self.changed or other.changed,
            self.examples + other.examples,
            max(self.excess, other.excess),
            min(self.low, other.low),
            max(self.high, other.high),
            self.finite and other.finite,
        )

    def see(self, x: Tensor, x_adv: Tensor, threat: Threat) -> None:
        """Take note of a batch of examples."""
        order = float("inf") if threat.norm == "linf" else 2.0
        size = (x_adv - x).flatten(1).norm(p=order, dim=1)
        self.examples += len(x)
        self.excess = max(self.excess, float(size.max()) - threat.epsilon)
        self.low = min(self.low, float(x_adv.min()))
        self.high = max(self.high, float(x_adv.max()))
        self.finite &= bool(x_adv.isfinite().all())

    @contextmanager
    def watching(self, *models: nn.Module) -> Iterator[None]:
        """Count the models' forward passes inside the block and see what they leave behind."""

        def count(module: nn.Module, inputs: Any) -> None:
            self.forwards += 1
            self.awake += any(m.training for m in module.modules())

        watched = list({id(model): model for model in models}.values())
        before = [weights_sha256(model) for model in watched]
        handles = [model.register_forward_pre_hook(count) for model in watched]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            self.changed |= [weights_sha256(model) for model in watched] != before
