"""Small models and data that the tests of training share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from arnas.attacks.threat import Threat
from arnas.data.batches import Batch
from arnas.data.splits import LabelledImages
from arnas.training.loop import TrainingData, TrainingTask
from arnas.training.losses import Step
from arnas.training.options import RetrainOptions, SelectionOptions, TrainingAttackOptions
from arnas.training.registry import LossOptions, loss_options

SCALE = 16
CLASSES = 3
THREAT = Threat("linf", 0.1)
ATTACK = TrainingAttackOptions(steps=2, step_size=0.05, start="uniform")
OPTIONS = RetrainOptions(
    epochs=2,
    batch_size=4,
    learning_rate=0.1,
    milestones=[1],
    attack=ATTACK,
    selection=SelectionOptions(steps=2, batch_size=3),
)


def small_net(seed: int = 0) -> nn.Sequential:
    """Return a network with batch normalisation for grey 4x4 images."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(64, CLASSES),
        )


def images(count: int, seed: int) -> LabelledImages:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(0, SCALE + 1, (count, 1, 4, 4), generator=generator, dtype=torch.uint8)
    return LabelledImages(x, torch.arange(count) % CLASSES)


DATA = TrainingData(images(9, 1), images(7, 2), SCALE)
"""Nine images make two batches of four; the last selection batch is one image."""


def task(
    loss: str = "pgd", data: TrainingData = DATA, seed: int = 0, **changes: Any
) -> TrainingTask:
    options = OPTIONS.model_copy(update=changes)
    return TrainingTask(loss_options(loss), data, options, THREAT, ("a test", seed))


def bits(values: dict[str, Tensor]) -> dict[str, bytes]:
    return {name: value.detach().numpy().tobytes() for name, value in values.items()}


EPSILON = 0.1
ENOUGH = TrainingAttackOptions(steps=5, step_size=0.05, start="uniform")
"""Steps that cross the whole ball."""
PGD = loss_options("pgd")


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def step(
    model: nn.Module,
    data: Batch,
    threat: Threat,
    attack: TrainingAttackOptions,
    generator: torch.Generator,
    settings: LossOptions = PGD,
) -> Step:
    """Return a training step with the attack and the settings of the loss."""
    return Step(model, data, threat, RetrainOptions(attack=attack), generator, settings)


def linear_model() -> nn.Sequential:
    """Return a linear two-class model in float64."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2)).double()
    with torch.no_grad():
        model[1].weight.copy_(torch.randn(2, 16, generator=draws(1), dtype=torch.float64))
        model[1].bias.copy_(torch.tensor([0.3, -0.2]))
    return model


def batch(low: float = 0.0, high: float = 1.0, count: int = 8) -> Batch:
    unit = torch.rand(count, 1, 4, 4, generator=draws(2), dtype=torch.float64)
    return Batch(low + (high - low) * unit, torch.arange(count) % 2)


def by_hand(logits: Tensor) -> list[list[float]]:
    """Return the softmax in plain Python numbers."""
    return [[v.exp().item() / row.exp().sum().item() for v in row] for row in logits.double()]
