"""Weights as frameworks store them: behind wrappers and prefixes, beside other networks, tied."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from arnas.models.registry import build_model
from arnas.models.weights import load_state_dict_checked
from arnas.runtime.errors import UserError
from arnas.runtime.seeds import seeded
from arnas.spaces.network import Normalise

State = dict[str, Tensor]


def network(seed: int) -> nn.Module:
    with seeded("wrapped", seed):
        return build_model("resnet18", num_classes=4, image_size=8, channels=4)


def behind(prefix: str, model: nn.Module) -> State:
    return {prefix + key: value for key, value in model.state_dict().items()}


def normalised(net: nn.Module) -> nn.Module:
    return nn.Sequential(Normalise([0.5] * 3, [0.2] * 3), net)


STORED: dict[str, tuple[Callable[[nn.Module], State], str]] = {
    "as it is": (lambda net: behind("", net), ""),
    "data parallel": (lambda net: behind("module.", net), ""),
    "averaged": (lambda net: dict(AveragedModel(net).state_dict()), ""),
    "compiled behind a normalisation": (
        lambda net: behind("1._orig_mod.", net) | behind("0.", Normalise([0.0] * 3, [1.0] * 3)),
        "2 tensors are left out, 0.mean, 0.std; used are 1.*",
    ),
    "parallel behind a normalisation": (lambda net: dict(normalised(net).state_dict()), "left out"),
    "beside an attacker": (
        lambda net: behind("module.model.", net) | behind("module.attacker.model.", network(3)),
        "used are model.*",
    ),
}


@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("wrapped", [False, True])
def test_the_network_is_found(stored: str, wrapped: bool) -> None:
    """A factory may return the bare network or one behind a normalisation of its own."""
    source, target = network(1), network(2)
    make, note = STORED[stored]
    model = normalised(target) if wrapped else target
    notes = "; ".join(load_state_dict_checked(model, make(source), "f.pt"))
    for ours, theirs in zip(
        target.state_dict().values(), source.state_dict().values(), strict=True
    ):
        assert torch.equal(ours, theirs)
    if not wrapped:
        assert note in notes
        assert bool(note) == bool(notes)


def test_several_that_fit_are_not_guessed_at() -> None:
    stored = behind("ema.", network(1)) | behind("net.", network(3))
    with pytest.raises(UserError, match="under 'ema' and 'net': choose one of them with --weights"):
        load_state_dict_checked(network(2), stored, "f.pt")


def test_a_part_of_the_weights_is_not_enough() -> None:
    stored = behind("", network(1))
    del stored["classifier.bias"]
    for model in (network(2), normalised(network(2))):
        with pytest.raises(UserError, match=r"1 of its \d+ tensors are missing: .*classifier.bias"):
            load_state_dict_checked(model, stored, "f.pt")


def test_tied_weights_may_be_stored_once() -> None:
    """As safetensors does, which keeps one of the names."""

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
            self.second.weight = self.first.weight

        def forward(self, x: Tensor) -> Any:
            return self.second(self.first(x))

    source, target = Tied(), Tied()
    for dropped in ("first.weight", "second.weight"):
        stored = {key: value for key, value in source.state_dict().items() if key != dropped}
        assert load_state_dict_checked(target, stored, "f.safetensors") == []
        assert torch.equal(target.second.weight, source.first.weight)
