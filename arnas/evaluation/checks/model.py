"""Checks of a model before it is attacked: modes, batches, randomness, precision.

They look for what makes a robust accuracy wrong before any attack has run: FAIL says that it would
be, WARN that somebody should look.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from arnas.attacks.eval_mode import frozen_eval
from arnas.evaluation.checks.answers import (
    PASSES,
    SAME_AGAIN,
    clean_logits,
    distance,
    forward,
    is_random,
    logit_size,
    repeats,
    tolerance,
)
from arnas.evaluation.checks.base import CheckContext
from arnas.evaluation.checks.state import same_values, untouched
from arnas.evaluation.result import Check, Status
from arnas.runtime.errors import Preempted

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
    status: Status = "WARN" if awake or stubborn else "PASS"
    if different or spoilt or harmful:
        status = "FAIL"
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
        full = clean_logits(context, context.x[: context.batch_size])[: len(few)]
        others = {size: clean_logits(context, few, size) for size in (1, ODD_BATCH)}
    size = logit_size(full)
    difference = {batch: distance(one, full) / size for batch, one in others.items()}
    worst = max(difference.values())
    flips = sum(int((one.argmax(1) != full.argmax(1)).sum()) for one in others.values())
    status: Status = "PASS"
    if not worst <= tolerance(SAME_IN_BATCH, context):
        status = "FAIL" if flips or not worst <= tolerance(OTHER_IN_BATCH, context) else "WARN"
    return Check(
        name,
        status,
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
    status: Status = "FAIL" if changed > max(1, CHANGED * images) else "WARN"
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

    handles = [module.register_forward_hook(look) for module in model.modules()]
    try:
        with frozen_eval(model), torch.no_grad():
            forward(model, x)
    finally:
        for handle in handles:
            handle.remove()
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
    as_is = clean_logits(context, images).argmax(1)
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
    handles = []

    def watch(path: str, module: nn.Module) -> None:
        def look(*_: Any) -> None:
            if module.training:
                awake.add(path)

        handles.append(module.register_forward_pre_hook(look))

    layers = [(path, m) for path, m in context.model.named_modules() if isinstance(m, ASLEEP)]
    for path, module in layers:
        watch(path, module)
    of_batch = [p for p, m in layers if isinstance(m, _BatchNorm) and m.running_mean is None]
    x, y = context.probe()
    try:
        with untouched(context.model) as changed, frozen_eval(context.model):
            x = x.clone().requires_grad_()
            with torch.enable_grad():
                found = forward(context.model, x)
                if found.requires_grad:  # a missing graph is what the check of gradients says
                    total = found.gather(1, y.clamp(0, found.shape[1] - 1)[:, None]).sum()
                    torch.autograd.grad(total, x, allow_unused=True)
            free = sum(p.requires_grad for p in context.model.parameters())
            different = changed()
    finally:
        for handle in handles:
            handle.remove()
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
    kinds = [sum(isinstance(m, kind) for _, m in layers) for kind in (_BatchNorm, _DropoutNd)]
    evidence = "; ".join(problems) or (
        f"forward and backward with {kinds[0]} batch normalisations and {kinds[1]} dropouts in "
        "evaluation mode, nothing changed"
    )
    return Check(
        "frozen_while_crafting",
        "FAIL" if problems else "PASS",
        evidence,
        "keep every layer in evaluation mode and every weight frozen while examples are made",
    )
