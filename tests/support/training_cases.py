"""Small models and data that the tests of training share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from arnas.attacks.threat import Threat
from arnas.data.splits import LabelledImages
from arnas.training.loop import TrainingData, TrainingTask
from arnas.training.options import RetrainOptions, SelectionOptions, TrainingAttackOptions
from arnas.training.registry import loss_options

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
