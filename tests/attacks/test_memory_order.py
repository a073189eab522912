"""The order of memory is measured once for a kind of network, remembered, and changes no result."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from arnas.attacks import memory_order
from arnas.attacks.folding import attack_copy

X = torch.rand(3, 2, 8, 8, generator=torch.Generator().manual_seed(0))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 5)
    ).eval()


class Clock:
    """Times of passes: those of the first network of each pair, the one turned, take `share`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
        self.share, self.passes = 1.0, 0
        monkeypatch.setenv("XDG_CACHE_HOME", str(home))
        monkeypatch.setattr(memory_order, "_seconds", self.seconds)

    def seconds(self, model: nn.Module, x: Tensor) -> float:
        assert len(x) == memory_order.IMAGES
        self.passes += 1
        return self.share if self.passes % 2 else 1.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Clock:
    return Clock(monkeypatch, tmp_path)


@pytest.mark.parametrize("share", [0.5, 0.99])
def test_the_faster_order_is_taken_and_remembered(clock: Clock, share: float) -> None:
    clock.share = share
    model = network()
    copy = attack_copy(model, X)
    assert (copy is not model) == (share < memory_order.CLEARLY)
    assert clock.passes == 2 * (1 + memory_order.ROUNDS)
    if copy is not model:
        assert copy.get_submodule("0").weight.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(copy(X), model(X))
    clock.share = 1 / share
    again = network()
    assert (attack_copy(again, X) is not again) == (copy is not model)
    assert clock.passes == 2 * (1 + memory_order.ROUNDS), "the same network is not measured again"
    other = nn.Sequential(*network(), nn.ReLU())
    attack_copy(other, X)
    assert clock.passes == 4 * (1 + memory_order.ROUNDS), "another one is"


def test_a_home_that_cannot_be_written_to_is_no_error(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    clock.share = 0.5
    model = network()
    assert attack_copy(model, X) is not model


def test_without_a_home_the_choice_is_kept_among_the_temporary_files(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    monkeypatch.setattr(memory_order.tempfile, "gettempdir", lambda: str(tmp_path / "tmp"))
    attack_copy(network(), X)
    assert [path.name for path in tmp_path.iterdir()] == ["tmp"]


def test_double_precision_keeps_its_order(clock: Clock) -> None:
    model = network().double()
    assert attack_copy(model, X.double()) is model
    assert not clock.passes
