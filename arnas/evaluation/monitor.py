"""What is seen while a model is attacked: its passes and the adversarial examples, summed up."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from arnas.attacks.projection import length
from arnas.attacks.threat import Threat
from arnas.models.weights import weights_sha256

TOLERANCE = 1e-6
"""Rounding that float32 adds to the ball and the box."""


@dataclass
class EvalMonitor:
    """Sums up every forward pass and every adversarial example of an evaluation."""

    forwards: int = 0
    """Forward passes, counted in batches."""
    images: int = 0
    """The same, counted in images."""
    gradients: int = 0
    """Images of those that a gradient was asked for."""
    awake: int = 0
    """Forward passes during which some submodule was in training mode."""
    changed: bool = False
    """Whether weights or buffers were different after the attacks."""
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

    def see(self, x: Tensor, x_adv: Tensor, threat: Threat) -> None:
        """Record a batch of adversarial examples."""
        self.examples += len(x)
        size = length(x_adv.double() - x.double(), threat.norm)
        self.excess = max(self.excess, float(size.max()) - threat.epsilon)
        self.low = min(self.low, float(x_adv.min()))
        self.high = max(self.high, float(x_adv.max()))
        self.finite &= bool(x_adv.isfinite().all())

    def inside(self, allowed: float = TOLERANCE) -> bool:
        """Return whether every example was in the ball, up to `allowed`, and in the box."""
        in_box = self.low >= -TOLERANCE and self.high <= 1 + TOLERANCE
        return self.finite and self.excess <= allowed and in_box

    @contextmanager
    def watching(self, *models: nn.Module) -> Iterator[None]:
        """Count the models' forward passes inside the block and compare their weights after it."""

        def count(module: nn.Module, inputs: Any) -> None:
            self.forwards += 1
            self.images += len(inputs[0])
            self.gradients += len(inputs[0]) * bool(inputs[0].requires_grad)
            self.awake += any(m.training for m in module.modules())

        watched = list({id(model): model for model in models}.values())
        before = [weights_sha256(model) for model in watched]
        # Before the hook by which ranks share a batch: all of them count the same.
        try:
            with ExitStack() as hooks:
                for model in watched:
                    hooks.enter_context(model.register_forward_pre_hook(count, prepend=True))
                yield
        finally:
            self.changed |= [weights_sha256(model) for model in watched] != before
