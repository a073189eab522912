"""`arnas.evaluate`: attack any model with a suite, check the attack, and say what came out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from arnas.attacks.eval_mode import frozen_eval, home
from arnas.attacks.pgd import ROUNDING
from arnas.attacks.suites import Suite, build_suite, transfer_from
from arnas.attacks.threat import Threat, parse_amount, parse_threat
from arnas.data.load import images_sha256
from arnas.evaluation.checks import run_checks
from arnas.evaluation.checks.base import CheckContext
from arnas.evaluation.curve import warm_curve
from arnas.evaluation.result import BROKEN, ROBUST, SKIPPED, AttackResult, EvalResult, withstood
from arnas.evaluation.runner import SuiteRun, SuiteState
from arnas.evaluation.statistics import Accuracy, wilson
from arnas.models.weights import weights_sha256
from arnas.runtime.device import full_float32
from arnas.runtime.errors import UserError, one_line
from arnas.runtime.files import sha256_bytes
from arnas.runtime.manifest import environment
from arnas.runtime.progress import Report, silent
from arnas.runtime.resume import NO_CHECKPOINT, Checkpointer
from arnas.runtime.seeds import seeded

BATCH_SIZE = 128


def evaluate(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: Threat | str,
    suite: str = "standard",
    *,
    seed: int = 0,
    batch_size: int = BATCH_SIZE,
    expectation: int | None = None,
    indices: Tensor | None = None,
    known: Mapping[str, Any] | None = None,
    sources: Mapping[str, nn.Module] | None = None,
    curve: Sequence[float | str] = (),
    checkpointer: Checkpointer = NO_CHECKPOINT,
    report: Report = silent,
) -> EvalResult:
    """Attack a model with a suite and check the result for the known ways of fooling oneself.

    An image is robust if it is classified correctly and withstands every attack. The model is
    attacked in evaluation mode and is afterwards what it was.

    Parameters
    ----------
    model
        Pixels in [0, 1] to logits of shape (N, classes), normalisation inside; on any device.
    x
        Images: float of shape (n, C, H, W) in [0, 1], n from 1 up.
    y
        True labels: int64 of shape (n,), from 0 up.
    threat
        Norm and budget in input units, or text such as ``linf:8/255``.
    suite
        ``standard`` (AutoAttack's), ``fast``, ``rand`` (for models that draw random numbers), or
        attacks separated by commas; see `arnas.attacks.suites`.
    seed
        With an image's index and the attack all that its random numbers depend on.
    batch_size
        Images that go through the model together. Neither it nor the order of images changes an
        image's random numbers; logits may differ by rounding.
    expectation
        Passes a gradient is averaged over; None for what the suite says.
    indices
        int64 of shape (n,): the images' places in their dataset; None for the first n.
    known
        What is known of model and data, see `arnas.evaluation.checks.base.CheckContext.known`.
    sources
        Other models by name, on the same device, whose adversarial examples are shown to this one
        after the suite.
    curve
        Budgets, in input units or as ``8/255``, at which the accuracy is measured too.
    checkpointer
        Where the outcomes are kept, so that a killed evaluation goes on.
    report
        Called with the robust accuracy so far.

    Returns
    -------
    EvalResult
        With `clean`, `robust`, `attacks`, `outcomes`, `checks`, `reliable`, `to_json()`.

    Raises
    ------
    UserError
        When images, labels, model, threat or suite are invalid.
    """
    threat = parse_threat(threat) if isinstance(threat, str) else threat
    device, dtype = home(model)
    x, y = x.detach().cpu(), y.detach().cpu()
    _check_images(x, y)
    x = x.to(dtype).clamp(0, 1)  # of what rounding has left outside
    for name, value in (("batch_size", batch_size), ("expectation", expectation)):
        if value is not None and value < 1:
            raise UserError(f"{name} is {value}: it must be a whole number from 1 up.")
    indices = torch.arange(len(y)) if indices is None else indices.detach().cpu()
    if indices.shape != y.shape:
        raise UserError(
            f"indices has shape {tuple(indices.shape)}: needed is one for each of {len(y)} images."
        )
    classes = _count_classes(model, x[:1].to(device), y, "the model")
    chosen = build_suite(suite, threat.norm, classes)
    for name, source in (sources or {}).items():
        _count_classes(source, x[:1].to(device), y, f"the source {name}")
        chosen.components[f"transfer from {name}"] = transfer_from(source)
    passes = chosen.expectation if expectation is None else expectation
    threats = [Threat(threat.norm, parse_amount(amount)) for amount in curve]
    trial = CheckContext(
        model,
        x.to(device),
        y.to(device),
        threat,
        suite,
        seed,
        batch_size,
        passes,
        indices,
    )
    trial.known = _identity(trial) | dict(known or {})
    same = [
        name
        for name, source in (sources or {}).items()
        if weights_sha256(source) == trial.known["model_sha256"]
    ]
    if same:  # then what they find is no transfer
        trial.known["sources_equal_to_model"] = same
    run = SuiteRun(
        model, x, y, indices, threat, chosen, seed, batch_size, passes, device, checkpointer, report
    )
    # What a random model draws follows from the seed, too.
    with full_float32(), seeded("evaluate", seed):
        checks = run_checks(trial, "model")
        course = run.finish()
        trial.outcomes = {name: course.tensors[name] for name in ("clean", *chosen.components)}
        trial.x_adv = course.tensors["x_adv"].to(device)
        trial.attacks = _results(chosen, course)
        checks += run_checks(trial, "attacks")
        standing = withstood(trial.outcomes)
        points = _curve(trial, standing, dict(zip(map(str, curve), threats, strict=True)))
    return EvalResult(
        threat,
        suite,
        _share(trial.outcomes["clean"] == ROBUST),
        _share(standing),
        trial.attacks,
        trial.outcomes,
        y,
        course.tensors["x_adv"].float(),
        tuple(checks),
        _provenance(trial, chosen),
        points,
    )


def _share(standing: Tensor) -> Accuracy:
    """Return the share of flags that are set."""
    return wilson(int(standing.sum()), len(standing))


def _curve(
    trial: CheckContext, standing: Tensor, threats: Mapping[str, Threat]
) -> dict[str, Accuracy]:
    """Return the accuracy at each budget; what fell to the suite counts from its budget on."""
    if not threats:
        return {}
    rising = dict(sorted(threats.items(), key=lambda item: item[1].epsilon))
    with frozen_eval(trial.model):
        rows = warm_curve(
            trial.model,
            trial.x,
            trial.y,
            trial.outcomes["clean"] == ROBUST,
            list(rising.values()),
            indices=trial.places,
            seed=trial.seed,
            batch_size=trial.batch_size,
        )
    found = {}
    for (written, threat), row in zip(rising.items(), rows, strict=True):
        found[written] = _share(row & standing if threat.epsilon >= trial.threat.epsilon else row)
    return found


def _check_images(x: Tensor, y: Tensor) -> None:
    """Refuse images and labels that are invalid."""
    if x.ndim != 4 or y.ndim != 1 or len(x) != len(y) or not len(y):
        raise UserError(
            f"x has shape {tuple(x.shape)} and y {tuple(y.shape)}: needed are images (n, C, H, W) "
            "and one label for each, n from 1 up."
        )
    if y.dtype != torch.int64:
        raise UserError(f"y is {y.dtype}: needed are labels of type int64.")
    low, high = float(x.min()), float(x.max())
    if not (low >= -ROUNDING and high <= 1 + ROUNDING):
        way_out = (
            "divide by 255" if low >= 0 and high <= 255 else "put the normalisation into the model"
        )
        raise UserError(
            f"x runs from {low:.4g} to {high:.4g}: needed are pixels in [0, 1], or epsilon means "
            f"something else; {way_out}."
        )
    if int(y.min()) < 0:
        raise UserError(f"y holds the label {int(y.min())}: allowed are labels from 0 up.")


def _count_classes(model: nn.Module, image: Tensor, y: Tensor, who: str) -> int:
    """Return the number of classes of a model, which must take the images and know every label."""
    try:
        with frozen_eval(model), torch.no_grad():
            logits = model(image)
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        raise UserError(
            f"{who} does not take an image of shape {tuple(image.shape[1:])} and type "
            f"{image.dtype}: {one_line(error, 120)}; evaluate it on images of the size that it "
            "was trained on."
        ) from None
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != 1:
        found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise UserError(
            f"{who} returns {found} for one image: needed are its logits, a tensor of shape "
            "(1, classes); wrap it in a module that returns them."
        )
    if logits.shape[1] <= int(y.max()):
        raise UserError(
            f"{who} has {logits.shape[1]} classes and the labels run up to {int(y.max())}: "
            "these are not its images."
        )
    return logits.shape[1]


def _results(suite: Suite, course: SuiteState) -> dict[str, AttackResult]:
    """Return what each attack left."""
    standing = course.tensors["clean"] == ROBUST
    results = {}
    for name, component in suite.components.items():
        outcome = course.tensors[name]
        attacked_images = int((outcome != SKIPPED).sum())
        standing = standing & (outcome == ROBUST)
        forwards, backwards = course.passes[name]
        results[name] = AttackResult(
            name,
            component.settings,
            component.citation,
            attacked_images,
            int((outcome == BROKEN).sum()),
            _share(standing),
            forwards,
            backwards,
        )
    return results


def _provenance(trial: CheckContext, suite: Suite) -> dict[str, Any]:
    """Return what was evaluated and how."""
    return {
        **trial.known,
        "n": len(trial.y),
        "seed": trial.seed,
        "batch_size": trial.batch_size,
        "expectation": trial.expectation,
        "dtype": str(trial.x.dtype).removeprefix("torch."),
        "suite_leaves_out": suite.leaves_out,
        "replaced": dict(suite.replaced),
    }


def _identity(trial: CheckContext) -> dict[str, Any]:
    """Return the digests of model and images, and what computes."""
    return {
        **environment(str(trial.x.device), torch.get_num_threads()),
        "model_sha256": weights_sha256(trial.model),
        "data_sha256": images_sha256(trial.x, trial.y),
        "indices_sha256": sha256_bytes(trial.places.numpy().astype("<i8").tobytes()),
    }
