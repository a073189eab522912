"""Checks of plain data on both sides of every limit, and on models that deceive."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from checked_models import Loud, linear_model, pictures
from torch import Tensor, nn

from arnas.attacks.objectives import margin
from arnas.attacks.pgd import fgsm, pgd
from arnas.attacks.threat import Threat
from arnas.evaluation.checks.run import (
    blackbox_ball_and_box,
    blackbox_not_stronger,
    control_falls,
    full_range,
    iterative_not_weaker,
    margin_not_stronger,
    model_unchanged,
    more_steps_not_weaker,
    selection_not_test,
)
from arnas.evaluation.monitor import EvalMonitor
from arnas.evaluation.result import Check
from arnas.evaluation.statistics import Accuracy, wilson

THREAT = Threat("linf", 0.1)


def flags(robust: int, n: int) -> Tensor:
    """Return n outcomes of which the first ones are robust."""
    return (torch.arange(n) < robust).to(torch.uint8)


def seen(**changes: Any) -> EvalMonitor:
    """Return a monitor of attacks that kept to the rules, but for the changes."""
    usual = {"forwards": 50, "examples": 7, "excess": 0.0, "low": 0.0, "high": 1.0}
    return EvalMonitor(**{**usual, **changes})


# Modes


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({}, "PASS"),
        ({"awake": 1}, "FAIL"),
        ({"awake": 50}, "FAIL"),
        ({"changed": True}, "FAIL"),
        ({"awake": 1, "changed": True}, "FAIL"),
    ],
)
def test_every_pass_must_be_in_evaluation_mode(changes: dict[str, Any], status: str) -> None:
    check = model_unchanged(seen(**changes))
    assert (check.id, check.status) == ("model_unchanged", status)
    assert f"{changes.get('awake', 0)} of 50 forward passes" in check.evidence
    assert check.evidence.endswith(" changed" if "changed" in changes else "unchanged")


# The ball and the box


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({}, "PASS"),
        ({"excess": -0.05}, "PASS"),
        ({"excess": 1e-6}, "PASS"),
        ({"excess": 1.1e-6}, "FAIL"),
        ({"low": -1e-6}, "PASS"),
        ({"low": -1.1e-6}, "FAIL"),
        ({"high": 1 + 1e-6}, "PASS"),
        ({"high": 1 + 1.1e-6}, "FAIL"),
        ({"finite": False}, "FAIL"),
        ({"examples": 0}, "WARN"),
    ],
)
def test_examples_lie_in_the_ball_and_the_box(changes: dict[str, Any], status: str) -> None:
    """Up to what float32 adds."""
    check = blackbox_ball_and_box(seen(**changes))
    assert (check.id, check.status) == ("blackbox_ball_and_box", status)


def test_a_violation_is_quoted() -> None:
    check = blackbox_ball_and_box(seen(examples=12, excess=0.25, low=-0.5, high=1.5, finite=False))
    assert check.evidence == (
        "12 examples exceed epsilon by 0.250000 at most, pixels from -0.5 to 1.5, not all of them "
        "finite"
    )
    inside = blackbox_ball_and_box(seen(excess=-0.25)).evidence
    assert "by 0.000000 at most" in inside
    assert inside.endswith("all of them finite")
    assert "not all" not in inside


# The end of the curve


@pytest.mark.parametrize(
    ("robust", "frequent", "status"),
    [(0, 10, "PASS"), (1, 10, "WARN"), (10, 10, "WARN"), (11, 10, "FAIL"), (11, 14, "WARN")],
)
def test_a_budget_that_allows_every_image_leaves_none(
    robust: int, frequent: int, status: str
) -> None:
    """Always naming the most frequent class cannot be broken on its images."""
    labels = torch.cat([torch.zeros(frequent).long(), 1 + torch.arange(100 - frequent) % 90])
    check = full_range(wilson(robust, 100), "1", labels)
    assert (check.id, check.status) == ("unbounded_attack", status)
    assert check.evidence.startswith(f"{robust}.0 % of 100 images withstand epsilon 1")


# One attack against another


@pytest.mark.parametrize(
    ("surplus", "status"),
    [(-4, "PASS"), (0, "PASS"), (1, "WARN"), (2, "WARN"), (3, "FAIL"), (60, "FAIL")],
)
@pytest.mark.parametrize(
    ("compare", "name"),
    [
        (iterative_not_weaker, "iterative_not_weaker"),
        (more_steps_not_weaker, "more_steps_not_weaker"),
    ],
)
def test_the_stronger_attack_may_lag_by_a_hundredth(
    compare: Callable[[Tensor, Tensor], Check], name: str, surplus: int, status: str
) -> None:
    """Of 200 images that is two."""
    weaker, stronger = flags(100, 200), flags(100 + surplus, 200)
    check = compare(weaker, stronger)
    assert (check.id, check.status) == (name, status)
    assert check.evidence.startswith("50.0 % withstand ")
    assert f", {(100 + surplus) / 2} % PGD-" in check.evidence


@pytest.mark.parametrize(
    ("more", "status", "advice"),
    [
        (50, "PASS", "more steps must not help the defence"),
        (48, "PASS", "more steps must not help the defence"),
        (47, "WARN", "quote the longer attack"),
        (0, "WARN", "quote the longer attack"),
        (51, "WARN", "more steps must not help the defence"),
        (52, "WARN", "more steps must not help the defence"),
        (53, "FAIL", "more steps must not help the defence"),
    ],
)
def test_more_steps_that_break_two_points_more_were_needed(
    more: int, status: str, advice: str
) -> None:
    check = more_steps_not_weaker(flags(50, 100), flags(more, 100))
    assert (check.status, check.advice) == (status, advice)


def test_images_that_only_the_single_step_breaks_are_counted() -> None:
    """Here three, and four that only the many steps break, so nothing lags."""
    single = torch.tensor([0, 0, 0, 1, 1, 1, 1, 1, 0], dtype=torch.uint8)
    iterative = torch.tensor([1, 1, 1, 0, 0, 0, 0, 1, 0], dtype=torch.uint8)
    check = iterative_not_weaker(single, iterative)
    assert check.status == "PASS"
    assert check.evidence == "55.6 % withstand FGSM, 44.4 % PGD-20; only FGSM breaks 3 images"


# Selection


@pytest.mark.parametrize(
    ("measured", "leaked", "status"),
    [
        (90.0, (0, 0), "PASS"),
        (90.0005, (0, 0), "PASS"),
        (89.9995, (0, 0), "PASS"),
        (90.0025, (0, 0), "PASS"),
        (90.0035, (0, 0), "FAIL"),
        (89.9965, (0, 0), "FAIL"),
        (90.0, (0, 3), "WARN"),
        (90.0, (3, 3), "FAIL"),
        (80.0, (0, 3), "FAIL"),
        (float("nan"), (0, 0), "FAIL"),
    ],
)
def test_the_checkpoint_was_chosen_on_the_selection_images(
    measured: float, leaked: tuple[int, int], status: str
) -> None:
    check = selection_not_test(90.0, measured, 50_000, leaked)
    assert (check.id, check.status) == ("selection_not_test", status)
    assert (
        f"{leaked[0]} test images are in another split, {leaked[1]} have a copy" in check.evidence
    )
    assert "noted when it was chosen 90.00 %" in check.evidence
    copies_only = status == "WARN"
    assert check.advice.startswith("remove the copies") == (copies_only or status == "PASS")


# The control


def pair(clean: tuple[int, int], robust: tuple[int, int]) -> dict[str, Accuracy]:
    return {"clean": wilson(*clean), "union": wilson(*robust)}


@pytest.mark.parametrize(
    ("clean", "robust", "status", "advice"),
    [
        ((90, 100), (0, 100), "PASS", "raise epsilon"),
        ((90, 100), (60, 100), "PASS", "raise epsilon"),
        ((90, 100), (61, 100), "WARN", "raise epsilon"),
        ((90, 100), (72, 100), "WARN", "raise epsilon"),
        ((90, 100), (85, 100), "FAIL", "the attacks do not work here"),
        ((90, 100), (90, 100), "FAIL", "the attacks do not work here"),
        ((3, 4), (1, 4), "FAIL", "the attacks do not work here"),
        ((0, 100), (0, 100), "FAIL", "the attacks do not work here"),
    ],
)
def test_an_undefended_network_must_fall_by_a_third_and_clearly(
    clean: tuple[int, int], robust: tuple[int, int], status: str, advice: str
) -> None:
    """Clearly means that the intervals do not meet: at n = 4 half of the images says nothing."""
    check = control_falls(pair(clean, robust))
    assert (check.id, check.status) == ("control_falls", status)
    assert check.advice.startswith(advice)
    shares = [100 * a / b for a, b in (clean, robust)]
    assert f"from {shares[0]:.1f} % clean to {shares[1]:.1f} % under" in check.evidence


def test_without_a_control_nobody_knows() -> None:
    check = control_falls({})
    assert (check.id, check.status) == ("control_falls", "WARN")
    assert "loss natural" in check.advice


# Black-box attacks


@pytest.mark.parametrize(
    ("n", "fell", "status"),
    [
        (100, 0, "PASS"),
        (100, 1, "WARN"),
        (100, 2, "WARN"),
        (100, 3, "FAIL"),
        (10, 2, "WARN"),
        (10, 3, "FAIL"),
        (500, 5, "WARN"),
        (500, 6, "FAIL"),
    ],
)
def test_what_falls_to_black_box_attacks_only_is_counted(n: int, fell: int, status: str) -> None:
    """Up to two images, or a hundredth, a stroke of luck is allowed."""
    check = blackbox_not_stronger(flags(n // 2, n), {"other": flags(n // 2 - fell, n)})
    assert (check.id, check.status) == ("blackbox_not_stronger", status)
    assert check.evidence.startswith(f"{fell} of {n} images withstand all white-box attacks")
    assert "fall to other, the strongest of 1 black-box attacks" in check.evidence


def test_the_worst_of_several_is_named() -> None:
    others = {"a": flags(50, 100), "b": flags(46, 100), "c": flags(49, 100)}
    check = blackbox_not_stronger(flags(50, 100), others)
    assert check.status == "FAIL"
    assert check.evidence.startswith("4 of 100 images")
    assert "fall to b, the strongest of 3" in check.evidence
    turned = blackbox_not_stronger(flags(50, 100), dict(reversed(others.items())))
    assert turned == check, "the order of the attacks does not matter"


def test_the_worst_status_decides_not_the_largest_count() -> None:
    """Five fall to `a` alone, but as many to the white box alone; four to `b`, a surplus."""
    others = {"a": torch.cat([flags(0, 5), flags(50, 95)]), "b": flags(46, 100)}
    check = blackbox_not_stronger(flags(50, 100), others)
    assert (check.status, check.evidence[:16]) == ("FAIL", "4 of 100 images ")


def test_an_attack_on_fewer_images_is_compared_on_these() -> None:
    """On the first ten, of which the white box leaves none, it breaks nothing more."""
    whitebox = torch.cat([flags(0, 10), flags(90, 90)])
    assert blackbox_not_stronger(whitebox, {"square": flags(0, 10)}).status == "PASS"
    check = blackbox_not_stronger(whitebox, {"square": flags(0, 14)})
    assert check.status == "FAIL"
    assert check.evidence.startswith("4 of 14 images")
    check = blackbox_not_stronger(whitebox, {"square": flags(0, 11)})
    assert check.status == "WARN", "what stands among the other images is no surplus"
    assert check.evidence.startswith("1 of 11 images")


def test_without_black_box_attacks_nobody_knows() -> None:
    check = blackbox_not_stronger(flags(3, 5), {})
    assert (check.id, check.status) == ("blackbox_not_stronger", "WARN")


# Models that deceive


def robust(model: nn.Module, x: Tensor, y: Tensor, x_adv: Tensor) -> Tensor:
    return (model(x_adv).argmax(1) == y).detach()


@pytest.mark.parametrize(("factor", "status"), [(1, "PASS"), (1000, "FAIL")])
def test_loud_logits_hide_the_gradient_of_the_cross_entropy(factor: float, status: str) -> None:
    """But neither that of the margin, nor the examples of the same model with quiet logits."""
    quiet, x = linear_model(), pictures(100)
    model, y = Loud(quiet, factor), quiet(x).argmax(1)
    entropy = robust(model, x, y, pgd(model, x, y, THREAT))
    of_margin = robust(model, x, y, pgd(model, x, y, THREAT, objective=margin))
    transferred = robust(model, x, y, pgd(quiet, x, y, THREAT))
    assert margin_not_stronger(entropy, of_margin).status == status
    assert blackbox_not_stronger(entropy, {"quiet": transferred}).status == status
    assert blackbox_not_stronger(entropy & of_margin, {"quiet": transferred}).status == "PASS"


class Ditch(nn.Module):
    """Falls for a step of the whole budget, but small steps stay in a ditch half-way."""

    def forward(self, x: Tensor) -> Tensor:
        way = (x.flatten(1).mean(1) - 0.5) / THREAT.epsilon
        margin = torch.where(way < 0.5, 1 - way, torch.where(way < 0.9, way, -way))
        return torch.stack([-margin, margin], dim=1)


def test_small_steps_that_a_ditch_holds_up_are_seen() -> None:
    x = pictures(40)
    x = x - x.flatten(1).mean(1).view(-1, 1, 1, 1) + 0.5
    model, y = Ditch(), torch.ones(40).long()
    single = robust(model, x, y, fgsm(model, x, y, THREAT))
    iterative = robust(model, x, y, pgd(model, x, y, THREAT, steps=20))
    check = iterative_not_weaker(single, iterative)
    assert check.status == "FAIL"
    assert check.evidence == "0.0 % withstand FGSM, 100.0 % PGD-20; only FGSM breaks 40 images"


# Margin against cross-entropy


@pytest.mark.parametrize(
    ("entropy", "margin", "status"),
    [(80, 90, "PASS"), (80, 80, "PASS"), (80, 77, "PASS"), (80, 76, "WARN"), (80, 70, "WARN"),
     (80, 69, "FAIL"), (100, 0, "FAIL")],
)  # fmt: skip
def test_a_margin_that_breaks_many_more_is_a_sign_of_saturation(
    entropy: int, margin: int, status: str
) -> None:
    check = margin_not_stronger(flags(entropy, 100), flags(margin, 100))
    assert (check.id, check.status) == ("margin_not_stronger", status)
    assert f"{entropy}.0 % withstand PGD on the cross-entropy, {margin}.0 %" in check.evidence
