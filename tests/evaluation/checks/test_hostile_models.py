"""Checks never raise and leave everything as it was, whatever the model does."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from attack_cases import state_of, world
from broken_models import (
    THREAT,
    Wrapped,
    context_of,
    model_of,
    trained,
)
from check_cases import ATTACK_CHECKS, MODEL_CHECKS, Stated, finish, model_checks, of_model
from torch import Tensor, nn
from torch.nn import functional as F

from arnas.evaluation.checks import CHECKS, run_check
from arnas.evaluation.checks.base import CheckContext, guarded
from arnas.evaluation.result import ROBUST, Check
from arnas.runtime.errors import Preempted


def writes_into_everything(self: nn.Module, inner: nn.Module, x: Tensor) -> Tensor:
    """Change modes, weights, buffers, images and all the global random numbers."""
    self.train()
    self.seen = self.seen + 1
    inner[0].bias.data.add_(0.01)
    inner[0].weight.requires_grad_(True)
    noise = random.random() + np.random.rand() + float(torch.rand(()))
    if not x.requires_grad:
        x.mul_(0.9)
    return inner(x) + noise


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("name", ["cnn_bn", "dropout", "batch_statistics", "hostile"])
def test_model_images_and_random_numbers_are_left_alone(name: str) -> None:
    model = Stated(writes_into_everything) if name == "hostile" else model_of(name)
    model.train()
    list(model.modules())[-1].eval()
    first, second = list(model.parameters())[:2]
    first.requires_grad_(False)
    second.grad = torch.ones_like(second)
    context = of_model(model)
    if name != "hostile":
        finish(context)
    x, y, before, around = context.x.clone(), context.y.clone(), state_of(model), world()
    for check in (*MODEL_CHECKS, *ATTACK_CHECKS):
        run_check(check, context)
        assert state_of(model) == before, check
    assert torch.equal(context.x, x)
    assert torch.equal(context.y, y)
    assert world() == around


@pytest.mark.parametrize(
    "draw",
    [
        lambda x: F.dropout(x, 0.2, training=True),
        lambda x: x * random.random(),
        lambda x: x * float(np.random.rand()),
    ],
)
def test_figures_do_not_depend_on_the_global_random_numbers(
    draw: Callable[[Tensor], Tensor],
) -> None:
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        found.append(model_checks(of_model(Wrapped(trained("cnn"), before=draw).eval())))
    assert found[0] == found[1]
    assert found[0]["determinism"].status == "FAIL"


def test_a_guard_puts_back_what_a_check_leaves() -> None:
    def careless(context: CheckContext) -> Check:
        context.model.train()
        context.model.requires_grad_(False)
        context.model.zero_grad()
        for parameter in context.model.parameters():
            parameter.data.zero_()
        return Check("careless", "PASS", "", "")

    context = context_of("cnn_bn")
    first = next(context.model.parameters())
    first.grad = torch.ones_like(first)
    before = state_of(context.model)
    guarded("careless", careless)(context)
    assert state_of(context.model) == before


def raises(*_: Any) -> Tensor:
    raise RuntimeError("no such kernel\nand a long trace")


HOSTILE: dict[str, tuple[Callable[..., Any], str, str, str]] = {
    "raises": (raises, "logits", "FAIL", "RuntimeError: no such kernel"),
    "tuple": (lambda s, m, x: (m(x), x), "logits", "FAIL", "a tuple"),
    "nothing": (lambda s, m, x: None, "logits", "FAIL", "NoneType"),
    "integers": (lambda s, m, x: m(x).long(), "logits", "FAIL", "int64"),
    "rank one": (lambda s, m, x: m(x)[:, 0], "logits", "FAIL", "shape (128,)"),
    "rank three": (lambda s, m, x: m(x)[:, :, None], "logits", "FAIL", "(128, 10, 1)"),
    "one row": (lambda s, m, x: m(x)[:1], "logits", "FAIL", "shape (1, 10) for 128 images"),
    "no class": (lambda s, m, x: m(x)[:, :0], "logits", "FAIL", "(128, 0)"),
    "one class": (lambda s, m, x: m(x)[:, :1], "logits", "FAIL", "one class only"),
    "few classes": (lambda s, m, x: m(x)[:, :9], "logits", "FAIL", "labels from 0 to 9"),
    "all NaN": (lambda s, m, x: m(x) * math.nan, "logits", "FAIL", "on 360 of 360 images"),
    "infinite": (lambda s, m, x: m(x) * math.inf, "logits", "FAIL", "on 360 of 360 images"),
    "sigmoid": (lambda s, m, x: m(x).sigmoid(), "logits", "WARN", "between 0 and 1"),
    "offset": (lambda s, m, x: m(x) + 1e7, "logits", "WARN", "so large that they are rounded to 1"),
    "no graph": (lambda s, m, x: m(x).detach(), "gradient", "FAIL", "have no gradient"),
    "NumPy": (
        lambda s, m, x: m(torch.from_numpy(x.detach().numpy())),
        "gradient",
        "FAIL",
        "have no gradient",
    ),
    "root of 0": (lambda s, m, x: m(x.sqrt()), "gradient", "FAIL", "64 with NaN or infinity"),
    "counts": (
        lambda s, m, x: m(x) + 0 * s.seen.add_(1),
        "eval_mode",
        "FAIL",
        "1 weights or buffers changed by a pass, such as seen",
    ),
    "new buffer": (
        lambda s, m, x: (setattr(s, "seen", s.seen + 1), m(x))[1],
        "frozen_while_crafting",
        "FAIL",
        "such as seen",
    ),
    "learns": (
        lambda s, m, x: (m[0].bias.data.add_(0.01), m(x))[1],
        "frozen_while_crafting",
        "FAIL",
        "such as inner.0.bias",
    ),
    "in place": (lambda s, m, x: m(x.sub_(0.1)), "eval_mode", "FAIL", "wrote into its images"),
    "wakes up": (
        lambda s, m, x: s.train() and m(x),
        "eval_mode",
        "WARN",
        "10 still in training mode after eval()",
    ),
    "bfloat16 inside": (
        lambda s, m, x: in_bfloat16(m, x),
        "precision",
        "WARN",
        "values in bfloat16 inside the model",
    ),
}


def in_bfloat16(model: nn.Module, x: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return model(x).float()


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_model_gets_a_status_and_no_exception(name: str) -> None:
    act, check, status, figure = HOSTILE[name]
    found = model_checks(of_model(Stated(act)))
    assert found[check].status == status
    assert figure in found[check].evidence
    assert "\n" not in "".join(one.evidence for one in found.values())
    assert all(one.advice for one in found.values() if one.status != "PASS")


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("name", "n"), [*((name, 5) for name in HOSTILE), ("raises", 1), ("all NaN", 1)]
)
def test_attacks_on_a_hostile_model_end_in_a_check(name: str, n: int) -> None:
    context = of_model(Stated(HOSTILE[name][0]))
    context.x, context.y = context.x[:n], context.y[:n]
    stood = torch.full((n,), ROBUST, dtype=torch.uint8)
    context.outcomes, context.x_adv = {"clean": stood, "pgd": stood}, context.x.clone()
    for check in ATTACK_CHECKS:
        found = run_check(check, context)
        assert found.evidence
        assert "\n" not in found.evidence
        if name == "raises" and CHECKS[check].tier == "expensive" and check != "linear_control":
            assert (found.status, found.evidence) == ("FAIL", "RuntimeError: no such kernel")


@pytest.mark.parametrize(
    ("changes", "check", "status", "figure"),
    [
        ({"y": torch.tensor([-1] * 360)}, "logits", "FAIL", "labels from -1 to -1"),
        ({"y": torch.tensor([-1] * 360)}, "gradient", "FAIL", "labels run from -1"),
        ({"y": torch.zeros(3).long()}, "input_range", "FAIL", "360 images, 3 labels"),
        ({"x": torch.rand(360, 3, 8, 8)}, "logits", "FAIL", "RuntimeError"),
        ({"x": torch.rand(0, 1, 8, 8)}, "logits", "SKIP", "no images"),
        ({"model": lambda x: x}, "logits", "FAIL", "AttributeError"),
    ],
)
def test_odd_inputs_get_a_status_too(
    changes: dict[str, Any], check: str, status: str, figure: str
) -> None:
    usual = context_of("cnn")
    fields = {"model": usual.model, "x": usual.x, "y": usual.y} | changes
    context = CheckContext(**fields, threat=THREAT, suite="standard", seed=0, batch_size=128)
    found = model_checks(context)[check]
    assert (found.status, figure in found.evidence) == (status, True), found


def test_a_signal_still_stops_a_check() -> None:
    def stopped(*_: Any) -> Tensor:
        raise Preempted("SIGTERM")

    asked = set(MODEL_CHECKS) - {"epsilon_unit"}  # which asks the model nothing
    for name in asked:
        with pytest.raises(Preempted):
            run_check(name, of_model(Stated(stopped)))
    with pytest.raises(KeyboardInterrupt):
        guarded("one", lambda context: (_ for _ in ()).throw(KeyboardInterrupt))(context_of("cnn"))
