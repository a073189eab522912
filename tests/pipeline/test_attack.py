"""What names the state of an evaluation: a cut one is only continued by the very same model."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from arnas.pipeline.attack import EvalConfig, load_target

CODE = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, mean, act):
        super().__init__()
        torch.manual_seed(0)
        self.mean, self.act = mean, act
        self.layers = nn.ModuleList([nn.Linear(64, 32), nn.Linear(32, 10)])

    def forward(self, x):
        return self.layers[1](self.act(self.layers[0]((x - self.mean).flatten(1))))


def build():
    return Net({mean}, {act})
"""


@pytest.fixture
def key_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.chdir(tmp_path)

    def key(code: str) -> str:
        Path("own_network.py").write_text(code)
        sys.modules.pop("own_network", None)
        config = EvalConfig("own_network:build", "digits", "linf:0.1", "fgsm", count=20)
        return load_target(config).key

    return key


def test_models_with_the_same_weights_are_told_apart(key_of: object) -> None:
    """By constants that are no buffers, by another activation, and by edited code."""
    assert callable(key_of)
    code = CODE.replace("{mean}", "0.5").replace("{act}", "torch.relu")
    others = [
        CODE.replace("{mean}", "0.25").replace("{act}", "torch.relu"),
        CODE.replace("{mean}", "0.5").replace("{act}", "torch.tanh"),
        code.replace("return Net", "# the same\n    return Net"),
    ]
    assert key_of(code) == key_of(code)
    assert len({key_of(text) for text in (code, *others)}) == 4
