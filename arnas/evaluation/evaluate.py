"""`arnas.evaluate`: attack any model with a suite, check the attack, and say what came out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from arnas.attacks.eval_mode import frozen_eval, home
from arnas.attacks.pgd import ROUNDING, check_at_least
from arnas.attacks.suites import Suite, build_suite, transfer_from
from arnas.attacks.threat import Threat, parse_amount, parse_threat
from arnas.data.load import images_sha256
from arnas.evaluation.adapt import adapted
from arnas.evaluation.checks import read_check, run_checks
from arnas.evaluation.checks.base import CheckContext
from arnas.evaluation.curve import accuracy_curve
from arnas.evaluation.options import Tier
from arnas.evaluation.result import (
    BROKEN,
    FURTHER,
    ROBUST,
    SKIPPED,
    AttackResult,
    Check,
    Combine,
    EvalResult,
    robust_images,
)
from arnas.evaluation.runner import SuiteRun, SuiteState
from arnas.evaluation.statistics import Accuracy, wilson
from arnas.models.opaque import as_module
from arnas.models.weights import weights_sha256
from arnas.runtime.device import full_float32
from arnas.runtime.errors import UserError, one_line
from arnas.runtime.files import sha256_bytes
from arnas.runtime.manifest import environment
from arnas.runtime.progress import Report, silent
from arnas.runtime.resume import NO_CHECKPOINT, Checkpointer
from arnas.runtime.seeds import seeded

BATCH_SIZE = 128


@torch.inference_mode(mode=False)
def evaluate(
    model: nn.Module | Callable[[Tensor], Tensor],
    x: Tensor | np.ndarray,
    y: Tensor | np.ndarray,
    threat: Threat | str,
    suite: str = "standard",
    *,
    combine: Combine = "union",
    checks: Tier = "all",
    seed: int = 0,
    batch_size: int = BATCH_SIZE,
    expectation: int | None = None,
    indices: Tensor | None = None,
    known: Mapping[str, Any] | None = None,
    sources: Mapping[str, nn.Module] | None = None,
    curve: Sequence[float | str] = (),
    curve_images: int | None = None,
    checkpointer: Checkpointer = NO_CHECKPOINT,
    report: Report = silent,
) -> EvalResult:
    """Attack a model with a suite and check the result for the known ways of fooling oneself.

    An image is robust if it is classified correctly and no attack breaks it. The model is attacked
    in evaluation mode and is afterwards what it was. Examples are made on a faster copy where there
    is one (`arnas.attacks.folding`) and classified by the model itself.

    Parameters
    ----------
    model
        Pixels in [0, 1] to logits of shape (N, classes), normalisation inside; on any device. A
        module, TorchScript, an exported program or a function; a single output z of a binary task
        counts as the logits 0 and z.
    x
        Images: float of shape (n, C, H, W) in [0, 1], n from 1 up; a tensor or an array.
    y
        True labels: integers of shape (n,), from 0 up.
    threat
        Norm and budget in input units, or text such as ``linf:8/255``.
    suite
        ``standard`` (AutoAttack's), ``fast``, ``rand`` (for models that draw random numbers),
        ``reference`` (AutoAttack by the published package), or attacks separated by commas; see
        `arnas.attacks.suites`. Empty for no attack.
    combine
        ``union``: an image that was broken is skipped by later attacks, as AutoAttack does;
        ``each``: every attack is run on every correctly classified image, as for papers' tables.
        The robust accuracy is that of the union either way.
    checks
        ``all``; ``cheap`` leaves out those that attack the model themselves; ``none``.
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
    curve_images
        So many images, from the first, that the curve is measured on; all by default.
    checkpointer
        Where attacks, checks and curve are saved, so that a killed evaluation is resumed.
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
    x, y = (torch.as_tensor(values).detach().cpu().clone() for values in (x, y))
    _check_images(x, y)
    y = y.long()
    module = as_module(model)
    device, dtype = home(module)
    x = x.to(dtype).clamp(0, 1)  # rounding may have left pixels outside
    model = adapted(module, x[:1].to(device), y)
    indices = torch.arange(len(y)) if indices is None else indices.detach().cpu()
    numbers = {"batch_size": batch_size, "expectation": expectation, "curve_images": curve_images}
    check_at_least(1, **{name: n for name, n in numbers.items() if n is not None})
    if indices.shape != y.shape:
        raise UserError(
            f"indices has shape {tuple(indices.shape)}: needed is one for each of {len(y)} images."
        )
    classes = _count_classes(model, x[:1].to(device), y, "the model")
    chosen = build_suite(suite, threat.norm, classes) if suite else Suite({}, "every attack")
    sources = {k: adapted(m, x[:1].to(device), y) for k, m in (sources or {}).items()}
    for name, source in sources.items():
        _count_classes(source, x[:1].to(device), y, f"the source {name}")
        chosen.components[f"transfer from {name}"] = transfer_from(source)
    eot = chosen.expectation if expectation is None else expectation
    threats = {str(epsilon): Threat(threat.norm, parse_amount(epsilon)) for epsilon in curve}
    context = CheckContext(
        model, x.to(device), y.to(device), threat, suite, seed, batch_size, eot, indices
    )
    context.combine = combine
    context.known = _identity(context, sources) | dict(known or {})
    run = SuiteRun(
        model, x, y, indices, threat, chosen, seed, batch_size, combine, eot, checkpointer, report
    )
    # What a random model draws follows from the seed, too.
    with full_float32(), seeded("evaluate", seed):
        state = SuiteState.load(checkpointer)
        if not run.reproduces(state):
            report(0, 100, "what was saved does not hold for this model: starting again")
            state = SuiteState()
        found = _checked(context, "model", checks, run, state)
        run.finish(state)
        context.attacks, context.outcomes = _results(chosen, state), state.outcomes
        context.x_adv, context.monitor = state.tensors["x_adv"].to(device), state.monitor
        found += _checked(context, "attacks", checks, run, state)
        robust = accuracy_curve(context, threats, state, checkpointer, curve_images)
        within = [one.epsilon <= threat.epsilon for one in threats.values()]
        broken = (~robust[torch.tensor(within, dtype=torch.bool)]).any(0).nonzero().flatten()
        run.add(state, broken, x[broken] + state.tensors["curve_delta"][broken])
    attacks = _results(chosen, state)
    outcomes = {name: state.tensors[name] for name in ("clean", *attacks)}
    return EvalResult(
        threat=threat,
        suite=suite,
        combine=combine,
        clean_accuracy=_share(outcomes["clean"] == ROBUST),
        robust_accuracy=_share(robust_images(outcomes)),
        attacks=attacks,
        outcomes=outcomes,
        labels=y,
        x_adv=state.tensors["x_adv"].float(),
        checks=tuple(found),
        provenance=_provenance(context, chosen),
        curve={epsilon: _share(row) for epsilon, row in zip(threats, robust, strict=True)},
        curve_robust=robust,
    )


def _share(flags: Tensor) -> Accuracy:
    """Return the share of flags that are set."""
    return wilson(int(flags.sum()), len(flags))


def _checked(
    context: CheckContext,
    phase: Literal["model", "attacks"],
    tier: Tier,
    run: SuiteRun,
    state: SuiteState,
) -> list[Check]:
    """Run the checks of a phase, save each, and stop between two after a signal.

    What they break within the threat counts as broken.
    """
    done = {values["id"]: read_check(values) for values in state.checks}

    def between() -> None:
        for images, x_adv in context.notes.pop(FURTHER, []):
            run.add(state, images, x_adv)
            context.outcomes = state.outcomes
        state.checks = [check._asdict() for check in context.notes["checks"]]
        run.checkpointer.maybe_save(state.snapshot)

    return run_checks(context, phase, tier, between=between, done=done)


def _check_images(x: Tensor, y: Tensor) -> None:
    """Refuse images and labels that are invalid."""
    if x.ndim != 4 or y.ndim != 1 or len(x) != len(y) or not len(y):
        raise UserError(
            f"x has shape {tuple(x.shape)} and y {tuple(y.shape)}: needed are images (n, C, H, W) "
            "and one label for each, n from 1 up."
        )
    if y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        raise UserError(f"y is {y.dtype}: needed are labels, whole numbers from 0 up.")
    odd = ~x.flatten(1).isfinite().all(1)
    if bool(odd.any()):
        raise UserError(
            f"x holds NaN or infinity in {int(odd.sum())} of {len(x)} images, the first at "
            f"{int(odd.nonzero()[0])}: remove these images, or look at how they were read."
        )
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
        types = {str(p.dtype).removeprefix("torch.") for p in model.parameters()}
        if len(types) > 1:
            raise UserError(
                f"{who} has weights in {' and '.join(sorted(types))} and fails on an image: "
                f"{one_line(error, 120)}; convert all of it by model.float()."
            ) from None
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


def _results(suite: Suite, state: SuiteState) -> dict[str, AttackResult]:
    """Return the result of each attack."""
    seen = {"clean": state.tensors["clean"]}
    results = {}
    attacks = {name: (one.settings, one.citation) for name, one in suite.components.items()}
    if FURTHER in state.tensors and bool((state.tensors[FURTHER] == BROKEN).any()):
        attacks[FURTHER] = ("what only the attacks of the checks and of the curve break", "")
    for name, (settings, citation) in attacks.items():
        outcome = seen[name] = state.tensors[name]
        results[name] = AttackResult(
            name,
            settings,
            citation,
            int((outcome != SKIPPED).sum()),
            int((outcome == BROKEN).sum()),
            _share(robust_images(seen)),
            *state.passes[name],
        )
    return results


def _provenance(context: CheckContext, suite: Suite) -> dict[str, Any]:
    """Return what was evaluated and how."""
    return {
        **context.known,
        "n": len(context.y),
        "seed": context.seed,
        "batch_size": context.batch_size,
        "expectation": context.expectation,
        "dtype": str(context.x.dtype).removeprefix("torch."),
        "suite_leaves_out": suite.leaves_out,
        "replaced": dict(suite.replaced),
    }


def _identity(context: CheckContext, sources: Mapping[str, nn.Module]) -> dict[str, Any]:
    """Return the digests of model and images, and what computes."""
    sha256 = weights_sha256(context.model)
    same = [name for name, source in sources.items() if weights_sha256(source) == sha256]
    return {
        **environment(str(context.x.device), torch.get_num_threads()),
        "model_sha256": sha256,
        "data_sha256": images_sha256(context.x, context.y),
        "indices_sha256": sha256_bytes(context.places.numpy().astype("<i8").tobytes()),
        # Then the examples that they are attacked with are no transferred ones.
        **({"sources_equal_to_model": same} if same else {}),
    }
