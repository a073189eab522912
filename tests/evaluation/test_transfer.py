"""Examples for other networks: plain loops in float64, and what is shown does not depend on how."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from arnas.attacks.threat import Threat
from arnas.evaluation.predict import predict
from arnas.evaluation.transfer import transfer_examples
from arnas.runtime.resume import FolderCheckpointer
from arnas.runtime.seeds import per_image_uniform

SIDE = 5
CLASSES = 3


def pictures(count: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Return images of which about a third of the pixels lie on the faces of the box."""
    unit = torch.rand(count, 2, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    return (1.5 * unit.to(dtype) - 0.25).clamp(0, 1)


def curved_model(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    """Return a network with all that must be put into evaluation mode, in training mode."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = nn.Sequential(
            nn.Conv2d(2, 4, 3),
            nn.BatchNorm2d(4),
            nn.Tanh(),
            nn.Dropout(),
            nn.Flatten(),
            nn.Linear(36, CLASSES),
        )
        model(torch.rand(16, 2, SIDE, SIDE))
    with torch.no_grad():
        model[5].weight.mul_(6)
    return model.to(dtype).train()


def labels(count: int) -> Tensor:
    return torch.arange(count) % CLASSES


def examples(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    steps: int = 20,
    batch_size: int = 64,
    seed: int = 0,
) -> Tensor:
    return transfer_examples(model, x, y, threat, steps=steps, batch_size=batch_size, seed=seed)


def into_ball_and_box(x: Tensor, delta: Tensor, threat: Threat) -> Tensor:
    if threat.norm == "linf":
        delta = delta.clamp(-threat.epsilon, threat.epsilon)
    else:
        for image in delta:
            length = math.sqrt(float((image * image).sum()))
            if length > threat.epsilon:
                image.mul_(threat.epsilon / length)
    return (x + delta).clamp(0, 1) - x


def plain_pgd(
    model: nn.Module, x: Tensor, y: Tensor, threat: Threat, steps: int, seed: int
) -> Tensor:
    """Return the last iterate of PGD on the mean cross-entropy, written out."""
    model = model.eval()
    unit = per_image_uniform(("blackbox", seed), torch.arange(len(x)), x.shape[1:]).to(x)
    if threat.norm == "linf":
        delta = 2 * threat.epsilon * unit - threat.epsilon
    else:
        normal = torch.special.ndtri(unit.clamp(1e-6, 1 - 1e-6))
        radius = threat.epsilon * (4096 * unit[:, 0, 0, 0]).frac() ** (1 / unit[0].numel())
        delta = normal * (radius / normal.flatten(1).norm(dim=1)).view(-1, 1, 1, 1)
    delta = into_ball_and_box(x, delta, threat)
    for _ in range(steps):
        place = (x + delta).requires_grad_()
        (slope,) = torch.autograd.grad(F.cross_entropy(model(place), y), place)
        if threat.norm == "linf":
            move = slope.sign()
        else:
            move = slope / slope.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        delta = into_ball_and_box(x, delta + threat.epsilon / 4 * move, threat)
    return x + delta


@pytest.mark.parametrize("steps", [1, 7, 20])
@pytest.mark.parametrize("threat", [Threat("linf", 0.05), Threat("l2", 0.4)], ids=str)
def test_the_examples_are_the_last_iterates_of_plain_pgd(threat: Threat, steps: int) -> None:
    """Also of images that the model gets wrong, and of those that are long broken."""
    model, x, y = curved_model(), pictures(12), labels(12)
    expected = plain_pgd(curved_model(), x, y, threat, steps, seed=3)
    found = examples(model, x, y, threat, steps, seed=3)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    wrong = predict(model, x, 12) != y
    assert 0 < int(wrong.sum()) < 12
    assert bool(((found - x).flatten(1).abs().amax(1) > 0.01).all()), "every image has moved"


def test_the_examples_do_not_depend_on_the_batch() -> None:
    """Nor on the images beside; on the seed they do."""
    model, x, y, threat = curved_model(), pictures(11), labels(11), Threat("linf", 0.05)
    whole = examples(model, x, y, threat)
    for size in (1, 4, 11):
        found = examples(model, x, y, threat, batch_size=size)
        torch.testing.assert_close(found, whole, rtol=0, atol=1e-12)
    first = examples(model, x[:6], y[:6], threat, batch_size=4)
    torch.testing.assert_close(first, whole[:6], rtol=0, atol=1e-12)
    few, other = (examples(model, x, y, threat, steps=2, seed=seed) for seed in (0, 1))
    assert bool(((other - few).flatten(1).abs().amax(1) > 1e-3).all())


def test_examples_are_made_once_though_a_run_is_cut_short(tmp_path: Path) -> None:
    """The second run loads those of the first and makes the others only."""
    model, x, y = curved_model(), pictures(10), labels(10)
    settings = {"steps": 3, "batch_size": 3, "seed": 0}
    whole = transfer_examples(model, x, y, Threat("linf", 0.05), **settings)
    checkpointer, saves = FolderCheckpointer(tmp_path, interval=0), []
    keep = checkpointer.maybe_save

    def cut(snapshot: Any, now: bool = False) -> None:
        keep(snapshot, now)
        saves.append(snapshot)
        if len(saves) == 2:
            raise KeyboardInterrupt

    checkpointer.maybe_save = cut  # type: ignore[method-assign]
    for _ in range(2):
        try:
            found = transfer_examples(
                model, x, y, Threat("linf", 0.05), checkpointer=checkpointer, **settings
            )
        except KeyboardInterrupt:
            continue
    assert torch.equal(found, whole)
    assert len(saves) == 4
