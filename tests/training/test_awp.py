"""Adversarial weight perturbation against its formula in float64."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from training_cases import ENOUGH, THREAT, bits, draws, small_net, step

from arnas.data.batches import Batch
from arnas.training.awp import perturbed_weights
from arnas.training.losses import pgd_loss, training_examples
from arnas.training.registry import loss_options

SIZE = 0.02


def batch() -> Batch:
    return Batch(torch.rand(6, 1, 4, 4, generator=draws(4)), torch.arange(6) % 3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_kernels_move_along_their_gradients(dtype: torch.dtype) -> None:
    """By a share of their length; on the same examples; and back to the bit."""
    model = small_net().to(dtype).train()
    now = step(model, Batch(batch().x.to(dtype), batch().y), THREAT, ENOUGH, draws(3))
    before, other = copy.deepcopy(model), copy.deepcopy(model)
    x_adv = training_examples(now._replace(generator=draws(3)))
    nn.functional.cross_entropy(other(x_adv), now.batch.y).backward()
    with perturbed_weights(now, pgd_loss, SIZE) as inside:
        assert torch.equal(training_examples(inside), x_adv)
        for p, old, slope in zip(
            model.parameters(), before.parameters(), other.parameters(), strict=True
        ):
            move = SIZE * old.norm() * slope.grad / slope.grad.norm() if p.ndim > 1 else 0 * old
            torch.testing.assert_close(p - old, move.detach(), rtol=1e-4, atol=1e-7)
        raised = nn.functional.cross_entropy(model.eval()(x_adv), now.batch.y)
        assert raised > nn.functional.cross_entropy(before.eval()(x_adv), now.batch.y)
    assert bits(model.state_dict()) == bits(before.state_dict())
    assert all(p.grad is None for p in model.parameters())


def test_a_move_of_nothing_is_no_change() -> None:
    now = step(small_net().train(), batch(), THREAT, ENOUGH, draws(), loss_options("pgd"))
    with perturbed_weights(now, pgd_loss, 0.0) as inside:
        assert inside is now
