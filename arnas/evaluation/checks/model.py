"""Checks of a model before it is attacked: modes, batches, randomness, precision.

They look for what makes a robust accuracy wrong before any attack has run: FAIL says that it would
be, WARN that somebody should look.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from arnas.attacks.eval_mode import frozen_eval
from arnas.evaluation.checks.base import TINY, CheckContext, forward, remembered
from arnas.evaluation.checks.grades import grade
from arnas.evaluation.checks.state import same_values, untouched
from arnas.evaluation.result import Check, Status
from arnas.runtime.errors import Preempted

PASSES = 12
"""A model that picks one of two networks at random gives equal logits with probability 2^-11."""
SAME_AGAIN, OTHER_AGAIN = 1e-6, 1e-4
"""Difference of the logits of equal passes, relative to their size, up to which they are the same,
and from which the model draws random numbers; between them sums run in any order."""
FEW_IMAGES = 32
"""Images that are sent through the model one by one."""
ODD_BATCH = 7
SAME_IN_BATCH, OTHER_IN_BATCH = 1e-4, 1e-2
"""Difference of logits, relative to their size, up to which two batch sizes agree, and from which
they disagree whatever the predictions are. Between them kernels that round differently are common.
"""
RECHECKED = 256
"""Images whose predictions are compared with those in float32."""
CHANGED = 0.01
"""Share of predictions that may change in float32."""
ASLEEP = (_BatchNorm, _DropoutNd, nn.modules.instancenorm._InstanceNorm)
"""Modules that compute something else in training mode."""


def eval_mode(context: CheckContext) -> Check:
    """Fail if a layer stays in training mode after eval(), or a pass changes the model."""
    modules = list(context.model.modules())
    awake = sum(module.training for module in modules)
    images = context.x[: context.batch_size]
    seen = images.clone()
    with untouched(context.model) as changed, frozen_eval(context.model), torch.no_grad():
        context.model(seen)
        stubborn = [module for module in modules if module.training]
        different = changed()
    spoilt = not same_values(seen, images)
    harmful = any(isinstance(module, ASLEEP) for module in stubborn)
    found = [
        f"{awake} of {len(modules)} submodules handed over in training mode"
        if awake
        else f"all {len(modules)} submodules in evaluation mode",
        f"{len(different)} weights or buffers changed by a pass, such as {different[0]}"
        if different
        else "weights and buffers unchanged by a pass",
    ]
    if stubborn:
        found.append(f"{len(stubborn)} still in training mode after eval()")
    if spoilt:
        found.append("the pass wrote into its images")
    status = grade(fail=different or spoilt or harmful, warn=awake or stubborn)
    advice = "call model.eval() before the evaluation; it was done here and undone afterwards"
    if status == "FAIL":
        advice = "let eval() reach every submodule, and let none write into images or own buffers"
    return Check("eval_mode", status, "; ".join(found), advice)


def batch_size_invariance(context: CheckContext) -> Check:
    """Fail if the logits of an image depend on the other images of its batch."""
    name = "batch_size_invariance"
    advice = "use running statistics in evaluation mode: an image must not see its neighbours"
    if is_random(context):
        evidence = "the model draws random numbers, which would be others in another batch"
        return Check(name, "SKIP", evidence, "look at the check determinism")
    few = context.x[: min(FEW_IMAGES, context.batch_size)]
    with _full_float32(context):
        full = context.logits(context.x[: context.batch_size])[: len(few)]
        others = {size: context.logits(few, size) for size in (1, ODD_BATCH)}
    size = logit_size(full)
    difference = {batch: distance(one, full) / size for batch, one in others.items()}
    worst = max(difference.values())
    flips = sum(int((one.argmax(1) != full.argmax(1)).sum()) for one in others.values())
    differs, much = (
        not worst <= tolerance(limit, context) for limit in (SAME_IN_BATCH, OTHER_IN_BATCH)
    )
    return Check(
        name,
        grade(fail=differs and (flips or much), warn=differs),
        f"logits of {len(few)} images in batches of "
        + " and ".join(f"{batch} differ by {gap:.1e}" for batch, gap in difference.items())
        + f" of their size from those in a batch of {min(len(context.x), context.batch_size)}, "
        f"{flips} predictions change",
        advice,
    )


def determinism(context: CheckContext) -> Check:
    """Fail if the model draws random numbers and is attacked as if it did not."""
    worst, flips, images = repeats(context)
    evidence = (
        f"logits of {PASSES} passes over {images} images differ by {worst:.1e} of their size, "
        f"{flips} predictions change"
    )
    status: Status = "PASS"
    advice = "make the model deterministic, or average its gradients"
    if not worst <= tolerance(SAME_AGAIN, context):
        status = "WARN"
        advice = "sums run in any order here: ask PyTorch for deterministic algorithms"
        if is_random(context):
            status = "WARN" if context.expectation > 1 else "FAIL"
            advice = (
                "report it as randomised: with other random numbers other images are robust"
                if context.expectation > 1
                else 'the model draws random numbers: use suite="rand", or expectation=20'
            )
            if context.expectation > 1:
                evidence += f"; randomised, evaluated with EoT {context.expectation}"
    return Check("determinism", status, evidence, advice)


def logit_size(logits: Tensor) -> float:
    """Return the size of logits: the median, over images, of the distance from their mean.

    What is common to the classes of an image changes no prediction and does not count.
    """
    centred = logits.double()
    if logits.shape[1] > 1:
        centred = centred - centred.mean(1, keepdim=True)
    median = centred.abs().amax(1).nanmedian().nan_to_num(0.0, 0.0, 0.0)
    return max(float(median), TINY)


def distance(first: Tensor, second: Tensor) -> float:
    """Return the largest difference; equal values have none, NaN and infinite ones included."""
    if first.shape != second.shape:
        return float("inf")
    same = (first == second) | (first.isnan() & second.isnan())
    gap = torch.where(same, 0, (first.double() - second.double()).abs())
    return float(gap.nan_to_num(torch.inf).max())


def repeats(context: CheckContext) -> tuple[float, int, int]:
    """Return how far passes differ, how many predictions change, and the images looked at."""

    def measure() -> tuple[float, int, int]:
        images = context.x[: context.batch_size]
        first, *others = (context.logits(images) for _ in range(PASSES))
        worst = max(distance(one, first) for one in others) / logit_size(first)
        flipped = torch.stack([one.argmax(1) != first.argmax(1) for one in others])
        return worst, int(flipped.any(0).sum()), len(images)

    return remembered(context, "repeats", measure)


def tolerance(share: float, context: CheckContext) -> float:
    """Return a tolerance in units of the logits' size, no finer than the types resolve."""
    types = (context.x.dtype, context.all_logits().dtype)
    return max(share, *(2 * torch.finfo(d).eps for d in types))


def is_random(context: CheckContext) -> bool:
    """Return whether equal passes differ by more than the order of sums can explain."""
    worst, flips, _ = repeats(context)
    again = tolerance(SAME_AGAIN, context)
    return not worst <= max(again, OTHER_AGAIN) or (flips > 0 and not worst <= again)


def precision(context: CheckContext) -> Check:
    """Fail if predictions change when everything is computed in float32."""
    found = _coarse(context.model, context.x[:2])
    if not found:
        evidence = f"{str(context.x.dtype).removeprefix('torch.')} throughout, no autocast, no TF32"
        return Check("precision", "PASS", evidence, "")
    advice = "evaluate in float32: switch autocast and TF32 off, or convert by model.float()"
    evidence = " and ".join(found)
    try:
        changed, images = _rechecked(context)
    except Preempted:
        raise
    except Exception as error:
        evidence += f"; could not be re-checked in float32 ({type(error).__name__})"
        return Check("precision", "WARN", evidence, advice)
    evidence += f"; {changed} of {images} predictions change in float32"
    status = grade(fail=changed > max(1, CHANGED * images), warn=True)
    return Check("precision", status, evidence, advice)


def _coarse(model: nn.Module, x: Tensor) -> list[str]:
    """Return where something is computed in less than float32, in words."""
    kind = x.device.type
    found = [f"weights in {name}" for name in sorted(_names(model.parameters()))]
    if torch.is_autocast_enabled(kind):
        found.append("autocast")
    short = {place.fp32_precision for place in _arithmetic(kind)} & {"tf32", "bf16"}
    if short:
        found.append(f"products in {' and '.join(sorted(short))}")
    inside: set[str] = set()

    def look(module: nn.Module, args: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            inside.update(_names([output]))

    with ExitStack() as hooks, frozen_eval(model), torch.no_grad():
        for module in model.modules():
            hooks.enter_context(module.register_forward_hook(look))
        forward(model, x)
    if inside and not found:
        found.append(f"values in {' and '.join(sorted(inside))} inside the model")
    return found


def _names(tensors: Any) -> set[str]:
    """Return the floating types among tensors that are shorter than float32."""
    return {
        str(tensor.dtype).removeprefix("torch.")
        for tensor in tensors
        if tensor.is_floating_point() and tensor.element_size() < 4
    }


def _rechecked(context: CheckContext) -> tuple[int, int]:
    """Return how many predictions change in float32, and the images looked at."""
    images = context.x[:RECHECKED]
    full = copy.deepcopy(context.model).float()
    as_is = context.logits(images).argmax(1)
    with _full_float32(context), torch.no_grad(), frozen_eval(full):
        if _coarse(full, images[:2].float()):
            raise TypeError
        parts = torch.split(images.float(), context.batch_size)
        exact = torch.cat([forward(full, part) for part in parts]).argmax(1)
    return int((as_is != exact).sum()), len(images)


def _arithmetic(kind: str) -> tuple[Any, Any]:
    """Return where PyTorch keeps how it multiplies matrices and convolves on a kind of device."""
    if kind == "cuda":
        return torch.backends.cuda.matmul, torch.backends.cudnn.conv  # type: ignore[attr-defined]
    return torch.backends.mkldnn.matmul, torch.backends.mkldnn.conv  # type: ignore[attr-defined]


@contextmanager
def _full_float32(context: CheckContext) -> Iterator[None]:
    """Switch autocast and shortened products off inside the block."""
    kind = context.x.device.type
    before = [(place, place.fp32_precision) for place in _arithmetic(kind)]
    try:
        for place, _ in before:
            place.fp32_precision = "ieee"
        with torch.autocast(kind, enabled=False):
            yield
    finally:
        for place, setting in before:
            place.fp32_precision = setting


def frozen_while_crafting(context: CheckContext) -> Check:
    """Fail if batch norm or dropout is in training mode while examples are made."""
    awake: set[str] = set()

    def look(path: str, module: nn.Module, _: Any) -> None:
        if module.training:
            awake.add(path)

    layers = {path: m for path, m in context.model.named_modules() if isinstance(m, ASLEEP)}
    norms = {path: m for path, m in layers.items() if isinstance(m, _BatchNorm)}
    of_batch = [path for path, norm in norms.items() if norm.running_mean is None]
    probe = context.probe()
    x, y = context.x[probe], context.y[probe]
    with ExitStack() as hooks, untouched(context.model) as changed, frozen_eval(context.model):
        for path, module in layers.items():
            hooks.enter_context(module.register_forward_pre_hook(partial(look, path)))
        x = x.clone().requires_grad_()
        with torch.enable_grad():
            found = forward(context.model, x)
            if found.requires_grad:  # a missing graph is what the check of gradients says
                total = found.gather(1, y.clamp(0, found.shape[1] - 1)[:, None]).sum()
                torch.autograd.grad(total, x, allow_unused=True)
        free = sum(p.requires_grad for p in context.model.parameters())
        different = changed()
    problems = [
        f"{len(names)} {text}, such as {sorted(names)[0]}"
        for names, text in (
            (awake, "layers in training mode"),
            (of_batch, "batch normalisations with the statistics of the batch"),
            (different, "weights or buffers changed"),
        )
        if names
    ]
    if free:
        problems.append(f"{free} weights still ask for gradients")
    dropouts = sum(isinstance(m, _DropoutNd) for m in layers.values())
    evidence = "; ".join(problems) or (
        f"forward and backward with {len(norms)} batch normalisations and {dropouts} dropouts in "
        "evaluation mode, nothing changed"
    )
    return Check(
        "frozen_while_crafting",
        grade(fail=problems),
        evidence,
        "keep every layer in evaluation mode and every weight frozen while examples are made",
    )
