"""`arnas.evaluate`: what it refuses, what it reports, and broken models through the whole of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from broken_models import THREAT, Wrapped, context_of
from torch import Tensor, nn

import arnas
from arnas.attacks.suites import build_suite
from arnas.attacks.threat import Threat
from arnas.evaluation.checks import CHECKS
from arnas.evaluation.record import from_record
from arnas.evaluation.result import BROKEN, FURTHER, ROBUST
from arnas.runtime.errors import UserError
from arnas.runtime.resume import NO_CHECKPOINT, Checkpointer, FolderCheckpointer


class Twice(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x.flatten(1), x.flatten(1)


def linear(classes: int = 4) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(16, classes))


X, Y = torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 4


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"x": (255 * X).byte()}, "divide by 255"),
        ({"x": 255 * X}, "divide by 255"),
        ({"x": 4 * X - 2}, "normalisation into the model"),
        (
            {"x": torch.where(Y[:, None, None, None] == 2, torch.nan, X)},
            "NaN or infinity in 1 of 6 images, the first at 2",
        ),
        (
            {"model": nn.Sequential(linear().half(), nn.Linear(4, 4))},
            "weights in float16 and float32",
        ),
        ({"x": X[0]}, "one label for each"),
        ({"x": X[:0], "y": Y[:0]}, "n from 1 up"),
        ({"y": Y[:3]}, "one label for each"),
        ({"y": Y.float()}, "y is torch.float32: needed are labels"),
        ({"y": Y - 1}, "label -1"),
        ({"y": Y + 1}, "4 classes and the labels run up to 4"),
        ({"model": nn.Linear(5, 5)}, "does not take an image"),
        ({"model": Twice()}, "returns tuple"),
        ({"model": nn.Identity()}, r"\(1, classes\)"),
        ({"threat": "linf:8"}, "8/255"),
        ({"threat": "8/255"}, "linf:8/255"),
        ({"suite": "deepfool"}, "standard, fast, rand"),
        ({"curve_images": 0}, "curve_images is 0"),
        ({"indices": torch.arange(3)}, "indices"),
        ({"sources": {"other": linear(2)}}, "the source other has 2 classes"),
        ({"curve": ["wide"]}, "wide"),
    ],
)
def test_what_cannot_be_meant_is_one_sentence(changed: dict[str, object], words: str) -> None:
    given = {"model": linear(), "x": X, "y": Y, "threat": "linf:0.1", "suite": "fgsm"} | changed
    with pytest.raises(UserError, match=words) as caught:
        arnas.evaluate(**given)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_the_report() -> None:
    trial = context_of("robust_cnn")
    found = arnas.evaluate(
        trial.model, trial.x[:32], trial.y[:32], THREAT, suite="fgsm,apgd_ce", curve=[0.0, "0.1"]
    )
    assert found.clean == found.clean_accuracy.percent > found.robust > 0
    robust = found.outcomes["clean"] == ROBUST
    for name, attack in found.attacks.items():
        robust &= found.outcomes[name] == ROBUST
        assert attack.accuracy == pytest.approx(100 * float(robust.float().mean()))
        assert attack.broken == int((found.outcomes[name] == BROKEN).sum())
    assert torch.equal(found.robust_flags, robust)
    assert [check.id for check in found.checks] == [
        n for n, e in CHECKS.items() if e.phase != "run"
    ]
    assert found.reliable
    assert list(found.curve) == ["0.0", "0.1"]
    assert found.curve["0.0"].percent == found.clean
    assert found.curve["0.1"].correct <= found.robust_accuracy.correct
    content = json.loads(found.to_json())
    assert content["provenance"]["suite_leaves_out"] == "apgd_t, fab_t, square"
    with torch.no_grad():
        wrong = trial.model.eval()(found.x_adv).argmax(1) != found.labels
    assert torch.equal(wrong, ~found.robust_flags)


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "checks"),
    [
        ("logits_1000", {"logits", "gradient", "margin_against_entropy"}),
        ("quantiser", {"gradient", "finite_differences"}),
        ("straight_through", {"finite_differences"}),
        ("dropout", {"determinism", "epsilon_zero"}),
        ("softmax", {"logits"}),
        ("detached_branch", {"finite_differences"}),
        ("nan_head", {"logits"}),
        ("constant", {"logits", "gradient"}),
        ("batch_statistics", {"batch_size_invariance", "frozen_while_crafting"}),
        ("normalisation_outside", {"input_range"}),
    ],
)
def test_a_broken_model_is_unreliable(name: str, checks: set[str]) -> None:
    """Whatever robust accuracy comes out: each model raises its own flags."""
    trial = context_of(name)
    found = arnas.evaluate(trial.model, trial.x[:128], trial.y[:128], trial.threat, suite="apgd_ce")
    failed = {check.id for check in found.checks if check.status == "FAIL"}
    assert checks <= failed
    assert not found.reliable


def test_one_class_cannot_be_attacked() -> None:
    found = arnas.evaluate(linear(1), X, torch.zeros(6, dtype=torch.int64), "linf:0.1")
    assert found.robust == 100
    assert not found.attacks
    assert not found.reliable


def test_a_random_model_is_averaged_over_passes() -> None:
    trial = context_of("dropout")
    x, y = trial.x[:4], trial.y[:4]
    found = arnas.evaluate(trial.model, x, y, trial.threat, suite="rand", expectation=5)
    assert found.provenance["expectation"] == 5
    assert build_suite("rand", "linf", 10).expectation == 20
    status = {check.id: check.status for check in found.checks}
    assert status["determinism"] == "WARN"


RIPPLE = {
    "input": {"before": lambda x: x + 0.004 * torch.sin(3000 * x)},
    "rounding beside a ripple": {
        "before": lambda x: (8 * x).round() / 8 + 0.001 * torch.sin(50 * x)
    },
    "half an image detached": {
        "before": lambda x: torch.where(torch.arange(8) % 2 == 0, x.detach(), x)
    },
}
"""What is done to the images of an honest network; it changes few predictions."""


@pytest.mark.long
@pytest.mark.parametrize("name", RIPPLE)
def test_gradients_that_mislead_are_no_robustness(name: str) -> None:
    """Also where the first images are all misclassified, so that they say nothing."""
    trial = context_of("cnn", count=200, threat=Threat("linf", 0.12))
    y = trial.y.clone()
    y[:64] = (y[:64] + 1) % 10
    honest = arnas.evaluate(trial.model, trial.x, y, trial.threat, "fast")
    model = Wrapped(trial.model, **RIPPLE[name])
    found = arnas.evaluate(model, trial.x, y, trial.threat, "fast")
    assert honest.reliable
    assert found.robust > honest.robust + 10
    assert not found.reliable


def test_what_a_check_or_the_curve_breaks_is_not_robust() -> None:
    """After a suite of one step, whose number is too high on an honest network."""
    trial = context_of("cnn", count=200, threat=Threat("linf", 0.12))
    arguments = (trial.model, trial.x, trial.y, trial.threat, "fgsm")
    alone = arnas.evaluate(*arguments, checks="none")
    checked = arnas.evaluate(*arguments)
    assert "attack_converged" in checked.failed
    further = checked.outcomes[FURTHER]
    assert int((further == BROKEN).sum()) == checked.attacks[FURTHER].broken >= 3
    assert torch.equal(checked.robust_flags, alone.robust_flags & (further != BROKEN))
    curve = arnas.evaluate(*arguments, checks="none", curve=[0.12, 0.2])
    assert curve.robust == curve.curve["0.12"].percent < checked.robust < alone.robust
    for found in (checked, curve):
        with torch.no_grad():
            again = trial.model(found.x_adv).argmax(1) == trial.y
        assert torch.equal(again, found.robust_flags)
        assert float((found.x_adv - trial.x).abs().max()) <= 0.12 + 1e-6
        assert from_record(json.loads(found.to_json())).robust == found.robust


@pytest.mark.parametrize("stop_at", [2, 15, 24, 40])
def test_killed_between_checks_or_along_the_curve(stop_at: int, tmp_path: Path) -> None:
    """The same command ends with the same record."""
    case = context_of("robust_cnn")

    def evaluated(checkpointer: Checkpointer) -> str:
        return arnas.evaluate(
            case.model,
            case.x[:8],
            case.y[:8],
            THREAT,
            "fgsm",
            curve=[0.05, 0.1],
            checkpointer=checkpointer,
        ).to_json()

    whole = evaluated(NO_CHECKPOINT)
    checkpointer = FolderCheckpointer(tmp_path, interval=0)
    keep, saves = checkpointer.maybe_save, []

    def cut(snapshot: Any, now: bool = False) -> None:
        keep(snapshot, now)
        saves.append(snapshot)
        if len(saves) == stop_at:
            raise KeyboardInterrupt

    checkpointer.maybe_save = cut  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        evaluated(checkpointer)
    assert evaluated(checkpointer) == whole
