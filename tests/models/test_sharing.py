"""Two ranks that share a batch find what one process finds, in float64 up to the order of sums."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from arnas.runtime.files import load_tensors

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "tests/support/sharing_ranks.py"
Found = tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]
"""What a process alone, rank 0 and rank 1 have found."""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as chosen:
        chosen.bind(("127.0.0.1", 0))
        port = str(chosen.getsockname()[1])
    environment = os.environ | {"PYTHONPATH": str(ROOT), "GLOO_SOCKET_IFNAME": "lo"}
    paths = [folder / f"{name}.safetensors" for name in ("alone", "first", "second")]
    processes = [
        subprocess.Popen([sys.executable, PROGRAM, path, *words], env=environment)
        for path, words in zip(paths, ([], ["0", port], ["1", port]), strict=True)
    ]
    assert [process.wait(timeout=300) for process in processes] == [0, 0, 0]
    first, second, third = (load_tensors(path).tensors for path in paths)
    return first, second, third


def worst(found: Found, *words: str) -> float:
    """Return the largest difference from the process alone in what has all words in its name."""
    alone, ranks = found[0], found[1:]
    names = [name for name in alone if all(word in name.split(".") for word in words)]
    assert names
    return max(
        float((alone[name].double() - rank[name].double()).abs().max())
        for name in names
        for rank in ranks
    )


@pytest.mark.parametrize("count", ["7", "1", "2"])
@pytest.mark.parametrize("what", ["eval", "folded", "attack", "logits", "input", "grad", "buffer"])
def test_a_batch_of_any_size_is_shared(found: Found, count: str, what: str) -> None:
    """Also one that leaves a rank without images."""
    assert worst(found, count, what) < 1e-13


@pytest.mark.parametrize(
    "name", ["robnet_large_v1", "preact_resnet18", "densenet121", "mobilenet_v2", "wrn28_10"]
)
def test_other_models_share_a_batch(found: Found, name: str) -> None:
    assert worst(found, "other", name) < 1e-9


@pytest.mark.parametrize("kind", ["itself", "copy"])
@pytest.mark.parametrize("count", ["7", "2"])
def test_both_logits_of_a_head_are_shared(found: Found, kind: str, count: str) -> None:
    """And what they send back."""
    assert worst(found, "auxiliary", kind, count) < 1e-10


@pytest.mark.parametrize("loss", ["pgd", "trades", "iat", "infoat", "jsigr"])
def test_a_training_ends_with_the_same_weights(found: Found, loss: str) -> None:
    """Order of the images, averaged gradients, statistics, selection: all at once."""
    assert worst(found, loss, "last") < 1e-9
    assert worst(found, loss, "history") < 1e-9
    assert worst(found, loss, "selected") == 0


def test_the_ranks_have_the_same_bytes(found: Found) -> None:
    _, first, second = found
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_statistics_of_each_part_would_be_another_training(found: Found) -> None:
    assert worst(found, "7", "parts") > 0.01
