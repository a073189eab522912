"""The batched supernet against the plain one, in float64."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from arnas.attacks.eval_mode import frozen_eval
from arnas.search.supernet import Supernet
from arnas.spaces.options import SearchSpaceOptions
from arnas.spaces.registry import PRIMITIVES
from benchmarks.reference.supernet import Match, PlainSupernet, copy_into, matches

TOLERANCE = 1e-10
CLASSES = 5


class Case(NamedTuple):
    kinds: tuple[str, str, str]
    widths: tuple[int, int, int]
    cells: int
    channels: int
    in_channels: int
    size: tuple[int, int]
    batch: int = 4
    primitives: tuple[str, ...] = PRIMITIVES


OWN = "search_cases:channel_mixer"
ARNAS = ("accurate", "accurate", "robust")
SWAPPED = ("robust", "robust", "accurate")
NORMAL = ("normal", "normal", "normal")
SMALL = Case(ARNAS, (1, 2, 2), 4, 2, 1, (8, 8))
CASES = {
    "arnas": Case(ARNAS, (1, 2, 2), 4, 4, 3, (8, 8)),
    "three_cells_odd": Case(ARNAS, (1, 2, 2), 3, 2, 1, (7, 7)),
    "odd_after_one_halving": Case(NORMAL, (1, 2, 4), 5, 2, 3, (12, 12), batch=3),
    "swapped_to_one_pixel": Case(SWAPPED, (1, 2, 2), 4, 2, 1, (4, 4), batch=6),
    "oblong_and_narrowing": Case(SWAPPED, (2, 1, 3), 4, 2, 2, (6, 9)),
    "odd_channels": Case(ARNAS, (1, 1, 2), 4, 3, 1, (8, 8)),
    "even_then_odd_nine": Case(ARNAS, (1, 1, 1), 4, 2, 3, (9, 9), batch=2),
    "a_subset": SMALL._replace(primitives=("sep_conv_5x5", "avg_pool_3x3", "dil_conv_3x3")),
    "skips_and_one_more": SMALL._replace(primitives=("skip_connect", "sep_conv_3x3")),
    "only_an_own_operation": SMALL._replace(primitives=(OWN,)),
    "an_own_operation_besides": SMALL._replace(primitives=("dil_conv_5x5", OWN, *PRIMITIVES[:4])),
}


def make_pair(case: Case) -> tuple[Supernet, PlainSupernet]:
    """Return both networks in float64 with the same weights, none of them trivial."""
    torch.manual_seed(0)
    space = SearchSpaceOptions(
        kinds=list(case.kinds), widths=list(case.widths), primitives=list(case.primitives)
    )
    sizes = {
        "num_classes": CLASSES,
        "in_channels": case.in_channels,
        "channels": case.channels,
        "cells": case.cells,
    }
    supernet = Supernet(space, **sizes, alpha_scale=1.0, seed=3).double()
    with torch.no_grad():
        supernet.stem[1].weight.uniform_(0.5, 1.5)
        supernet.stem[1].bias.uniform_(-0.5, 0.5)
    oracle = PlainSupernet(case.kinds, case.widths, **sizes, names=case.primitives).double()
    copy_into(supernet, oracle)
    return supernet, oracle


def images(case: Case, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (case.batch, case.in_channels, *case.size)
    return torch.rand(shape, generator=generator, dtype=torch.float64)


def backward(model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return logits and the gradient to the input of a cross-entropy; fill all others."""
    x = x.clone().requires_grad_()
    logits = model(x)
    F.cross_entropy(logits, torch.arange(len(x)) % CLASSES).backward()
    assert x.grad is not None
    return logits.detach(), x.grad


def assert_near(found: Tensor, expected: Tensor, scale: float = 0.0) -> None:
    """Compare relative to the largest entry, or to `scale` where that is larger."""
    assert found.shape == expected.shape
    scale = max(scale, expected.abs().max().item())
    error = (found - expected).abs().max().item()
    assert error <= TOLERANCE * scale


def assert_same_statistics(supernet: Supernet, oracle: PlainSupernet) -> None:
    for match in matches(supernet, oracle):
        own = dict(match.plain.named_buffers())
        other = dict(match.batched.named_buffers())
        for name, statistic in own.items():
            if name == "num_batches_tracked":
                assert torch.equal(other[name], statistic)
            else:
                # The mean of a normalised map is zero up to rounding: its unit is the map's.
                assert_near(other[name][match.rows], statistic, scale=1.0)


def assert_same_gradients(supernet: Supernet, oracle: PlainSupernet) -> None:
    for match in matches(supernet, oracle):
        for name, parameter in match.plain.named_parameters():
            assert_near(getattr(match.batched, name).grad[match.rows], parameter.grad)
    for kind, alpha in oracle.alphas.items():
        if any(cell.kind == kind for cell in oracle.cells):
            assert_near(supernet.alphas[kind].grad, alpha.grad)
        else:
            assert supernet.alphas[kind].grad is None


def assert_same_passes(supernet: Supernet, oracle: PlainSupernet, x: Tensor) -> None:
    """Compare logits, every gradient and the statistics that the pass leaves behind."""
    for model in (supernet, oracle):
        model.zero_grad()
    logits, input_gradient = backward(supernet, x)
    expected_logits, expected_gradient = backward(oracle, x)
    assert_near(logits, expected_logits)
    assert_near(input_gradient, expected_gradient)
    assert_same_gradients(supernet, oracle)
    assert_same_statistics(supernet, oracle)


@pytest.mark.parametrize("name", CASES)
def test_agrees_with_the_plain_supernet(name: str) -> None:
    """With batch statistics first; the running ones that these leave serve evaluation mode."""
    case = CASES[name]
    supernet, oracle = make_pair(case)
    assert_same_passes(supernet, oracle, images(case, 0))
    for model in (supernet, oracle):
        model(images(case, 1))
        model.eval()
    assert_same_passes(supernet, oracle, images(case, 2))


def test_training_steps_keep_both_supernets_together() -> None:
    """Steps along the gradient expose a gradient or statistic that goes to the wrong place."""
    case = CASES["odd_after_one_halving"]
    supernet, oracle = make_pair(case)
    start = supernet.classifier.weight.detach().clone()
    for seed in range(3):
        for model in (supernet, oracle):
            model.zero_grad()
            backward(model, images(case, seed))
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.sub_(parameter.grad, alpha=0.1)
    assert not torch.equal(supernet.classifier.weight, start)
    for match in matches(supernet, oracle):
        for name, parameter in match.plain.named_parameters():
            assert_near(getattr(match.batched, name)[match.rows], parameter)
    assert_same_statistics(supernet, oracle)


def test_matches_cover_every_weight_once() -> None:
    """The comparison above would miss a weight that no edge of the oracle is matched with."""
    supernet, oracle = make_pair(CASES["arnas"])
    covered: Counter[Tensor] = Counter()
    matched: list[Match] = list(matches(supernet, oracle))
    for match in matched:
        for name, parameter in match.plain.named_parameters():
            covered[getattr(match.batched, name)] += parameter.numel()
    assert covered == {weight: weight.numel() for weight in supernet.weights()}
    plain_layers = sum(p.numel() for p in oracle.parameters()) - 3 * 14 * 7
    assert plain_layers == sum(covered.values())
    starts = [(match.batched, match.rows.start) for match in matched if match.rows.start]
    assert len(starts) == len(set(starts))
    assert {m.batched for m in matched} == {
        m for m in supernet.modules() if isinstance(m, nn.Conv2d | nn.BatchNorm2d | nn.Linear)
    }


@pytest.mark.parametrize(("channels", "count"), [(24, 1_882_930), (16, 944_378)])
def test_published_size(channels: int, count: int) -> None:
    supernet = Supernet(
        SearchSpaceOptions(), num_classes=10, in_channels=3, channels=channels, cells=8
    )
    assert sum(weight.numel() for weight in supernet.weights()) == count
    everything = sum(p.numel() for p in supernet.parameters())
    assert everything == count + 3 * 14 * 7


def convolution_macs(model: nn.Module, x: Tensor) -> int:
    """Return the multiplications of all convolutions, from the sizes of their outputs."""
    total = 0

    def count(module: nn.Conv2d, _: object, output: Tensor) -> None:
        nonlocal total
        total += output.numel() * module.weight[0].numel()

    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    hooks = [module.register_forward_hook(count) for module in convolutions]
    model(x)
    for hook in hooks:
        hook.remove()
    return total


def test_batching_edges_adds_no_multiplication() -> None:
    supernet, oracle = make_pair(CASES["arnas"])
    x = images(CASES["arnas"], 0)
    assert convolution_macs(supernet, x) == convolution_macs(oracle, x)


def test_batch_mode_of_an_attack_leaves_statistics_alone() -> None:
    case = CASES["three_cells_odd"]
    supernet, oracle = make_pair(case)
    supernet(images(case, 0))
    before = {name: buffer.clone() for name, buffer in supernet.named_buffers()}
    x = images(case, 1)
    with frozen_eval(supernet, "batch") as model:
        logits, gradient = backward(model, x)
        assert all(p.grad is None for p in supernet.parameters())
    after = dict(supernet.named_buffers())
    assert all(torch.equal(after[name], buffer) for name, buffer in before.items())
    expected_logits, expected_gradient = backward(oracle, x)
    assert_near(logits, expected_logits)
    assert_near(gradient, expected_gradient)


def test_eval_mode_of_an_attack_uses_running_statistics() -> None:
    case = CASES["three_cells_odd"]
    supernet, oracle = make_pair(case)
    for model in (supernet, oracle):
        model(images(case, 0))
    x = images(case, 1)
    with frozen_eval(supernet, "eval") as model:
        logits, _ = backward(model, x)
    assert supernet.training
    assert_near(logits, oracle.eval()(x).detach())
