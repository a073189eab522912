"""The checks before the attack: each broken model raises its own flag, no honest one any."""

from __future__ import annotations

import copy
import re
import time

import pytest
import torch
from broken_models import (
    BROKEN,
    HONEST,
    context_of,
    images_of,
    trained,
)
from check_cases import Stated, model_checks, odd_ones, of_model, on_digits
from torch import Tensor, nn

from arnas.evaluation.checks import run_check


@pytest.mark.parametrize("name", HONEST)
def test_an_honest_network_raises_no_flag(name: str) -> None:
    assert odd_ones(context_of(name)) == {}


def test_batches_smaller_than_the_images_compared_raise_no_flag() -> None:
    context = context_of("cnn")
    context.batch_size = 8
    assert run_check("batch_size_invariance", context).status == "PASS"


EXPECTED = {
    "logits_1000": {"logits": "FAIL", "gradient": "FAIL"},
    "quantiser": {"gradient": "FAIL", "finite_differences": "FAIL"},
    "straight_through": {"finite_differences": "FAIL"},
    "dropout": {"determinism": "FAIL", "batch_size_invariance": "SKIP"},
    "softmax": {"logits": "FAIL"},
    "log_softmax": {"logits": "WARN"},
    "detached_branch": {"finite_differences": "FAIL"},
    "nan_head": {"logits": "FAIL", "gradient": "FAIL"},
    "constant": {
        "above_chance": "FAIL",
        "logits": "FAIL",
        "gradient": "FAIL",
        "finite_differences": "SKIP",
    },
    "two_classes": {"logits": "WARN"},
    "three_classes": {"logits": "WARN"},
    "batch_statistics": {
        "batch_size_invariance": "FAIL",
        "frozen_while_crafting": "FAIL",
        "finite_differences": "FAIL",
    },
    "normalisation_outside": {"input_range": "FAIL"},
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_model_raises_its_own_flags_and_no_others(name: str) -> None:
    assert odd_ones(context_of(name)) == EXPECTED[name]


@pytest.mark.parametrize("name", ["cnn", "robust_cnn"])
def test_all_twelve_take_less_than_two_seconds_of_a_core(name: str) -> None:
    context = context_of(name)
    start = time.process_time()
    model_checks(context)
    assert time.process_time() - start < 2


def test_a_model_in_training_mode_is_a_warning_and_is_put_back() -> None:
    context = context_of("cnn_bn")
    context.model.train()
    found = model_checks(context)
    assert found["eval_mode"].status == "WARN"
    modules = len(list(context.model.modules()))
    assert f"{modules} of {modules} submodules handed over" in found["eval_mode"].evidence
    assert all(module.training for module in context.model.modules())
    assert odd_ones(context) == {"eval_mode": "WARN"}


class Deaf(nn.Module):
    """Does not hear eval()."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        super().train(True)

    def train(self, mode: bool = True) -> Deaf:
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


def test_layers_that_do_not_hear_eval_fail_it() -> None:
    found = model_checks(of_model(Deaf(trained("cnn_bn"))))
    assert found["eval_mode"].status == "FAIL"
    assert found["determinism"].status == "FAIL"
    assert found["frozen_while_crafting"].status == "FAIL"
    assert "3 layers in training mode" in found["frozen_while_crafting"].evidence
    # A dropout leaves nothing behind that would have changed.
    assert (
        model_checks(of_model(Deaf(nn.Sequential(trained("cnn"), nn.Dropout(0.1)))))[
            "eval_mode"
        ].status
        == "FAIL"
    )
    assert model_checks(of_model(Deaf(trained("cnn"))))["eval_mode"].status == "WARN"


def test_batches_are_compared_image_by_image() -> None:
    shifted = Stated(lambda s, m, x: m(x) + len(x) * torch.arange(10.0) / 10)
    x, _ = images_of("cnn")
    with torch.no_grad():
        logits = shifted(x[:128])
    size = float((logits - logits.mean(1, keepdim=True)).abs().amax(1).median())
    figure = run_check("batch_size_invariance", of_model(shifted)).evidence
    ones, sevens = (float(n) for n in re.findall(r"differ by (\S+)", figure))
    # Each logit moves by its number times the difference of the batch sizes over ten.
    assert ones == pytest.approx(0.9 * 127 / size, rel=0.06)
    # 32 images in sevens: the last four make the smallest batch.
    assert sevens == pytest.approx(0.9 * 124 / size, rel=0.06)


def test_rounding_that_differs_between_batches_is_a_warning() -> None:
    drift = Stated(lambda s, m, x: m(x) * (1 + 1e-5 * len(x)))
    found = run_check("batch_size_invariance", of_model(drift))
    assert (found.status, "0 predictions change" in found.evidence) == ("WARN", True)


@pytest.mark.parametrize(
    ("noise", "expectation", "status"),
    [
        (1e-8, 1, "PASS"),
        (3e-5, 1, "WARN"),
        (1e-2, 1, "FAIL"),
        (1e-2, 20, "WARN"),
        (0.0, 20, "PASS"),
    ],
)
def test_determinism_tells_rounding_from_randomness(
    noise: float, expectation: int, status: str
) -> None:
    random_one = Stated(lambda s, m, x: m(x) * (1 + noise * torch.rand(len(x), 10)))
    context = of_model(random_one, expectation=expectation)
    found = run_check("determinism", context)
    assert found.status == status
    assert ("randomised, evaluated with EoT 20" in found.evidence) == (
        noise > 0 and expectation == 20
    )


def test_a_random_model_judged_by_expectation_has_no_failure() -> None:
    found = odd_ones(context_of("dropout", expectation=20))
    assert found == {"determinism": "WARN", "batch_size_invariance": "SKIP"}


def test_weights_in_bfloat16_are_compared_with_float32() -> None:
    fine = of_model(trained("cnn").bfloat16())
    fine.x = fine.x.bfloat16()
    found = run_check("precision", fine)
    assert found.status == "WARN"
    assert "weights in bfloat16" in found.evidence
    assert re.search(r"; [0-2] of 256 predictions change in float32", found.evidence)
    # Shifted so far that bfloat16 holds few of the logits' digits.
    coarse = copy.deepcopy(fine)
    with torch.no_grad():
        coarse.model[-1].bias.add_(2000)
    assert run_check("precision", coarse).status == "FAIL"


def test_autocast_and_shortened_products_are_seen_and_stay_on() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        found = on_digits("precision")
        assert torch.is_autocast_enabled("cpu")
    assert (found.status, found.evidence.startswith("autocast; ")) == ("WARN", True)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        found = on_digits("precision")
        assert on_digits("batch_size_invariance").status == "PASS"
        assert torch.get_float32_matmul_precision() == "medium"
        assert torch.backends.mkldnn.matmul.fp32_precision == "bf16"
    finally:
        torch.set_float32_matmul_precision(before)
    assert (found.status, found.evidence.startswith("products in bf16; ")) == ("WARN", True)
    assert on_digits("precision").status == "PASS"


def test_networks_that_cannot_be_copied_are_checked_all_the_same() -> None:
    scripted = torch.jit.trace(trained("cnn"), torch.rand(2, 1, 8, 8))
    assert odd_ones(of_model(scripted)) == {}
    normed = nn.utils.weight_norm(trained("cnn")[0])
    model = trained("cnn")
    model[0] = normed
    assert odd_ones(of_model(model)) == {}
