"""Strength checks: on honest and deceiving models, and at both sides of each limit by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from broken_models import HONEST, THREAT, Wrapped, context_of, images_of, quantise, trained
from check_cases import STRENGTH, attacked_context, by_pgd, finish, nothing
from checked_models import Bright
from torch import Tensor, nn

from arnas.attacks.pgd import fgsm
from arnas.attacks.projection import length
from arnas.attacks.threat import Threat, unbounded
from arnas.evaluation.checks import run_check
from arnas.evaluation.checks import strength as strength_checks
from arnas.evaluation.checks.base import CheckContext
from arnas.evaluation.checks.probes import (
    PgdTrace,
    Probe,
    probe_of,
)
from arnas.evaluation.checks.strength import CORNERS, STEPS, pgd_entropy
from arnas.evaluation.evaluate import evaluate
from arnas.evaluation.result import BROKEN, ROBUST, Check


def attacked_model(model: nn.Module, **changes: Any) -> CheckContext:
    """Return the small suite's outcomes on a model of the digits."""
    context = context_of("cnn", count=64, **changes)
    context.model = model.eval()
    return finish(context)


# Numbers by hand: 100 images, one value a step


def by_hand(
    *,
    entropy: Tensor | None = None,
    margins: Tensor | None = None,
    values: Tensor | None = None,
    n: int = 100,
    **changes: Any,
) -> CheckContext:
    """Return a context whose walks have been taken: flags (steps + 1, n) and values of the loss."""
    calm = torch.zeros(2 * STEPS + 1, n, dtype=torch.bool)
    settled = torch.linspace(0, 2, 2 * STEPS + 1).clamp_max(1)[:, None].expand(-1, n)
    x, y = torch.full((n, 1, 2, 2), 0.5), torch.zeros(n, dtype=torch.int64)
    context = CheckContext(nn.Identity(), x, y, THREAT, "by hand", 0, 64, **changes)
    context.notes["probe"] = Probe(x, y, y == 0, torch.arange(n))
    flags = {"entropy": entropy, "margin": margins}
    for name, wrong in flags.items():
        found = PgdTrace(settled if values is None else values, calm if wrong is None else wrong, x)
        context.notes[f"{name}"] = found
    return context


def falling(count: int, n: int = 100, at: int = 0) -> Tensor:
    """Return the flags of a walk that breaks the first images from a step on."""
    wrong = torch.zeros(2 * STEPS + 1, n, dtype=torch.bool)
    wrong[at:, :count] = True
    return wrong


@pytest.mark.parametrize(
    ("entropy", "margins", "status"),
    [
        (50, 50, "PASS"),
        (50, 51, "PASS"),
        (50, 52, "WARN"),
        (50, 60, "WARN"),
        (50, 61, "FAIL"),
        (50, 40, "PASS"),
        (50, 39, "WARN"),
        (0, 2, "WARN"),
        (0, 3, "FAIL"),
        (3, 6, "WARN"),
        (2, 5, "FAIL"),
    ],
)
def test_limits_of_margin_against_entropy(entropy: int, margins: int, status: str) -> None:
    context = by_hand(entropy=falling(entropy), margins=falling(margins))
    check = run_check("margin_against_entropy", context)
    assert check.status == status
    assert f"cross-entropy breaks {entropy}, PGD-40 on the margin {margins}" in check.evidence
    assert check.advice.startswith("masking") == (margins > entropy and status != "PASS")


@pytest.mark.parametrize(("lost", "status"), [(0, "PASS"), (5, "PASS"), (6, "WARN")])
def test_limits_of_silent_success(lost: int, status: str) -> None:
    """Counted is what twenty steps had and lost, not what came later."""
    wrong = falling(10)
    wrong[7, 20 : 20 + lost] = True
    wrong[STEPS + 1 :, 90:] = True
    check = run_check("silent_success", by_hand(entropy=wrong))
    assert check.status == status
    assert check.evidence.startswith(f"{lost} of 100 images")


@pytest.mark.parametrize(("rising", "status"), [(0, "PASS"), (20, "PASS"), (21, "WARN")])
def test_limits_of_loss_still_rising(rising: int, status: str) -> None:
    """A quarter of the 80 images that stand; what has fallen may rise as it likes."""
    values = torch.linspace(0, 1, 2 * STEPS + 1)[:, None].clamp_max(0.7).repeat(1, 100)
    values[:, :20] = torch.arange(2 * STEPS + 1.0)[:, None]
    values[-1, 20 : 20 + rising] = 0.74
    values[-1, 60:80] = 0.73  # 4 % of the rise only
    values[5, 80:], values[6:, 80:] = 1, 0.1  # falls again after a good step
    values[30, 80:], values[40, 80:] = 0, 0.5  # and does not come back to where it was
    check = run_check("loss_still_rising", by_hand(entropy=falling(20), values=values))
    assert check.status == status
    assert check.evidence.startswith(f"the loss of {rising} of 80 images")


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf"), -float("inf")])
def test_a_loss_that_is_flat_or_no_number_does_not_rise(value: float) -> None:
    check = run_check("loss_still_rising", by_hand(values=torch.full((2 * STEPS + 1, 100), value)))
    assert check.status == "PASS"


def effort(
    monkeypatch: pytest.MonkeyPatch, single: Tensor, entropy: Tensor, second: Tensor
) -> Check:
    def only(context: CheckContext, probe: Probe, first: Tensor | None = None) -> Tensor:
        return single if first is None else second | first

    monkeypatch.setattr(strength_checks, "_fgsm", only)
    monkeypatch.setattr(strength_checks, "_second_start", only)
    return run_check("attack_converged", by_hand(entropy=entropy, n=len(single)))


@pytest.mark.parametrize(
    ("single", "twenty", "forty", "second", "status"),
    [
        (30, 40, 40, 40, "PASS"),
        (40, 40, 40, 40, "PASS"),
        (41, 40, 40, 40, "WARN"),
        (42, 40, 40, 40, "FAIL"),
        (30, 40, 41, 40, "PASS"),
        (30, 40, 42, 40, "WARN"),
        (30, 40, 40, 41, "PASS"),
        (30, 40, 40, 42, "WARN"),
    ],
)
def test_limits_of_attack_converged(
    single: int,
    twenty: int,
    forty: int,
    second: int,
    status: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wrong = falling(twenty) | falling(forty, at=STEPS + 1)
    flags = (torch.arange(100) < single, wrong, torch.arange(100) < second)
    check = effort(monkeypatch, *flags)
    assert check.status == status
    assert (
        f"FGSM breaks {single}, PGD-20 {twenty} ({max(single - twenty, 0)} only" in check.evidence
    )
    assert f"twice the steps break {forty - twenty} more" in check.evidence
    assert f"a second start {second - twenty} more" in check.evidence


def test_attack_converged_counts_image_by_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """FGSM breaks ten images that PGD does not, and PGD ten others: nothing is wrong in sum."""
    single = (torch.arange(100) >= 30) & (torch.arange(100) < 50)
    check = effort(monkeypatch, single, falling(40), torch.zeros(100, dtype=torch.bool))
    assert check.status == "PASS"
    assert "FGSM breaks 20, PGD-20 40 (10 only FGSM)" in check.evidence
    assert "of these are robust to" not in check.evidence, "there was no suite"


@pytest.mark.parametrize(
    ("square", "status"), [(0, "PASS"), (1, "WARN"), (2, "WARN"), (3, "WARN"), (5, "WARN")]
)
def test_square_alone_is_no_proof(
    square: int, status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """AutoAttack's flag false-alarms on honest networks; here a second sign is asked for."""
    check = square_only(monkeypatch, square, 360)
    assert check.status == status
    assert check.evidence.startswith(f"{square} of 360 images are broken only by square;")


def square_only(monkeypatch: pytest.MonkeyPatch, square: int, n: int, **signs: Any) -> Check:
    none = torch.zeros(0, dtype=torch.bool)
    monkeypatch.setattr(strength_checks, "numeric_ascent", lambda context, images: none)
    context = by_hand(n=n, **signs)
    stood = torch.full((n,), ROBUST, dtype=torch.uint8)
    fell = torch.where(torch.arange(n) < square, BROKEN, ROBUST).to(torch.uint8)
    context.outcomes = {"clean": stood, "apgd_ce": stood, "square": fell}
    return run_check("blackbox", context)


@pytest.mark.parametrize(
    ("square", "n", "status"),
    [(2, 100, "WARN"), (3, 100, "FAIL"), (3, 600, "WARN"), (4, 600, "FAIL")],
)
@pytest.mark.parametrize("sign", ["margin", "rising", "stuck"])
def test_square_and_a_second_sign_fail(
    square: int, n: int, sign: str, status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = torch.arange(2 * STEPS + 1.0)[:, None].expand(-1, n)
    signs: dict[str, dict[str, Any]] = {
        "margin": {"margins": falling(n // 4, n)},
        "rising": {"values": steps},
        "stuck": {"values": -steps},
    }
    check = square_only(monkeypatch, square, n, **signs[sign])
    assert check.status == status
    words = {"margin": "disagree", "rising": "still rises", "stuck": "helps on 100 % of images"}
    assert words[sign] in check.evidence


@pytest.mark.parametrize(
    ("names", "counted"),
    [
        (("clean", "square"), []),
        (("clean", "square", "apgd_ce"), []),
        (("clean", "transfer from a", "apgd_ce", "transfer from b"), ["transfer from b"]),
        (("clean", "apgd_ce", "square", "transfer from a"), ["square", "transfer from a"]),
    ],
)
def test_black_box_attacks_count_after_those_that_see_gradients(
    names: tuple[str, ...], counted: list[str]
) -> None:
    context = by_hand()
    context.outcomes = {name: torch.full((100,), ROBUST, dtype=torch.uint8) for name in names}
    for place, name in enumerate(names[1:]):
        context.outcomes[name][10 * place :][: place + 1] = BROKEN
    found = strength_checks.black_box_breaks(context)
    assert found == {name: names.index(name) for name in counted}


# Trained models


@pytest.mark.long
@pytest.mark.parametrize("name", HONEST)
@pytest.mark.parametrize(
    ("norm", "epsilon"), [("linf", 0.02), ("linf", 0.3), ("l2", 0.5), ("l2", 1.5), ("l1", 2.0)]
)
def test_honest_networks_do_not_fail_elsewhere(name: str, norm: str, epsilon: float) -> None:
    x, y = images_of(name, 200)
    assert evaluate(trained(name), x, y, Threat(norm, epsilon), "fast").failed == []


@pytest.mark.parametrize(
    ("name", "epsilon"),
    [("cnn", 0.1), pytest.param("robust_cnn", 0.05, marks=pytest.mark.long)],
)
def test_loud_logits_are_masking(name: str, epsilon: float) -> None:
    """Even those of a network that resists so well that few images can be broken at all."""
    loud = Wrapped(trained(name), after=lambda logits: 1000 * logits)
    context = attacked_model(loud, threat=Threat("linf", epsilon))
    check = run_check("margin_against_entropy", context)
    assert check.status == "FAIL"
    assert "cross-entropy breaks 0," in check.evidence
    assert run_check("margin_against_entropy", attacked_model(trained(name))).status == "PASS"


@pytest.mark.parametrize(
    ("name", "failing"),
    [
        ("cnn", {"unbounded_attack", "blackbox", "random_corners"}),
        pytest.param(
            "robust_cnn",
            {"unbounded_attack", "blackbox", "random_corners"},
            marks=pytest.mark.long,
        ),
    ],
)
def test_rounded_inputs_are_masking(name: str, failing: set[str]) -> None:
    context = attacked_model(Wrapped(trained(name), before=quantise))
    assert {check for check in STRENGTH if run_check(check, context).status == "FAIL"} == failing
    assert strength_checks.stuck(context) == 1
    curve = run_check("unbounded_attack", context).evidence
    assert "62 at 0.4," in curve or "63 at 0.4," in curve
    assert int(curve.split(" at 1,")[0].split()[-1]) < 32, "random starts break the most of them"
    assert "no step along the gradient helps on 100 %" in run_check("blackbox", context).evidence


def test_what_the_suite_should_have_found_is_counted() -> None:
    lazy = attacked_context("mlp", count=64, attacks={"nothing": nothing})
    check = run_check("attack_converged", lazy)
    broken = int(pgd_entropy(lazy).broken().sum())
    missed = int(check.evidence.split("; ")[-1].split()[0])
    assert missed >= broken > 10
    diligent = run_check("attack_converged", attacked_context("mlp", count=64))
    assert int(diligent.evidence.split("; ")[-1].split()[0]) <= 1


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_the_full_range_breaks_what_has_gradients(norm: str) -> None:
    context = attacked_context("mlp", norm=norm, epsilon={"linf": 0.05, "l2": 0.3, "l1": 1}[norm])
    check = run_check("unbounded_attack", context)
    assert check.status == "PASS"
    assert f"0 at {unbounded(norm, 64).epsilon:.4g}, which allows every image" in check.evidence
    counts = [int(part.split(" at ")[0].split()[-1]) for part in check.evidence.split(", ")[:-1]]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > counts[-1]


def halves(slope: float) -> CheckContext:
    """Return a context of a model that tells the brighter half of random images from the other."""
    x = torch.rand(64, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    x = (x * torch.where(torch.arange(64) % 2 == 0, 0.6, 1.4)[:, None, None, None]).clamp(0, 1)
    y = (x.flatten(1).mean(1) > 0.5).long()
    return finish(CheckContext(Bright(slope), x, y, Threat("linf", 0.02), "by hand", 0, 32))


@pytest.mark.parametrize(("slope", "status"), [(1, "PASS"), (0, "FAIL"), (-1, "FAIL")])
def test_gradients_that_mislead_fail_where_every_image_is_allowed(slope: int, status: str) -> None:
    context = halves(slope)
    assert run_check("unbounded_attack", context).status == status


@pytest.mark.parametrize("slope", [0, -1])
def test_numeric_gradients_see_through_a_misleading_one(slope: int) -> None:
    """On images so near the boundary that some fall."""
    context = halves(slope)
    context.threat = Threat("linf", 0.3)
    finish(context, {"fgsm": lambda given, x, y: fgsm(given.model, x, y, given.threat)})
    check = run_check("blackbox", context)
    assert check.status == "FAIL"
    assert "of images" in check.evidence
    honest = halves(1)
    honest.threat = context.threat
    assert run_check("blackbox", finish(honest)).status == "PASS"


@pytest.mark.usefixtures("quick")
def test_a_constant_model_is_allowed_its_class() -> None:
    context = attacked_context("constant", count=64)
    check = run_check("unbounded_attack", context)
    assert check.status == "WARN"
    assert "FAIL" not in {run_check(name, context).status for name in STRENGTH}


def test_what_falls_to_half_the_budget_only_is_worth_a_look(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The walks with the whole budget are said to break nothing; the curve breaks a good deal."""
    context = attacked_context("mlp", epsilon=0.2)
    n = len(probe_of(context).y)
    for name in ("entropy", "margin"):
        context.notes[f"{name}"] = PgdTrace(
            torch.zeros(41, n), torch.zeros(41, n, dtype=torch.bool), probe_of(context).x
        )
    check = run_check("unbounded_attack", context)
    assert check.status == "WARN"
    assert "half of epsilon breaks 0 " not in check.evidence


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_random_corners_lie_on_the_surface_and_in_the_box(
    norm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = attacked_context("mlp", norm=norm, epsilon=0.3, attacks={"nothing": nothing})
    probe, seen = probe_of(context), []

    def logits(x: Tensor) -> Tensor:
        seen.append(x)
        return torch.nn.functional.one_hot(probe.y, 10).float()

    monkeypatch.setattr(CheckContext, "logits", lambda context, x: logits(x))
    check = run_check("random_corners", context)
    assert check.status == "PASS"
    assert len(seen) == CORNERS
    sizes = torch.stack([length(point - probe.x, norm) for point in seen])
    assert sizes.max() <= 0.3 + 1e-6
    assert all(float(point.min()) >= 0 and float(point.max()) <= 1 for point in seen)
    assert len({point.sum().item() for point in seen}) == CORNERS


def test_random_corners_are_only_tried_on_what_stood() -> None:
    """Nothing was attacked, so that all images count as robust; afterwards fewer do."""
    lazy = attacked_context("cnn", epsilon=0.3, attacks={"nothing": nothing})
    check = run_check("random_corners", lazy)
    assert check.status == "FAIL"
    assert check.evidence.split(" of ")[1].startswith(str(len(probe_of(lazy).y)))
    assert run_check("random_corners", attacked_context("cnn", epsilon=0.3)).status == "PASS"


class Shell(nn.Module):
    """Is wrong on a thin shell only, through which the gradient leads."""

    def forward(self, x: Tensor) -> Tensor:
        far = (x - 0.5).flatten(1).mean(1)
        shell = ((far - 0.05).abs() < 0.01).float()
        return torch.stack([torch.zeros_like(far), far - 1 + 10 * shell], 1)


def test_the_last_iterate_has_gone_through_the_shell() -> None:
    x = torch.full((20, 1, 4, 4), 0.5)
    context = CheckContext(Shell(), x, torch.zeros(20).long(), Threat("linf", 0.1), "by hand", 0, 8)
    check = run_check("silent_success", finish(context, {"pgd": by_pgd()}))
    assert check.status == "WARN"
    assert check.evidence.startswith("20 of 20 images")


def test_a_random_model_is_spared_what_it_would_set_off() -> None:
    context = attacked_context("dropout", expectation=2, count=64)
    found = {check: run_check(check, context) for check in STRENGTH}
    skipped = {name for name, check in found.items() if check.status == "SKIP"}
    spared = {"blackbox", "random_corners", "silent_success", "loss_still_rising"}
    assert skipped == spared | {"smoothed_gradient"}
    assert all("random numbers" in found[name].evidence for name in skipped)
