"""Labels that do not belong to the outputs, and images that do not belong to the input."""

from __future__ import annotations

import pytest
import torch
from broken_models import images_of, trained
from check_cases import of_model
from torch import Tensor, nn

from arnas.evaluation.checks import run_check
from arnas.evaluation.result import Check
from arnas.spaces.network import Normalise


def check(name: str, model: nn.Module, y: Tensor | None = None, n: int = 360) -> Check:
    context = of_model(model)
    context.x, context.y = context.x[:n], (context.y if y is None else y)[:n]
    return run_check(name, context)


@pytest.mark.parametrize("model", ["cnn", "robust_cnn"])
@pytest.mark.parametrize("n", [20, 360])
def test_an_honest_network_passes(model: str, n: int) -> None:
    for name in ("above_chance", "labels_match"):
        assert check(name, trained(model), n=n).status == "PASS"


def test_shifted_labels_are_found_with_their_shift() -> None:
    _, y = images_of("cnn")
    found = check("labels_match", trained("cnn"), (y + 1) % 10)
    assert found.status == "FAIL"
    assert "with other numbers: the output is the label plus 9, modulo 10" in found.evidence
    assert check("above_chance", trained("cnn"), (y + 1) % 10).status == "FAIL"


def test_exchanged_classes_are_named() -> None:
    _, y = images_of("cnn")
    order = torch.tensor([0, 1, 2, 7, 4, 5, 3, 6, 8, 9])
    found = check("labels_match", trained("cnn"), order[y])
    assert found.status == "FAIL"
    assert "label 3 is output 6, label 6 is output 7, label 7 is output 3" in found.evidence


def test_a_removed_class_that_shifts_the_others_is_found() -> None:
    """Labels from 3 up are one too low, as without the folder of a class; far above chance."""
    _, y = images_of("cnn")
    found = check("labels_match", trained("cnn"), torch.where(y > 2, y - 1, y))
    assert found.status == "FAIL"
    assert "label 3 is output 4, label 4 is output 5" in found.evidence
    assert check("above_chance", trained("cnn"), torch.where(y > 2, y - 1, y)).status == "PASS"


def test_an_untrained_network_is_no_better_than_guessing() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()
    assert check("above_chance", net).status == "FAIL"
    assert check("labels_match", net).status == "PASS"
    constant = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()
    nn.init.zeros_(constant[1].weight)
    found = check("above_chance", constant)
    assert found.status == "FAIL"
    assert "every image is classified as" in found.evidence


def test_one_image_of_each_of_many_classes_does_not_look_renumbered() -> None:
    """A numbering that is fitted to the very images would gain half of them."""
    generator = torch.Generator().manual_seed(1)
    y = torch.arange(100)
    predicted = torch.where(torch.rand(100, generator=generator) < 0.5, y, y.roll(7))

    class Fixed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.one_hot(predicted[: len(x)], 100).float()

    context = of_model(Fixed(), batch_size=100)
    context.x, context.y = context.x[:100], y
    assert run_check("labels_match", context).status == "PASS"


def test_grey_images_that_a_normalisation_turns_into_colour_are_noticed() -> None:
    net = nn.Sequential(nn.Conv2d(3, 10, 8), nn.Flatten())
    colour = nn.Sequential(Normalise([0.5] * 3, [0.2] * 3), net)
    assert check("input_channels", colour).status == "WARN"
    assert check("input_channels", trained("cnn")).status == "PASS"
