"""The checks of images, labels and budget before the attack."""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Callable
from typing import Any

import pytest
import torch
from broken_models import (
    OUTSIDE,
    THREAT,
    Wrapped,
    context_of,
    model_of,
    trained,
)
from check_cases import of_model, on_digits
from torch import Tensor, nn

from arnas.attacks.threat import Threat
from arnas.evaluation.checks import run_check
from arnas.evaluation.checks.base import CheckContext
from arnas.evaluation.result import Check
from arnas.evaluation.statistics import wilson
from arnas.spaces.network import Normalise


@pytest.mark.parametrize(
    ("prepare", "status", "advice"),
    [
        (lambda x: x, "PASS", ""),
        (lambda x: x.double(), "PASS", ""),
        (lambda x: 255 * x, "FAIL", "divide the images by 255"),
        (lambda x: x / 255, "FAIL", "once, not twice"),
        (lambda x: x / 16, "WARN", "range"),
        (lambda x: (x - 0.3) / 0.4, "FAIL", "put the normalisation inside"),
        (lambda x: torch.full_like(x, 0.5), "FAIL", "one value"),
        (lambda x: x.half(), "FAIL", "float32"),
        (lambda x: (16 * x).byte(), "FAIL", "float32"),
        (lambda x: x.masked_fill(x == 1, math.nan), "FAIL", "NaN"),
        (lambda x: x.masked_fill(x == 1, math.inf), "FAIL", "NaN"),
        (lambda x: x + 5e-7, "PASS", ""),
    ],
)
def test_the_range_of_images(prepare: Callable[[Tensor], Tensor], status: str, advice: str) -> None:
    context = context_of("cnn")
    context.x = prepare(context.x)
    if context.x.dtype == torch.float64:
        context.model.double()
    # Dark images are also worse ones, which another normalisation would help.
    found = run_check("input_range", context)
    assert found.status == (
        "FAIL" if status == "WARN" and "normalised" in found.evidence else status
    )
    assert advice in found.advice or status == "WARN"


def test_dark_images_that_the_model_knows_are_a_warning() -> None:
    bright = Wrapped(trained("cnn"), before=lambda x: 16 * x).eval()
    context = of_model(bright)
    context.x = context.x / 16
    assert run_check("input_range", context).status == "WARN"
    assert "pixels from 0 to 0.0625" in run_check("input_range", context).evidence


def test_normalisation_outside_is_told_by_the_accuracies() -> None:
    context = context_of("normalisation_outside")
    found = run_check("input_range", context)
    x, y = context.x[:256], context.y[:256]
    with torch.no_grad():
        plain = wilson(int((context.model(x).argmax(1) == y).sum()), 256)
        best = wilson(int((context.model((x - 0.5) / 0.5).argmax(1) == y).sum()), 256)
    assert best.low > plain.high
    assert f"{plain.percent:.1f} % of 256" in found.evidence
    assert f"{best.percent:.1f} % when normalised by the constants of -1 to 1" in found.evidence
    inside = nn.Sequential(Normalise([OUTSIDE[0]], [OUTSIDE[1]]), context.model).eval()
    assert run_check("input_range", of_model(inside)).status == "PASS"


@pytest.mark.parametrize(
    ("known", "status"),
    [
        ({"mean": [0.5], "std": [0.5]}, "PASS"),
        ({"mean": 0.5004, "std": 0.5}, "PASS"),
        ({"mean": [0.4914], "std": [0.5]}, "FAIL"),
        ({"mean": [0.5], "std": [0.2]}, "FAIL"),
        ({"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}, "PASS"),
        ({"mean": [0.5]}, "PASS"),
        ({"mean": "CIFAR-10", "std": object()}, "PASS"),
    ],
)
def test_recorded_normalisation_is_that_of_the_model(known: dict[str, Any], status: str) -> None:
    inside = nn.Sequential(
        Normalise([OUTSIDE[0]], [OUTSIDE[1]]), model_of("normalisation_outside")
    ).eval()
    assert run_check("input_range", of_model(inside, known=known)).status == status


class Noisy(nn.Module):
    """Has a mean and a standard deviation too, for noise that it adds in training only."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.mean, self.std = trained("cnn"), 0.0, 0.1
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


def test_a_layer_of_noise_is_no_wrong_normalisation() -> None:
    known = {"mean": [0.3], "std": [0.4]}
    found = run_check("input_range", of_model(Noisy(), known=known))
    assert (found.status, "Noisy has mean 0 and std 0.1" in found.evidence) == ("WARN", True)


def test_a_recorded_normalisation_that_cannot_be_found_is_a_warning() -> None:
    assert on_digits("input_range", known={"mean": [0.3], "std": [0.4]}).status == "WARN"
    assert on_digits("input_range", known={"mean": [0.0], "std": [1.0]}).status == "PASS"


@pytest.mark.parametrize(
    ("count", "off", "known", "status"),
    [
        (360, 0.0, {"dataset_size": 360}, "PASS"),
        (360, 0.04, {"dataset_size": 360}, "PASS"),
        (360, -100 / 360, {"dataset_size": 360}, "WARN"),
        (360, -200 / 360, {"dataset_size": 360}, "FAIL"),
        (360, -200 / 360, {"dataset_size": 10000}, "PASS"),
        (360, -200 / 360, {"dataset_size": 360, "clean_accuracy_on": "selection"}, "PASS"),
        (360, -2.6, {}, "WARN"),
        (360, -8.0, {}, "FAIL"),
        (360, -8.0, {"clean_accuracy_on": "selection"}, "WARN"),
        (360, -97.0, {"dataset_size": 360}, "FAIL"),
        (100, -3.0, {"dataset_size": 360}, "PASS"),
    ],
)
def test_clean_accuracy_is_that_of_the_record(
    count: int, off: float, known: dict[str, Any], status: str
) -> None:
    context = context_of("cnn", count)
    with torch.no_grad():
        right = int((context.model(context.x).argmax(1) == context.y).sum())
    context.known = {"clean_accuracy": 100 * right / count + off, **known}
    found = run_check("clean_accuracy_recorded", context)
    assert f"{100 * right / count:.2f} % on {count} images" in found.evidence
    assert found.status == status


@pytest.mark.parametrize(("wrong", "status"), [(0, "PASS"), (1, "WARN"), (2, "FAIL")])
def test_a_perfect_record_allows_one_image(wrong: int, status: str) -> None:
    context = context_of("cnn", known={"clean_accuracy": 100.0})
    with torch.no_grad():
        context.y = context.model(context.x).argmax(1)
    context.y[:wrong] = (context.y[:wrong] + 1) % 10
    assert run_check("clean_accuracy_recorded", context).status == status


@pytest.mark.parametrize("recorded", [None, "good", math.nan, 978, -1, [97.0, 98.0]])
def test_a_clean_accuracy_that_is_none_is_skipped(recorded: Any) -> None:
    known = {"clean_accuracy": recorded}
    assert on_digits("clean_accuracy_recorded", known=known).status == "SKIP"


@pytest.mark.parametrize(
    ("norm", "epsilon", "status"),
    [
        ("linf", "8/255", "PASS"),
        ("linf", 8 / 255, "PASS"),
        ("linf", "0.3", "PASS"),
        ("linf", 0.1, "PASS"),
        ("linf", 0.05, "PASS"),
        ("linf", 0.02, "PASS"),
        ("linf", 0.031, "WARN"),
        ("linf", 0.0314, "WARN"),
        ("linf", 0.0157, "WARN"),
        ("linf", 0.0039, "WARN"),
        ("linf", 0, "WARN"),
        ("linf", 8 / 255 / 255, "WARN"),
        ("linf", 0.5, "WARN"),
        ("linf", 1, "WARN"),
        ("l2", 0.5, "PASS"),
        ("l2", "128/255", "PASS"),
        ("l2", "8/255", "WARN"),
        ("l2", 8.0, "WARN"),
        ("l1", 12, "PASS"),
        ("l1", 64, "WARN"),
    ],
)
def test_the_unit_of_epsilon(norm: str, epsilon: float | str, status: str) -> None:
    threat = Threat(norm, epsilon)
    found = on_digits("epsilon_unit", threat=threat, known={"epsilon_written": epsilon})
    assert found.status == status
    assert str(threat) in found.evidence
    assert f"written {epsilon}" in found.evidence


def test_another_budget_than_the_written_one_fails() -> None:
    threat = Threat("linf", "8/255")
    for written in ("8", "4/255", "eight", 0.031, object()):
        known = {"epsilon_written": written}
        assert on_digits("epsilon_unit", threat=threat, known=known).status == "FAIL"
    assert on_digits("epsilon_unit", threat=threat).status == "PASS"


def test_the_subset_is_hashed_and_counted() -> None:
    indices = torch.tensor([5, 3, 300])
    found = on_digits("test_subset", count=3, indices=indices)
    digest = hashlib.sha256(struct.pack("<3q", 5, 3, 300)).hexdigest()[:12]
    assert f"a selection of 3 images, indices sha256 {digest}" in found.evidence
    first = on_digits("test_subset", known={"dataset_size": 360}, indices=torch.arange(360))
    assert first.evidence.startswith("all 360 images")
    half = wilson(180, 360)
    assert f"+-{(half.high - half.low) / 2:.1f} points" in first.evidence
    assert on_digits("test_subset").evidence.startswith("the first 360 images")


def many(count: int, classes: int = 10) -> CheckContext:
    """Return a context with images of noise and as many labels of each class."""
    draws = torch.Generator().manual_seed(0)
    x = torch.rand(count, 1, 8, 8, generator=draws)
    return CheckContext(trained("cnn"), x, torch.arange(count) % classes, THREAT, "fast", 0, 500)


def subset_of(context: CheckContext) -> Check:
    return run_check("test_subset", context)


def test_a_large_balanced_set_passes() -> None:
    assert subset_of(many(1000)).status == "PASS"
    assert subset_of(many(999)).status == "WARN"


def test_images_that_are_there_twice_are_counted() -> None:
    context = many(1000)
    context.x[7] = context.x[8]
    context.x[9] = context.x[8]
    assert "2 images and 0 indices twice" in subset_of(context).evidence
    context.indices = torch.arange(1000).clamp_min(1)
    assert "2 images and 1 indices twice" in subset_of(context).evidence
    assert subset_of(context).status == "WARN"


def test_classes_that_are_missing_or_crowded_are_named() -> None:
    assert "no image of 8 of 10 classes" in subset_of(many(1000, classes=2)).evidence
    context = many(1000)
    context.y[:400] = 3
    assert "46 % of them of class 3" in subset_of(context).evidence
    assert subset_of(context).status == "WARN"


@pytest.mark.parametrize(
    ("indices", "known"),
    [
        (torch.arange(999), {}),
        (torch.arange(-1, 999), {}),
        (torch.arange(1000), {"dataset_size": 500}),
    ],
)
def test_indices_that_cannot_be_meant_fail(indices: Tensor, known: dict[str, Any]) -> None:
    context = many(1000)
    context.indices, context.known = indices, known
    assert subset_of(context).status == "FAIL"
