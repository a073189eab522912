"""Models of any make are evaluated like their plain twin."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from broken_models import THREAT, images_of, trained
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import arnas


class Before(nn.Module):
    """The small CNN with something before it."""

    def __init__(self, act: Callable[[nn.Module, Tensor], Any]) -> None:
        super().__init__()
        self.net, self.act = trained("cnn"), act
        self.eval()

    def forward(self, x: Tensor) -> Any:
        return self.act(self.net, x)


def in_place(net: nn.Module, x: Tensor) -> Tensor:
    return net(x.mul_(1.0))


def reentrant(net: nn.Module, x: Tensor) -> Any:
    return checkpoint(net, x, use_reentrant=True)


def exported(net: nn.Module, folder: Path) -> Any:
    batch = torch.export.Dim("batch", min=1, max=512)
    program = torch.export.export(net, (images_of("cnn")[0][:4],), dynamic_shapes=({0: batch},))
    torch.export.save(program, folder / "net.pt2")
    return torch.export.load(folder / "net.pt2").module()


def loaded(net: nn.Module, folder: Path) -> Any:
    torch.jit.save(torch.jit.trace(net, images_of("cnn")[0][:4]), folder / "net.pt")
    return torch.jit.load(folder / "net.pt")


def inference(net: nn.Module, folder: Path) -> Any:
    with torch.inference_mode():
        for module in net.modules():
            for name, value in module._parameters.items():
                module._parameters[name] = nn.Parameter(value.clone(), requires_grad=False)
    return net


MAKES: dict[str, Callable[[nn.Module, Path], Any]] = {
    "writes into its images": lambda net, folder: Before(in_place),
    "reentrant checkpointing": lambda net, folder: Before(reentrant),
    "first layer in place": lambda net, folder: nn.Sequential(nn.ReLU(inplace=True), net),
    "function": lambda net, folder: net.forward,
    "traced, saved, loaded": loaded,
    "scripted": lambda net, folder: torch.jit.script(net),
    "frozen": lambda net, folder: torch.jit.freeze(torch.jit.script(net)),
    "exported": exported,
    "made in inference mode": inference,
}


@pytest.mark.parametrize("make", MAKES)
def test_the_make_of_a_model_does_not_change_its_numbers(make: str, tmp_path: Path) -> None:
    x, y = (part[:24] for part in images_of("cnn"))
    twin = arnas.evaluate(trained("cnn"), x, y, THREAT, "pgd20,apgd_ce", checks="none")
    assert 0 < twin.robust_accuracy.correct < twin.clean_accuracy.correct
    model = MAKES[make](trained("cnn"), tmp_path)
    kept = x.clone()
    found = arnas.evaluate(model, x, y, THREAT, "pgd20,apgd_ce", checks="cheap")
    assert torch.equal(x, kept)
    assert found.clean_accuracy == twin.clean_accuracy
    assert abs(found.robust_accuracy.correct - twin.robust_accuracy.correct) <= 1  # rounding
    assert not [check for check in found.checks if check.status == "FAIL"]


def test_inside_inference_mode_and_with_arrays_the_numbers_are_the_same() -> None:
    x, y = (part[:24] for part in images_of("cnn"))
    twin = arnas.evaluate(trained("cnn"), x, y, THREAT, "apgd_ce", checks="none")
    with torch.inference_mode():
        inside = arnas.evaluate(trained("cnn"), x.clone(), y, THREAT, "apgd_ce", checks="none")
    arrays = (x.numpy().astype(np.float64), y.numpy().astype(np.int32))
    outside = arnas.evaluate(trained("cnn"), *arrays, THREAT, "apgd_ce", checks="none")
    for found in (inside, outside):
        assert found.outcomes["apgd_ce"].tolist() == twin.outcomes["apgd_ce"].tolist()


def test_one_output_of_a_binary_task_is_two_logits() -> None:
    """A linear model on two classes, whose robust images are known in closed form."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(40, 1, 4, 4, generator=generator)
    weight = torch.randn(16, generator=generator)
    margin = x.flatten(1) @ weight
    offset = margin.median()
    y = (margin > offset).long()
    epsilon = 0.05

    def one(x: Tensor) -> Tensor:
        return (x.flatten(1) @ weight - offset)[:, None]

    # Neither clipping nor the ball keeps a pixel from moving by epsilon towards the boundary.
    towards = torch.where(y[:, None] == 1, -weight.sign(), weight.sign()).view(x.shape)
    worst = one((x + epsilon * towards).clamp(0, 1)).squeeze(1) > 0
    found = arnas.evaluate(one, x, y, f"linf:{epsilon}", "apgd_ce", checks="none")
    assert found.clean_accuracy.correct == 40
    assert torch.equal(found.robust_flags, worst.long() == y)


@pytest.mark.parametrize("suite", ["fgsm", "pgd20", "pgd100", "cw_inf", "fast"])
def test_a_model_without_a_gradient_gives_an_unreliable_row(suite: str) -> None:
    x, y = (part[:16] for part in images_of("cnn"))
    model = Before(lambda net, x: net(x.detach()))
    found = arnas.evaluate(model, x, y, THREAT, suite, checks="cheap")
    assert not found.reliable
    assert {check.id: check.status for check in found.checks}["gradient"] == "FAIL"
