"""Checks of images, labels and budget before a model is attacked: range, unit, subset."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from arnas.attacks.oracle import misclassified
from arnas.attacks.pgd import ROUNDING
from arnas.attacks.threat import GREY_LEVELS, parse_amount, unbounded
from arnas.evaluation.checks.base import CheckContext
from arnas.evaluation.checks.grades import grade
from arnas.evaluation.checks.model import is_random
from arnas.evaluation.result import Check
from arnas.evaluation.statistics import Accuracy, wilson
from arnas.runtime.errors import Preempted, UserError, one_line

TWICE_SCALED = 1.5 / GREY_LEVELS
"""Largest pixel of images that were divided by 255 twice."""
DARK = 0.25
"""Largest pixel below which a set of images is looked at."""
TRIED = 256
"""Images on which other normalisations are tried."""
CLEAR_GAIN = 10.0
"""Points by which another normalisation must raise the clean accuracy."""
CONSTANTS = {
    "CIFAR-10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "ImageNet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "MNIST": ((0.1307,), (0.3081,)),
    "-1 to 1": ((0.5,), (0.5,)),
    "0 to 255": ((0.0,), (1 / GREY_LEVELS,)),
}
"""Mean and standard deviation of the usual preparations, by channel or for all channels."""
OWN = "their own mean and deviation"
PAIRS = (("mean", "std"), ("mu", "sigma"))
"""Names under which modules keep mean and standard deviation."""
SAME_CONSTANT = 1e-3
"""Difference up to which two normalisation constants are one; files keep three or four digits."""
EXACT = 0.05
"""Points by which a clean accuracy on all images may differ from the recorded one (RobustBench)."""
IMPOSSIBLE = 1e-3
"""Probability below which a subset's accuracy contradicts the recorded one."""
NEAR_LEVEL = 0.098
"""Grey levels by which a shortened decimal misses the fraction it stands for; 0.031 by 0.095."""
USUAL_LINF = 16
"""Grey levels that are usual in linf at most; shorter budgets of other norms are looked at."""
SMALL_SET = 1000
CROWDED = 3.0
"""Times its even share from which a class is called too frequent; SVHN's ones have twice theirs."""
EXPECTED = 10
"""Images expected of a class from which it is odd that there is none."""


def input_range(context: CheckContext) -> Check:
    """Fail if pixels leave [0, 1], or the model expects images normalised outside it."""
    x, y = context.x, context.y
    name = "input_range"
    if len(y) != len(x):
        evidence = f"{len(x)} images, {len(y)} labels"
        return Check(name, "FAIL", evidence, "give one label for each image")
    kind = str(x.dtype).removeprefix("torch.")
    finite = bool(x.isfinite().all())
    low, high = float(x.min()), float(x.max())
    evidence = f"pixels from {low:.4g} to {high:.4g}, {kind}"
    problem = _range_problem(x, low, high, finite)
    if problem:
        if x.dtype in {p.dtype for p in context.model.parameters()}:
            evidence += " as the model's weights"
        return Check(name, "FAIL", evidence, problem)
    status = grade(warn=high < DARK or low > 1 - DARK)
    advice = "look at the images: is their range [0, 1]?"
    for look in (_recorded_normalisation, _tried_normalisations):
        found = look(context)
        if found is not None:
            evidence += f"; {found.evidence}"
            if found.status == "FAIL" or status == "PASS":
                status, advice = found.status, found.advice
            if status == "FAIL":
                break
    return Check(name, status, evidence, advice)


def _range_problem(x: Tensor, low: float, high: float, finite: bool) -> str:
    """Return what to do about images that cannot be attacked as they are, or nothing."""
    if x.dtype not in {torch.float32, torch.float64}:
        return (
            "convert the model by model.float(), and give the images in float32: less cannot "
            "resolve a small budget"
        )
    if not finite:
        return "remove the images with NaN or infinite pixels"
    if low < -ROUNDING or high > 1 + ROUNDING:
        return (
            "divide the images by 255"
            if low >= 0 and high > 2
            else "put the normalisation inside the model and give pixels in [0, 1]"
        )
    if low == high:
        return "the images are all of one value: look at how they were read"
    return "divide the images by 255 once, not twice" if high <= TWICE_SCALED else ""


def _recorded_normalisation(context: CheckContext) -> Check | None:
    """Compare the constants recorded with the checkpoint with those inside the model."""
    recorded = [_numbers(context.known.get(key)) for key in ("mean", "std")]
    if recorded[0] is None or recorded[1] is None:
        return None
    inside = _constants(context.model)
    if any(_close(one.mean, recorded[0]) and _close(one.std, recorded[1]) for one in inside):
        return None
    advice = "use the constants that the model was trained with"
    if not inside:
        plain = _close(recorded[0], torch.zeros(1)) and _close(recorded[1], torch.ones(1))
        evidence = "no normalisation found in the model, one was recorded with it"
        return None if plain else Check("", "WARN", evidence, advice)
    found = max(inside, key=lambda one: one.sure)
    evidence = (
        f"{found.path} has mean {_words(found.mean)} and std {_words(found.std)}, recorded are "
        f"{_words(recorded[0])} and {_words(recorded[1])}"
    )
    return Check("", "FAIL" if found.sure else "WARN", evidence, advice)


class _Constants(NamedTuple):
    """Mean and standard deviation that a module holds."""

    path: str
    mean: Tensor
    std: Tensor
    sure: bool
    """Whether they are there to normalise images; a layer that adds noise has a pair too."""


def _constants(model: nn.Module) -> list[_Constants]:
    """Return the means and standard deviations of all modules that hold both."""
    found = []
    for path, module in model.named_modules():
        for pair in PAIRS:
            raw = [getattr(module, name, None) for name in pair]
            mean, std = (_numbers(value) for value in raw)
            if mean is not None and std is not None:
                kind = type(module).__name__
                by_channel = isinstance(raw[0], Tensor) and raw[0].ndim >= 3
                sure = by_channel or "normal" in kind.lower()
                found.append(_Constants(path or kind, mean, std, sure))
    return found


def _numbers(value: Any) -> Tensor | None:
    """Return numbers as a vector of float64, or nothing if they are none."""
    if value is None or isinstance(value, str | bytes) or callable(value):
        return None
    try:
        numbers = torch.as_tensor(value).detach().flatten().double().cpu()
    except (TypeError, ValueError, RuntimeError):
        return None
    return numbers if len(numbers) else None


def _close(first: Tensor, second: Tensor) -> bool:
    """Return whether constants are the same, one for all channels or one for each."""
    if len(first) != len(second) and 1 not in {len(first), len(second)}:
        return False
    return bool(((first - second).abs() <= SAME_CONSTANT).all())


def _words(numbers: Tensor) -> str:
    """Return constants in words."""
    return one_line(", ".join(f"{number:.4g}" for number in numbers.tolist()), 60)


def _tried_normalisations(context: CheckContext) -> Check | None:
    """Look whether the model does clearly better on images prepared in another way."""
    x, y = context.x[:TRIED], context.y[:TRIED]
    plain = _accuracy(context, x, y)
    if plain.low > 100 - CLEAR_GAIN:
        return None
    prepared = {name: _accuracy(context, by(x), y) for name, by in _preparations(x).items()}
    name = max((n for n in prepared if n != OWN), key=lambda n: prepared[n].correct)
    if not _clearly_better(prepared[name], plain):
        name = OWN
    if not _clearly_better(prepared[name], plain):
        return None
    evidence = (
        f"{plain.percent:.1f} % of {plain.n} images right as they are, "
        f"{prepared[name].percent:.1f} % when normalised by {name}"
    )
    # More contrast alone helps models that normalise already, images taken in fog, and models that
    # add noise to their logits.
    doubtful = (
        name == OWN
        or is_random(context)
        or any(not _close(one.std, torch.ones(1)) for one in _constants(context.model))
    )
    return Check(
        "",
        "WARN" if doubtful else "FAIL",
        evidence,
        "the model expects normalised input: put the normalisation inside",
    )


def _clearly_better(prepared: Accuracy, plain: Accuracy) -> bool:
    """Return whether an accuracy is higher beyond chance, and by so much that it matters."""
    return prepared.low > plain.high and prepared.percent >= plain.percent + CLEAR_GAIN


def _preparations(x: Tensor) -> dict[str, Callable[[Tensor], Tensor]]:
    """Return name to normalisation: the usual ones, and by the images' own mean and deviation."""
    channels = x.shape[1] if x.ndim == 4 else 1

    def by(mean: Tensor, std: Tensor) -> Callable[[Tensor], Tensor]:
        shape = (1, -1, *[1] * (x.ndim - 2))
        return lambda images: (images - mean.to(x).view(shape)) / std.to(x).view(shape)

    found = {
        f"the constants of {name}": by(torch.tensor(mean), torch.tensor(std))
        for name, (mean, std) in CONSTANTS.items()
        if len(mean) in {1, channels}
    }
    by_channel = x.transpose(0, 1).flatten(1) if x.ndim == 4 else x.flatten()[None]
    std = by_channel.std(1).clamp_min(1e-3)
    return {OWN: by(by_channel.mean(1), std), **found}


def _accuracy(context: CheckContext, x: Tensor, y: Tensor) -> Accuracy:
    """Return the clean accuracy on images."""
    return wilson(int((context.logits(x).argmax(1) == y).sum()), len(y))


def clean_accuracy_recorded(context: CheckContext) -> Check:
    """Fail if the clean accuracy is not the one recorded with the checkpoint."""
    name = "clean_accuracy_recorded"
    right = ~misclassified(context.all_logits(), context.y)
    measured = wilson(int(right.sum()), len(context.x))
    evidence = f"clean accuracy {measured.percent:.2f} % on {measured.n} images"
    recorded = _numbers(context.known.get("clean_accuracy"))
    if recorded is None or len(recorded) != 1 or not 0 <= recorded[0] <= 100:
        advice = "record the clean accuracy, in percent, with the checkpoint"
        return Check(name, "SKIP", f"{evidence}, none recorded", advice)
    stated = float(recorded[0])
    where = context.known.get("clean_accuracy_on")
    same_images = where in {None, "test"} and measured.n == context.known.get("dataset_size")
    evidence += f", recorded {stated:.2f} %" + (f" on {one_line(where, 60)}" if where else "")
    if same_images and context.expectation == 1:
        difference = abs(measured.percent - stated)
        # Another device's rounding may turn an image over.
        fail = difference > max(EXACT + 1e-9, 100 / measured.n + 0.01)
        status = grade(fail=fail, warn=difference > EXACT + 1e-9)
    else:
        evidence += f"; 95 % interval {measured.low:.2f} to {measured.high:.2f} %"
        outside = not measured.low <= stated <= measured.high
        fail = outside and where in {None, "test"} and _contradicts(measured, stated)
        status = grade(fail=fail, warn=outside)
    advice = "is it this checkpoint, and are its images prepared as they were then?"
    return Check(name, status, evidence, advice)


def _contradicts(measured: Accuracy, stated: float) -> bool:
    """Return whether a subset cannot come from images with the stated accuracy; 1 image aside."""
    from scipy.stats import binomtest  # half a second, and rarely needed

    closer = measured.correct + (1 if measured.percent < stated else -1)
    return bool(binomtest(closer, measured.n, stated / 100).pvalue < IMPOSSIBLE)


def epsilon_unit(context: CheckContext) -> Check:
    """Fail if epsilon is not the one written, warn if it looks like another (0.031, 8/255)."""
    threat, written = context.threat, context.known.get("epsilon_written")
    evidence = str(threat)
    if written is not None:
        evidence += f", written {one_line(written, 40)}"
        try:
            same = math.isclose(parse_amount(written), threat.epsilon, rel_tol=1e-6)
        except (UserError, TypeError):
            same = False
        if not same:
            advice = "the attacks use another budget than the one that was written"
            return Check("epsilon_unit", "FAIL", evidence, advice)
    doubt = _doubt(threat.norm, threat.epsilon, context.x[0].numel())
    advice = doubt or "write the budget as a fraction, as 8/255"
    return Check("epsilon_unit", grade(warn=doubt), evidence, advice)


def _doubt(norm: str, epsilon: float, pixels: int) -> str:
    """Return what is odd about a budget, or nothing."""
    levels = epsilon * GREY_LEVELS
    nearest = round(levels)
    doubts = [(epsilon == 0, "a budget of 0 measures the clean accuracy")]
    if norm == "linf":
        doubts += [
            (epsilon >= 0.5, "this budget makes any image grey: is the unit right?"),
            (nearest == 0, "less than half a grey level: was it divided by 255 twice?"),
            (
                1e-6 < abs(levels - nearest) < NEAR_LEVEL,
                f"is {nearest}/255 = {nearest / GREY_LEVELS:.6f} meant? Results at the two are not "
                "comparable",
            ),
        ]
    else:
        longest = unbounded(norm, pixels).epsilon
        doubts += [
            (levels <= USUAL_LINF, f"usual for linf, small for {norm}: is the norm right?"),
            (epsilon >= longest, "the ball holds every image: is the unit right?"),
        ]
    return next((doubt for applies, doubt in doubts if applies), "")


def test_subset(context: CheckContext) -> Check:
    """Fail if the indices do not fit, warn if images are few, repeated or unbalanced."""
    x, y, n = context.x, context.y, len(context.x)
    indices = context.places.long()
    digest = hashlib.sha256(indices.numpy().astype("<i8").tobytes()).hexdigest()[:12]
    half = wilson(n // 2, n)
    size = context.known.get("dataset_size")
    first = torch.equal(indices, torch.arange(n))
    evidence = (
        f"{'all' if first and n == size else 'the first' if first else 'a selection of'} {n} "
        f"images, indices sha256 {digest}, +-{(half.high - half.low) / 2:.1f} points "
        "at 50 % (95 % interval)"
    )
    if indices.shape != (n,) or int(indices.min()) < 0:
        return Check("test_subset", "FAIL", evidence, "give one index, from 0 up, for each image")
    if isinstance(size, int) and int(indices.max()) >= size:
        evidence += f", an index of {int(indices.max())} in a dataset of {size}"
        return Check("test_subset", "FAIL", evidence, "give the indices in this dataset")
    doubts = ["use 1000 images or more"] if n < SMALL_SET else []
    twice = n - len({image.tobytes() for image in x.double().cpu().flatten(1).numpy()})
    again = n - len(set(indices.tolist()))
    if twice or again:
        evidence += f", {twice} images and {again} indices twice"
        doubts.append("remove the images that are there twice")
    if crowd := _crowd(context, y):
        evidence += f", {crowd}"
        doubts.append("draw images of every class, at random")
    return Check("test_subset", grade(warn=doubts), evidence, "; ".join(doubts))


def _crowd(context: CheckContext, y: Tensor) -> str:
    """Return what is odd about the numbers of images of each class, or nothing."""
    classes = int(y.max()) + 1
    try:
        classes = max(classes, context.all_logits().shape[1])
    except Preempted:
        raise
    except Exception:  # the check of logits says what is wrong with the model
        classes = max(classes, 1)
    counts = y.clamp_min(0).bincount(minlength=classes)
    n, missing = len(y), int((counts == 0).sum())
    if classes < 2 or n < EXPECTED * classes:
        return ""
    if missing:
        return f"no image of {missing} of {classes} classes"
    if int(counts.max()) > CROWDED * n / classes and classes > CROWDED:
        return f"{100 * int(counts.max()) / n:.0f} % of them of class {int(counts.argmax())}"
    return ""
