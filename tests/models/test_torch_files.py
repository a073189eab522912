"""Pickled state dicts: the weights and nothing else, or one sentence; no code is ever run."""

from __future__ import annotations

import argparse
import os
import pickle
import re
import struct
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.serialization import config
from torch_file_cases import equal, network, refusal, write

from arnas.models.loading import torch_files
from arnas.models.loading.torch_files import read_state_dict
from arnas.runtime.errors import UserError
from arnas.runtime.files import sha256_file

FUZZ = settings(
    max_examples=100,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
FORMS = pytest.mark.parametrize("archive", [True, False], ids=["archive", "legacy"])


# Read


@FORMS
def test_a_state_dict_is_read_as_it_was_written(tmp_path: Path, archive: bool) -> None:
    wanted = network().state_dict()
    path = write(tmp_path / "a.pt", wanted, archive)
    found = read_state_dict(path)
    assert equal(found.tensors, dict(wanted))
    assert found.sha256 == sha256_file(path)
    assert not found.warnings


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model", "net"])
def test_a_checkpoint_is_searched_for_its_weights(tmp_path: Path, key: str) -> None:
    model = network()
    optimiser = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    content = {key: model.state_dict(), "epoch": 3, "best": 0.5, "name": "it"}
    content |= {"optimizer": optimiser.state_dict(), "rng": torch.get_rng_state()}
    found = read_state_dict(write(tmp_path / "a.pt", content))
    assert equal(found.tensors, dict(model.state_dict()))
    assert not found.warnings


def test_averaged_weights_beside_the_weights_are_told_of(tmp_path: Path) -> None:
    weights = network().state_dict()
    other = {key: value + 1 for key, value in weights.items()}
    found = read_state_dict(write(tmp_path / "a.pt", {"ema": other, "state_dict": weights}))
    assert equal(found.tensors, dict(weights))
    assert "also holds the weights 'ema'" in found.warnings[0]


def test_parameters_become_plain_tensors(tmp_path: Path) -> None:
    path = write(tmp_path / "a.pt", {"w": nn.Parameter(torch.ones(2))})
    found = read_state_dict(path).tensors["w"]
    assert type(found) is Tensor and not found.requires_grad


def test_shared_and_transposed_memory_is_read(tmp_path: Path) -> None:
    wide = torch.arange(6.0).view(2, 3)
    content = {"a": wide, "b": wide.T, "c": wide[1]}
    found = read_state_dict(write(tmp_path / "a.pt", content)).tensors
    assert equal(found, content)


def test_an_archive_without_checksums_is_read_with_a_warning(tmp_path: Path) -> None:
    wanted = network().state_dict()
    with config.patch({"save.compute_crc32": False}):
        path = write(tmp_path / "a.pt", wanted)
    found = read_state_dict(path)
    assert equal(found.tensors, dict(wanted))
    assert "written without checksums" in found.warnings[0]


def test_the_warnings_of_pytorch_are_not_passed_on(tmp_path: Path) -> None:
    path = write(tmp_path / "a.pt", network().state_dict(), archive=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_state_dict(path)


# Code is not run


class Asks:
    """Unpickled by a careless reader, it would call something with some arguments."""

    def __init__(self, call: Callable[..., Any], *arguments: Any) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call, self.arguments


def trap_of(path: Path) -> Asks:
    """Return what would leave a file behind."""
    return Asks(os.system, f"touch '{path}'")


def torch_saved(content: Any, path: Path) -> None:
    write(path, content)


def legacy_saved(content: Any, path: Path) -> None:
    write(path, content, archive=False)


def pickled(protocol: int) -> Callable[[Any, Path], None]:
    return lambda content, path: (path.write_bytes(pickle.dumps(content, protocol)), None)[1]


@pytest.mark.parametrize(
    "save",
    [torch_saved, legacy_saved, *(pickled(protocol) for protocol in range(6))],
    ids=["archive", "legacy", *(f"pickle {protocol}" for protocol in range(6))],
)
@pytest.mark.parametrize("where", ["whole", "value", "beside"])
def test_a_trap_is_not_sprung(
    tmp_path: Path, save: Callable[[Any, Path], None], where: str
) -> None:
    trap, weights = trap_of(tmp_path / "sprung"), {"w": torch.zeros(2)}
    content = {"whole": trap, "value": {"w": trap}, "beside": {"state_dict": weights, "x": trap}}
    path = tmp_path / "a.pt"
    save(content[where], path)
    message = refusal(path)
    assert not (tmp_path / "sprung").exists()
    pickle.loads(pickle.dumps(trap))
    assert (tmp_path / "sprung").exists(), "the trap works"
    if save in {torch_saved, legacy_saved}:  # by their own marks a state dict of PyTorch
        assert "holds the Python object posix.system and not weights alone" in message
        assert "safetensors.torch.save_file" in message


def test_the_environment_cannot_open_the_reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    refusal(write(tmp_path / "a.pt", {"w": trap_of(tmp_path / "sprung")}))
    assert not (tmp_path / "sprung").exists()


@FORMS
@pytest.mark.parametrize(
    ("content", "name"),
    [
        (network(), "torch.nn.modules.batchnorm.BatchNorm2d, torch.nn.modules."),
        ({"state_dict": {}, "args": argparse.Namespace(a=1)}, "argparse.Namespace and not"),
        ({"w": torch.zeros(2), "acc": np.float64(0.5)}, "numpy._core.multiarray.scalar"),
    ],
    ids=["whole model", "arguments", "numpy"],
)
def test_other_python_objects_are_named(
    tmp_path: Path, content: Any, name: str, archive: bool
) -> None:
    message = refusal(write(tmp_path / "a.pt", content, archive))
    assert re.search(rf"holds the Python objects? .*{re.escape(name)}", message)
    assert "not weights alone" in message


@FORMS
def test_memory_is_not_taken_for_a_few_words(tmp_path: Path, archive: bool) -> None:
    """PyTorch's reader makes as many bytes as it is asked for: these would be a terabyte."""
    content = {"w": torch.zeros(2), "x": Asks(bytearray, 10**12)}
    message = refusal(write(tmp_path / "a.pt", content, archive))
    assert "holds the Python object __builtin__.bytearray and not weights alone" in message


def test_several_objects_are_listed(tmp_path: Path) -> None:
    content = {"w": torch.zeros(2), "x": [argparse.Namespace(), np.float64(1), Path("a")]}
    message = refusal(write(tmp_path / "a.pt", content))
    assert re.search(
        r"objects _codecs\.encode, argparse\.Namespace, numpy\.\S+ and \d more", message
    )


@FORMS
def test_endless_instructions_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, archive: bool
) -> None:
    path = write(tmp_path / "a.pt", {"w": torch.zeros(2), "history": [0.5] * 2000}, archive)
    assert "'history', which is of type list" in refusal(path)
    monkeypatch.setattr(torch_files, "MOST_STEPS", 1000)
    assert "it has more than 1000 instructions" in refusal(path)


@FORMS
def test_every_dtype_survives(tmp_path: Path, archive: bool) -> None:
    """Beside what else a checkpoint may hold that is no code."""
    names = "float16 bfloat16 float64 int8 complex64 complex128 bool"
    dtypes = [getattr(torch, name) for name in names.split()]
    # The form of before PyTorch 1.6 has no types for these.
    dtypes += [torch.float8_e4m3fn, torch.uint16] if archive else []
    wanted = {str(dtype): torch.tensor([0, 1, 1]).to(dtype) for dtype in dtypes}
    weights = {**wanted, "p": nn.Parameter(torch.ones(1))}
    beside = {"milestones": Counter([1, 2]), "seen": {1, 2}, "z": 1j, "size": torch.Size([1])}
    content = {"state_dict": weights, **beside}
    found = read_state_dict(write(tmp_path / "a.pt", content, archive)).tensors
    for name, value in wanted.items():
        assert found[name].dtype == value.dtype
        assert torch.equal(found[name].view(torch.uint8), value.view(torch.uint8))


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_plain_pickle_of_weights_is_refused(tmp_path: Path, protocol: int) -> None:
    (tmp_path / "a.pt").write_bytes(pickle.dumps({"w": torch.zeros(2)}, protocol))
    message = refusal(tmp_path / "a.pt")
    assert "not written by `torch.save` (it begins in another way)" in message


@FORMS
def test_later_protocols_are_named(tmp_path: Path, archive: bool) -> None:
    path = tmp_path / "a.pt"
    weights = {"w": torch.zeros(2)}
    torch.save(weights, path, pickle_protocol=4, _use_new_zipfile_serialization=archive)
    assert "(it is pickled in protocol 4 or later, and 2 is read)" in refusal(path)


# Damaged files


@FORMS
@given(share=st.floats(0, 1, exclude_max=True))
@FUZZ
def test_a_truncated_file_is_refused(tmp_path: Path, archive: bool, share: float) -> None:
    data = write(tmp_path / "a.pt", network().state_dict(), archive).read_bytes()
    cut = tmp_path / "cut.pt"
    cut.write_bytes(data[: int(share * len(data))])
    refusal(cut)


@FORMS
@given(share=st.floats(0, 1, exclude_max=True), change=st.integers(1, 255))
@FUZZ
def test_a_changed_byte_is_refused_or_harmless(
    tmp_path: Path, archive: bool, share: float, change: int
) -> None:
    """A legacy file has no checksums: a changed weight cannot be seen."""
    wanted = network().state_dict()
    data = bytearray(write(tmp_path / "a.pt", wanted, archive).read_bytes())
    data[int(share * len(data))] ^= change
    (tmp_path / "b.pt").write_bytes(data)
    try:
        found = read_state_dict(tmp_path / "b.pt").tensors
    except UserError as error:
        assert "\n" not in str(error)
    else:
        assert all(isinstance(value, Tensor) for value in found.values())
        assert not archive or equal(found, dict(wanted))


def test_a_changed_weight_of_an_archive_is_noticed(tmp_path: Path) -> None:
    path = write(tmp_path / "a.pt", {"w": torch.full((100,), 1.5)})
    data = path.read_bytes()
    place = data.index(struct.pack("<f", 1.5) * 100)
    path.write_bytes(data[: place + 41] + bytes([data[place + 41] ^ 1]) + data[place + 42 :])
    torch.load(path, weights_only=True)  # PyTorch does not
    assert "is damaged or incomplete (Bad CRC-32" in refusal(path)


# Contents that are no weights


def quantised() -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.quantize_per_tensor(torch.zeros(3), 1.0, 0, torch.qint8)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (quantised(), "a quantised tensor"),
        (torch.eye(3).to_sparse(), "a sparse or nested tensor"),
        (torch.zeros(3, device="meta"), "a tensor without values, on the device meta"),
        (3, "of type int and no tensor"),
        ([torch.zeros(2)], "of type list and no tensor"),
    ],
    ids=["quantised", "sparse", "meta", "number", "list"],
)
def test_what_is_no_ordinary_tensor_is_named(tmp_path: Path, value: Any, words: str) -> None:
    message = refusal(write(tmp_path / "a.pt", {"fine": torch.zeros(2), "odd": value}))
    assert f"holds 'odd', which is {words}" in message


def test_a_tensor_that_repeats_one_value_forever_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.pt", {"w": torch.zeros(1).expand(10**12)})
    assert path.stat().st_size < 5000
    assert "claims to hold 4000000000000" in refusal(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([1, 2], "holds an object of type list"),
        (torch.zeros(3), "holds an object of type Tensor"),
        ({}, "holds no state dict but nothing"),
        ({"epoch": 3, "lr": 0.1}, "holds no state dict but 'epoch', 'lr'"),
        ({1: torch.zeros(2)}, "holds no state dict but 'int'"),
        ({"optimizer": {"state": {}, "param_groups": []}}, "no state dict but 'optimizer'"),
        (
            {"model": {"w": torch.zeros(1)}, "net": {"w": torch.ones(1)}},
            "holds weights under 'model', 'net'",
        ),
    ],
)
def test_a_file_without_one_state_dict_is_refused(tmp_path: Path, content: Any, words: str) -> None:
    assert words in refusal(write(tmp_path / "a.pt", content))
