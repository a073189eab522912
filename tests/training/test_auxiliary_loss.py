"""The auxiliary head in training: its loss is that of the clean batch, and it is not stored."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from training_cases import THREAT

from arnas.data.batches import epoch_batches
from arnas.data.options import AugmentOptions
from arnas.data.splits import LabelledImages
from arnas.models.registry import build_model
from arnas.runtime.progress import silent
from arnas.spaces.network import CellNetwork
from arnas.training import loop
from arnas.training.loop import TrainingData, TrainingTask
from arnas.training.options import RetrainOptions, SelectionOptions
from arnas.training.registry import loss_options

RATE, WEIGHT, COUNT = 0.05, 0.4, 4
"""One batch of four images, one plain step."""
SEED_PARTS = ("a test",)


def network(auxiliary: bool = True) -> CellNetwork:
    torch.manual_seed(3)
    model = build_model(
        "arnas",
        num_classes=3,
        image_size=8,
        in_channels=1,
        channels=2,
        cells=3,
        auxiliary=auxiliary,
    )
    assert isinstance(model, CellNetwork)
    return model


def data() -> TrainingData:
    generator = torch.Generator().manual_seed(5)
    images = torch.randint(0, 17, (COUNT, 1, 8, 8), generator=generator, dtype=torch.uint8)
    train = LabelledImages(images, torch.arange(COUNT) % 3)
    return TrainingData(train, LabelledImages(images[:1], torch.zeros(1, dtype=torch.int64)), 16)


def task(content: TrainingData, weight: float, loss: str = "natural") -> TrainingTask:
    options = RetrainOptions(
        epochs=1,
        batch_size=COUNT,
        learning_rate=RATE,
        milestones=[],
        momentum=0,
        weight_decay=0,
        gradient_clip=1e9,
        auxiliary_weight=weight,
        selection=SelectionOptions(steps=1, train_images=1),
    )
    return TrainingTask(loss_options(loss), content, options, THREAT, SEED_PARTS)


def weights_of(model: CellNetwork) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def test_the_step_follows_both_losses() -> None:
    """Natural training: cross-entropy of the logits and, weighted, of the head's."""
    content, model = data(), network()
    other = copy.deepcopy(model).train()
    before = weights_of(model)
    loop.train(model, task(content, WEIGHT), silent)
    (batch,) = epoch_batches(content.train, 16, COUNT, AugmentOptions(), (*SEED_PARTS, 0, "order"))
    logits, auxiliary = other.with_auxiliary(batch.x)
    loss = F.cross_entropy(logits, batch.y) + WEIGHT * F.cross_entropy(auxiliary, batch.y)
    names = list(before)
    slopes = torch.autograd.grad(loss, [dict(other.named_parameters())[n] for n in names])
    for name, slope in zip(names, slopes, strict=True):
        found = (before[name] - dict(model.named_parameters())[name].detach()) / RATE
        torch.testing.assert_close(found, slope, rtol=1e-3, atol=1e-5)
    moved = dict(zip(names, slopes, strict=True))["auxiliary.classifier.weight"]
    assert moved.abs().max() > 1e-3, "a head without a slope would prove nothing"


@pytest.mark.parametrize(("weight", "passes"), [(0.0, 1), (WEIGHT, 2)])
def test_the_head_costs_one_clean_pass_before_the_attack(
    weight: float, passes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = network()
    order: list[str] = []
    real = CellNetwork.with_auxiliary

    def spy(self: CellNetwork, x: Tensor) -> tuple[Tensor, Tensor]:
        order.append("clean")
        return real(self, x)

    def attack(model: CellNetwork, x: Tensor, *rest: object, **settings: object) -> Tensor:
        order.append("attack")
        return x

    from arnas.training import losses

    monkeypatch.setattr(CellNetwork, "with_auxiliary", spy)
    monkeypatch.setattr(losses, "pgd", attack)
    loop.train(model, task(data(), weight, "pgd"), silent)
    assert order == ["clean", "attack"][2 - passes :]
    assert int(model.stem[1].num_batches_tracked) == passes


def test_a_network_without_a_head_ignores_the_weight() -> None:
    content = data()
    found = []
    for weight in (0.0, WEIGHT):
        model = network(auxiliary=False)
        loop.train(model, task(content, weight), silent)
        found.append(weights_of(model))
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
