"""Checks of what attacks left: by hand-made outcomes and examples, and the exact control."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from broken_models import HONEST
from check_cases import attacked_context
from torch import Tensor, nn

from arnas.attacks.threat import Threat
from arnas.evaluation.checks import CHECKS, run_check, run_checks
from arnas.evaluation.checks.base import CheckContext
from arnas.evaluation.monitor import EvalMonitor
from arnas.evaluation.result import BROKEN, ROBUST, SKIPPED, AttackResult, Check, failed_checks
from arnas.evaluation.statistics import wilson

KNOWN = {
    "model_sha256": "0f",
    "data_sha256": "1f",
    "packages": {"torch": "2"},
    "device": "cpu",
    "selection": "the epoch that was best on the validation images",
    "training_history": [40.0, 41.0, 39.0],
    "corruptions": {"mean": 71.234, "size": 4},
}


class Sign(nn.Module):
    """Class 1 where the first pixel is above a value; how far it is, is the margin."""

    def __init__(self, boundary: float = 0.5) -> None:
        super().__init__()
        self.boundary = boundary

    def forward(self, x: Tensor) -> Tensor:
        far = x.flatten(1)[:, 0] - self.boundary
        return torch.stack([-far, far], 1)


def judged(norm: str = "linf", **changes: Any) -> CheckContext:
    """Return a context of 40 images of 4 x 4 pixels under two attacks, all as it should be.

    The first two images are wrong, the next ten fall to the first attack, five to the second one.
    Those that fall are near the boundary and their first pixel is moved across it.
    """
    n = 40
    x = torch.rand(n, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    y = torch.arange(n) % 2
    near = torch.where(torch.arange(n) < 17, 0.02, 0.3)
    side = torch.where(torch.arange(n) < 2, -1.0, 1.0) * (2 * y - 1)
    x[:, 0, 0, 0] = 0.5 + side * near
    place = torch.arange(n)
    x_adv = x.clone()
    fell = (place >= 2) & (place < 17)
    x_adv[fell, 0, 0, 0] = (0.5 - side * near)[fell]
    wrong, first = place < 2, (place >= 2) & (place < 12)
    second = (place >= 12) & (place < 17)
    outcomes = {
        "clean": torch.where(wrong, BROKEN, ROBUST).to(torch.uint8),
        "one": torch.where(wrong, SKIPPED, torch.where(first, BROKEN, ROBUST)).to(torch.uint8),
        "two": torch.where(wrong | first, SKIPPED, torch.where(second, BROKEN, ROBUST)).to(
            torch.uint8
        ),
    }
    attacks = {
        "one": AttackResult("one", "by hand", "a test", 38, 10, wilson(28, n), 0, 0),
        "two": AttackResult("two", "by hand", "a test", 28, 5, wilson(23, n), 0, 0),
    }
    usual: dict[str, Any] = {
        "model": Sign(),
        "x": x,
        "y": y,
        "threat": Threat(norm, 0.1),
        "suite": "one,two",
        "seed": 3,
        "batch_size": 7,
        "known": KNOWN,
        "attacks": attacks,
        "outcomes": outcomes,
        "x_adv": x_adv,
    }
    return CheckContext(**(usual | changes))


BOOKKEEPING = (
    "ball_and_box",
    "examples_valid",
    "examples_reproduce",
    "epsilon_zero",
    "union",
    "selection",
    "catastrophic_overfitting",
    "corruptions",
    "provenance",
)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("name", BOOKKEEPING)
def test_all_is_well(name: str, norm: str) -> None:
    assert run_check(name, judged(norm)).status == "PASS"


@pytest.mark.parametrize("name", ["ball_and_box", "examples_valid", "examples_reproduce", "union"])
def test_before_the_attacks_there_is_nothing_to_look_at(name: str) -> None:
    check = run_check(name, judged(attacks={}, outcomes={}, x_adv=None))
    assert check.status == "SKIP"
    assert check.evidence == "no attack has been run yet"


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize(("excess", "status"), [(5e-7, "PASS"), (2e-5, "FAIL"), (0.01, "FAIL")])
def test_examples_outside_of_the_ball(norm: str, excess: float, status: str) -> None:
    """One pixel is moved, so that all norms are one."""
    context = judged(norm)
    assert context.x_adv is not None
    pixel = context.x[5, 0, 2, 2]
    context.x_adv[5] = context.x[5]
    context.x_adv[5, 0, 2, 2] = pixel + (0.1 + excess) * (1 if pixel < 0.5 else -1)
    check = run_check("ball_and_box", context)
    assert check.status == status
    assert check.evidence.startswith(f"{int(status == 'FAIL')} of 40 examples leave")
    if status == "FAIL":
        assert check.advice.startswith("project")


@pytest.mark.parametrize(("pixel", "status"), [(1 + 5e-7, "PASS"), (1.01, "FAIL"), (-0.01, "FAIL")])
def test_examples_outside_of_the_box(pixel: float, status: str) -> None:
    context = judged()
    assert context.x_adv is not None
    context.x[5, 0, 3, 3] = round(pixel)
    context.x_adv[5, 0, 3, 3] = pixel
    assert run_check("ball_and_box", context).status == status


def test_rounding_of_a_whole_dense_l1_ball_is_no_violation() -> None:
    """Each of 3072 pixels is rounded up by 0.4 of float32's steps, which exceeds 1e-6 in sum."""
    x = torch.full((4, 3, 32, 32), 0.5)
    delta = 2.0**-8 - 0.4 * 2.0**-24
    context = CheckContext(
        Sign(), x, torch.zeros(4).long(), Threat("l1", 3072 * delta), "by hand", 0, batch_size=4
    )
    context.outcomes = {
        "clean": torch.full((4,), ROBUST, dtype=torch.uint8),
        "one": torch.full((4,), BROKEN, dtype=torch.uint8),
    }
    context.x_adv = (x.double() + delta).float()
    assert float((context.x_adv - x).double().abs().sum((1, 2, 3)).max()) > 3072 * delta + 5e-5
    assert run_check("ball_and_box", context).evidence.startswith("0 of 4 examples leave")
    context.x_adv = (x.double() + 1.0001 * delta).float()
    assert run_check("ball_and_box", context).evidence.startswith("4 of 4 examples leave")


def levels(context: CheckContext, of_class_0: float, of_class_1: float) -> None:
    """Give the examples that break the model a first pixel in grey levels."""
    assert context.x_adv is not None
    moved = torch.where(context.y == 0, of_class_0, of_class_1) / 255
    context.x_adv[2:17, 0, 0, 0] = moved[2:17]


def test_examples_are_rounded_to_grey_levels_and_not_truncated() -> None:
    """127.6 levels become 128 and not 127, which would be right again."""
    context = judged()
    levels(context, 127.6, 127.4)
    assert run_check("examples_reproduce", context).status == "PASS"
    check = run_check("ball_and_box", context)
    assert "rounded to 8 bits 15 of 15 still break the model" in check.evidence
    assert check.status == "PASS"


@pytest.mark.parametrize(
    ("restored", "status"), [(0, "PASS"), (2, "PASS"), (3, "WARN"), (5, "WARN")]
)
def test_examples_that_rounding_restores_are_counted(restored: int, status: str) -> None:
    """Images of class 0 at 127.4 levels are wrong for a boundary at 127.2, and right at 127."""
    context = judged(model=Sign(127.2 / 255))
    levels(context, 128, 127)
    assert context.x_adv is not None
    place = ((context.y == 0) & (torch.arange(40) >= 2)).nonzero().flatten()[:restored]
    context.x_adv[place, 0, 0, 0] = 127.4 / 255
    assert run_check("examples_reproduce", context).status == "PASS"
    check = run_check("ball_and_box", context)
    assert f"rounded to 8 bits {15 - restored} of 15 still break the model" in check.evidence
    assert check.status == status
    context.expectation = 20
    assert run_check("ball_and_box", context).status == "PASS", "random answers restore more"


@pytest.mark.parametrize(("epsilon", "leaves"), [(0.1, 0), (8 / 255, 0), (7.8 / 255, 15)])
def test_rounded_examples_that_leave_the_ball_are_counted(epsilon: float, leaves: int) -> None:
    """Of images in grey levels, moved by 7.8 of them; a whole level is 8."""
    context = judged(threat=Threat("linf", epsilon))
    assert context.x_adv is not None
    context.x = (255 * context.x).round() / 255
    context.x[:, 0, 2, 2] = 0
    context.x_adv = context.x.clone()
    context.x_adv[2:17, 0, 2, 2] = 7.8 / 255
    check = run_check("ball_and_box", context)
    assert f"{leaves} leave the ball, 0 by more than half a grey level" in check.evidence
    assert check.evidence.startswith("0 of 40 examples leave")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_examples_must_be_numbers(value: float) -> None:
    context = judged()
    assert context.x_adv is not None
    context.x_adv[7, 0, 1, 1] = value
    check = run_check("examples_valid", context)
    assert check.status == "FAIL"
    assert check.evidence.startswith("1 of 40 examples hold NaN")
    assert run_check("ball_and_box", context).status == "FAIL"


@pytest.mark.parametrize(("place", "status"), [(0, "FAIL"), (1, "FAIL"), (30, "FAIL"), (5, "PASS")])
def test_images_that_were_wrong_or_stood_are_untouched(place: int, status: str) -> None:
    context = judged()
    assert context.x_adv is not None
    context.x_adv[place, 0, 1, 1] += 1e-3
    check = run_check("examples_valid", context)
    assert check.status == status
    assert f"{int(status == 'FAIL')} of 25 images that were wrong or robust" in check.evidence


def test_images_in_double_precision_are_compared_as_they_are_stored() -> None:
    context = judged()
    assert context.x_adv is not None
    context.x = context.x.double() + 1e-9
    untouched = (torch.arange(40) < 2) | (torch.arange(40) >= 17)
    context.x_adv[untouched] = context.x.float()[untouched]
    assert run_check("examples_valid", context).status == "PASS"
    assert run_check("ball_and_box", context).status == "PASS"


@pytest.mark.parametrize("place", [5, 30])
def test_claims_that_the_examples_do_not_bear_out(place: int) -> None:
    """An image said to have fallen whose example is right, and the other way round."""
    context = judged()
    assert context.x_adv is not None
    pixel = context.x_adv[place, 0, 0, 0]
    context.x_adv[place, 0, 0, 0] = 1 - pixel
    check = run_check("examples_reproduce", context)
    assert check.status == "FAIL"
    assert "1 differ" in check.evidence


def test_a_tie_that_rounding_turns_is_a_warning() -> None:
    context = judged()
    assert context.x_adv is not None
    side = 1.0 if context.y[5] == 1 else -1.0
    context.x_adv[5, 0, 0, 0] = 0.5 + side * 1e-6
    context.model = Offset()
    check = run_check("examples_reproduce", context)
    assert check.status == "WARN"
    assert "1 differ" in check.evidence
    context.x_adv[7, 0, 0, 0] = 0.5 + side * 1e-2
    assert run_check("examples_reproduce", context).status == "FAIL", "a tie excuses no other image"


class Offset(Sign):
    """The same with logits of the size of one."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 1


@pytest.mark.parametrize(
    ("right_again", "status"), [(0, "PASS"), (2, "PASS"), (8, "FAIL"), (-2, "PASS"), (-16, "FAIL")]
)
def test_random_answers_may_differ_by_their_noise(right_again: int, status: str) -> None:
    """23 of 40 are claimed; passes that never differ leave room for rounding only."""
    context = judged(expectation=20)
    assert context.x_adv is not None
    places = range(2, 2 + right_again) if right_again > 0 else range(20, 20 - right_again)
    for place in places:
        context.x_adv[place, 0, 0, 0] = 1 - context.x_adv[place, 0, 0, 0]
    check = run_check("examples_reproduce", context)
    assert check.status == status
    assert f"{23 + right_again}.0 are in the mean of 100 passes" in check.evidence


def test_an_attack_without_a_budget_must_change_nothing() -> None:
    context = judged()
    context.outcomes = {**context.outcomes, "clean": 1 - context.outcomes["clean"]}
    check = run_check("epsilon_zero", context)
    assert check.status == "FAIL"
    assert check.evidence.startswith("epsilon 0 changes 0 of 40 images, 40 are classified")


def test_random_answers_are_no_fault_of_the_budget() -> None:
    assert run_check("epsilon_zero", attacked_context("dropout", count=64)).status == "FAIL"
    random = run_check("epsilon_zero", attacked_context("dropout", count=64, expectation=2))
    assert random.status == "PASS"
    assert "changes 0 of 64" in random.evidence


def change(context: CheckContext, name: str, place: int, value: int) -> None:
    outcome = context.outcomes[name].clone()
    outcome[place] = value
    context.outcomes = {**context.outcomes, name: outcome}


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda t: change(t, "one", 0, ROBUST), "one was not run on exactly the images"),
        (lambda t: change(t, "one", 30, SKIPPED), "one was not run on exactly the images"),
        (lambda t: change(t, "two", 5, BROKEN), "two was not run on exactly the images"),
        (lambda t: change(t, "one", 30, BROKEN), "the counts of one are not"),
        (lambda t: change(t, "two", 30, BROKEN), "the counts of two are not"),
        (lambda t: change(t, "clean", 30, SKIPPED), "clean skips images"),
        (lambda t: t.__setattr__("attacks", {"one": t.attacks["one"]}), "have other names"),
        (lambda t: t.outcomes.__setitem__("two", torch.zeros(3)), "must match the size"),
    ],
)
def test_outcomes_that_contradict_each_other(
    spoil: Callable[[CheckContext], None], words: str
) -> None:
    context = judged()
    spoil(context)
    check = run_check("union", context)
    assert check.status == "FAIL"
    assert words in check.evidence


def test_the_union_names_the_attack_that_breaks_most() -> None:
    check = run_check("union", judged())
    assert "38 of 40 images are classified correctly and 23 withstand all of 2" in check.evidence
    assert check.evidence.endswith("one breaks most (10)")


def test_with_the_counts_mended_a_changed_outcome_is_as_good_as_any_other() -> None:
    context = judged()
    change(context, "two", 30, BROKEN)
    mended = AttackResult("two", "by hand", "a test", 28, 6, wilson(22, 40), 0, 0)
    context.attacks = {**context.attacks, "two": mended}
    assert run_check("union", context).status == "PASS"


@pytest.mark.parametrize("labels", [torch.zeros(40), torch.arange(40) % 2])
def test_no_control_can_be_made_of_one_class_or_one_image(labels: Tensor) -> None:
    context = judged()
    context.y = labels.long()
    if labels.any():
        context.x = torch.full_like(context.x, 0.3)
    check = run_check("linear_control", context)
    assert check.status == "SKIP"
    assert check.evidence.startswith("the control")


@pytest.mark.parametrize(
    ("known", "status", "words"),
    [
        ({}, "SKIP", "not known how"),
        ({"selection": "last"}, "PASS", "chosen as: last"),
        ({"selection": "best on the test images"}, "WARN", "best on the test images"),
        ({"selection": "Test accuracy"}, "WARN", "Test accuracy"),
        ({"selection": "best on validation images, never the test images"}, "PASS", "never"),
        ({"selection": "latest"}, "PASS", "latest"),
        (
            {"selection": "best", "best_robust": 52.79, "last_robust": 43.75},
            "PASS",
            "a gap of 9.04 points",
        ),
        (
            {"selection": "best", "training_history": [10, 52.5, 50]},
            "PASS",
            "best 52.50 %, last 50.00 % robust, a gap of 2.50 points",
        ),
        ({"selection": "best", "best_robust": 52.79}, "PASS", "chosen as: best"),
    ],
)
def test_how_the_checkpoint_was_chosen(known: dict[str, Any], status: str, words: str) -> None:
    check = run_check("selection", judged(known=known))
    assert check.status == status
    assert words in check.evidence


@pytest.mark.parametrize(
    ("history", "status", "words"),
    [
        (None, "SKIP", "not known"),
        ("0.5", "SKIP", "not known"),
        ([], "SKIP", "not known"),
        ([50], "SKIP", "not known"),
        ([{"epoch": 1, "train_loss": 2.0}] * 3, "SKIP", "not known"),
        ([30, 40, 20.1, 41], "PASS", "19.90 points"),
        ([30, 40, 20, 41], "PASS", "20.00 points"),
        ([30, 40, 19.9, 41], "WARN", "20.10 points"),
        ([30, 40, 0, 41], "WARN", "from 40.00 % before epoch 3 to 0.00 %"),
        ([10, 20, 30], "PASS", "fell by 0.00 points"),
        ([{"val_robust": 44.0}, {"val_robust": 4.0}], "WARN", "40.00 points"),
        ([{"val_robust": "x"}, {"val_robust": 4.0}], "FAIL", "ValueError"),
    ],
)
def test_robustness_that_collapses(history: Any, status: str, words: str) -> None:
    check = run_check("catastrophic_overfitting", judged(known={"training_history": history}))
    assert check.status == status
    assert words in check.evidence


@pytest.mark.parametrize(
    ("found", "status", "words"),
    [
        (None, "SKIP", "no accuracy on corrupted images"),
        ({"mean": 70}, "SKIP", "no accuracy on corrupted images"),
        ({"mean": 70, "size": 4}, "PASS", "mean accuracy 70.00 % on corrupted images of 4 pixels"),
        ({"mean": 70, "size": 8}, "WARN", "of 8 pixels a side; the model is evaluated on 4"),
    ],
)
def test_corrupted_images_have_the_size(found: Any, status: str, words: str) -> None:
    check = run_check("corruptions", judged(known={"corruptions": found}))
    assert check.status == status
    assert words in check.evidence


@pytest.mark.parametrize(
    ("without", "words"),
    [
        ("model_sha256", "the model's digest"),
        ("data_sha256", "the images' digest"),
        ("packages", "the versions of the packages"),
        ("device", "the device"),
    ],
)
def test_a_row_says_where_it_is_from(without: str, words: str) -> None:
    known = {key: value for key, value in KNOWN.items() if key != without}
    check = run_check("provenance", judged(known=known))
    assert check.status == "WARN"
    assert check.evidence.endswith(f"missing: {words}")
    assert run_check("provenance", judged(known={**known, without: ""})).status == "WARN"
    if without == "data_sha256":
        other = {**known, "data_source_sha256": "2f"}
        assert run_check("provenance", judged(known=other)).status == "PASS"


@pytest.mark.parametrize("attacks", [{}, {"one": ("", "a test")}, {"one": ("20 steps", "")}])
def test_a_row_says_what_its_attacks_were(attacks: dict[str, tuple[str, str]]) -> None:
    results = {
        name: AttackResult(name, *words, 38, 10, wilson(28, 40), 0, 0)
        for name, words in attacks.items()
    }
    check = run_check("provenance", judged(attacks=results))
    assert check.status == "WARN"
    assert "the attacks' settings" in check.evidence


def checks(*statuses: Any) -> list[Check]:
    return [Check(f"number {i}", status, "", "") for i, status in enumerate(statuses)]


@pytest.mark.parametrize(
    ("statuses", "status", "words"),
    [
        ((), "PASS", "no check has failed"),
        (("PASS", "WARN", "SKIP"), "PASS", "no check has failed"),
        (("PASS", "FAIL", "WARN", "FAIL"), "WARN", "unreliable because of number 1, number 3"),
    ],
)
def test_a_failed_check_keeps_a_row_out_of_rankings(
    statuses: tuple[str, ...], status: str, words: str
) -> None:
    found = checks(*statuses)
    check = run_check("ranking", judged(notes={"checks": found}))
    assert (check.status, check.evidence) == (status, words)
    assert (not failed_checks(found)) == ("FAIL" not in statuses)
    assert failed_checks([*found, check]) == failed_checks(found)
    assert run_check("ranking", judged()).status == "SKIP", "no other check was made"


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n == "cnn" else pytest.mark.long) for n in HONEST]
)
def test_honest_networks_fail_no_check(name: str) -> None:
    context = attacked_context(name, known=KNOWN | {"corruptions": {"mean": 70, "size": 8}})
    context.monitor = EvalMonitor()
    found = {check.id: check.status for check in run_checks(context, "attacks")}
    warned = {name for name, status in found.items() if status == "WARN"}
    assert warned <= {"attack_converged", "smoothed_gradient"}
    skipped = {name for name, status in found.items() if status == "SKIP"}
    compared = {name for name, entry in CHECKS.items() if entry.attacks}
    assert skipped == {*compared, "expected_accuracy"}
    assert "FAIL" not in found.values()


@pytest.mark.parametrize(
    ("name", "failing"),
    [("constant", set()), ("batch_statistics", {"examples_reproduce"})],
)
def test_claims_that_depend_on_the_batch_cannot_be_repeated(name: str, failing: set[str]) -> None:
    """With the statistics of a batch an example is judged by its neighbours."""
    context = attacked_context(name, known=KNOWN)
    names = ("ball_and_box", "examples_valid", "examples_reproduce", "epsilon_zero", "union")
    assert {check for check in names if run_check(check, context).status == "FAIL"} == failing
