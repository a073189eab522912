"""Checks of plain data: attacks against each other, networks against each other, and the splits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from arnas.evaluation.checks.grades import FEW, SLACK, grade
from arnas.evaluation.result import Check, Status
from arnas.evaluation.statistics import Accuracy

if TYPE_CHECKING:  # to compare what a run has measured takes no torch
    import numpy as np
    from torch import Tensor

    from arnas.evaluation.monitor import EvalMonitor

MARGIN_WARN, MARGIN_FAIL = 0.03, 0.10
"""Shares of the images by which an attack on the margin may be ahead before it warns and fails."""
CONTROL_LOSS = 1 / 3
"""Share of its clean accuracy that an undefended network must lose."""
CONVERGED = 2.0
"""Points by which five times the steps may lower an accuracy before fewer are called too few."""


def model_unchanged(monitor: EvalMonitor) -> Check:
    """Fail if a pass of an attack was in training mode, or an attack changed the model."""
    evidence = (
        f"{monitor.awake} of {monitor.forwards} forward passes with a submodule in training mode, "
        f"weights and buffers {'changed' if monitor.changed else 'unchanged'}"
    )
    return Check(
        "model_unchanged",
        grade(fail=monitor.awake or monitor.changed),
        evidence,
        "call model.eval() for every submodule and keep it so while attacking",
    )


def blackbox_ball_and_box(monitor: EvalMonitor) -> Check:
    """Fail if an example for other networks, or of Square, leaves the ball or [0, 1]."""
    evidence = (
        f"{monitor.examples} examples exceed epsilon by {max(monitor.excess, 0):.6f} at most, "
        f"pixels from {monitor.low:.6g} to {monitor.high:.6g}, "
        f"{'all' if monitor.finite else 'not all'} of them finite"
        if monitor.examples
        else "no image was classified correctly, so none was attacked"
    )
    return Check(
        "blackbox_ball_and_box",
        grade(fail=monitor.examples and not monitor.inside(), warn=not monitor.examples),
        evidence,
        "project onto the ball, then clip to [0, 1], in input units",
    )


def full_range(robust: Accuracy, epsilon: str, labels: Tensor) -> Check:
    """Check that a budget (`epsilon`, in words) that allows every image breaks the model.

    A model that always names the most frequent of the `labels` cannot be broken on its images.
    """
    return Check(
        "unbounded_attack",
        grade(fail=robust.correct > int(labels.bincount().max()), warn=robust.correct),
        f"{robust.percent:.1f} % of {robust.n} images withstand epsilon {epsilon}, which "
        "allows every image",
        "the gradients mislead the attack: look for saturated, rounded or random outputs",
    )


def iterative_not_weaker(single: Tensor, iterative: Tensor) -> Check:
    """Fail if PGD-20 breaks clearly fewer images than FGSM."""
    lost = int(((iterative == 1) & (single == 0)).sum())
    return Check(
        "iterative_not_weaker",
        _lag(single, iterative),
        f"{_percent(single)} withstand FGSM, {_percent(iterative)} PGD-20; only FGSM "
        f"breaks {lost} images",
        "one step beats twenty: a sign of masked gradients; try a margin loss and a black-box "
        "attack",
    )


def more_steps_not_weaker(fewer: Tensor, more: Tensor) -> Check:
    """Fail if PGD-100 breaks clearly fewer images than PGD-20, warn if far more."""
    drop = 100 * (int(fewer.sum()) - int(more.sum())) / len(fewer)
    return Check(
        "more_steps_not_weaker",
        "WARN" if drop > CONVERGED else _lag(fewer, more),
        f"{_percent(fewer)} withstand PGD-20, {_percent(more)} PGD-100",
        "quote the longer attack" if drop > CONVERGED else "more steps must not help the defence",
    )


def margin_not_stronger(entropy: Tensor, margin: Tensor) -> Check:
    """Fail if CW-inf breaks over 10 points more than PGD-100: the loss saturates.

    Large logits saturate the cross-entropy, whose gradient then vanishes; the margin's does not.
    """
    lead, n = int(entropy.sum()) - int(margin.sum()), len(entropy)
    return Check(
        "margin_not_stronger",
        grade(fail=lead > max(MARGIN_FAIL * n, FEW), warn=lead > max(MARGIN_WARN * n, FEW)),
        f"{_percent(entropy)} withstand PGD on the cross-entropy, {_percent(margin)} PGD on the "
        "margin",
        "the cross-entropy saturates: look at the size of the logits, and quote the union",
    )


def _lag(weaker: Tensor, stronger: Tensor) -> Status:
    """Return the status of an attack by how many more images it leaves robust than a weaker one."""
    surplus = int(stronger.sum()) - int(weaker.sum())
    return grade(fail=surplus > max(SLACK * len(weaker), FEW), warn=surplus > 0)


def selection_not_test(
    recorded: float, measured: float, images: int, leaked: tuple[int, int]
) -> Check:
    """Fail if the checkpoint was not chosen on the validation images, or splits overlap.

    `recorded` and `measured` are clean accuracies on these images in percent, `images` their number
    (one may be rounded differently on another device), `leaked` the test images that are also in
    another split, and those that have an equal copy there.
    """
    shared, copies = leaked
    same = abs(recorded - measured) < 100 / images + 1e-3
    return Check(
        "selection_not_test",
        grade(fail=shared or not same, warn=copies),
        f"clean accuracy on the validation images is {measured:.2f} %, noted when it was chosen "
        f"{recorded:.2f} %; {shared} test images are in another split, {copies} have a copy there",
        "remove the copies from the dataset"
        if same and not shared
        else "retrain: the checkpoint was not chosen on these validation images",
    )


def control_falls(control: Mapping[str, Accuracy]) -> Check:
    """Fail if the undefended network keeps its accuracy: the attacks do not work.

    `control` holds the network's accuracies ``clean`` and ``union`` (under all attacks), if any.
    """
    if not control:
        return Check(
            "control_falls",
            "WARN",
            "no undefended network was attacked on this dataset",
            "add a network with loss natural to run.networks, and the dataset to run.networks_on, "
            "or name one of the networks in run.controls",
        )
    clean, robust = control["clean"], control["union"]
    lower = robust.high < clean.low
    enough = robust.percent <= (1 - CONTROL_LOSS) * clean.percent
    return Check(
        "control_falls",
        grade(fail=not lower, warn=not enough),
        f"the undefended network falls from {clean.percent:.1f} % clean to {robust.percent:.1f} % "
        "under attack",
        "raise epsilon: this one hardly tells defended networks from undefended ones"
        if lower
        else "the attacks do not work here: look at their steps and at the model's gradients",
    )


def blackbox_not_stronger(whitebox: np.ndarray, blackbox: Mapping[str, np.ndarray]) -> Check:
    """Fail if a black-box attack leaves clearly fewer images than all white-box ones.

    All flags are uint8, 1 where an image is robust: `whitebox` to every white-box attack,
    `blackbox` to the attack or source of that name, maybe of the first images only.
    """
    if not blackbox:
        return Check(
            "blackbox_not_stronger",
            "WARN",
            "no black-box attack was run",
            "run the stage blackbox on this dataset",
        )
    # The worst of all sources; of equals the one with the most images, then by name.
    sources = [
        (*_compare_blackbox(whitebox[: len(flags)], flags), len(flags), name)
        for name, flags in sorted(blackbox.items())
    ]
    rank = ("PASS", "WARN", "FAIL")
    status, count, n, name = max(sources, key=lambda found: (rank.index(found[0]), found[1]))
    return Check(
        "blackbox_not_stronger",
        status,
        f"{count} of {n} images withstand all white-box attacks but fall to {name}, the "
        f"strongest of {len(blackbox)} black-box attacks",
        "white-box attacks should find what black-box ones find: quote the union, and look for "
        "masked gradients",
    )


def _compare_blackbox(whitebox: np.ndarray, blackbox: np.ndarray) -> tuple[Status, int]:
    """Return the status of one black-box attack and how many images it alone breaks."""
    count = int(((blackbox == 0) & (whitebox == 1)).sum())
    surplus = int(whitebox.sum()) - int(blackbox.sum())
    return grade(fail=surplus > max(SLACK * len(blackbox), FEW), warn=count), count


def _percent(flags: Tensor) -> str:
    """Return a share in words."""
    return f"{100 * float(flags.float().mean()):.1f} %"
