"""Any model by a text: the same weights under the same digest, or a sentence that says why not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from foreign_cases import SIZES, SMALL, images, refusal, same, stored
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from arnas.models.loading.load import load_model
from arnas.models.registry import ModelSpec, build_model
from arnas.models.weight_files import save_weights
from arnas.models.weights import weights_sha256

PROVENANCE = {
    "run": "mine",
    "dataset": "digits",
    "network": "arnas",
    "seed": 3,
    "loss": "pgd",
    "checkpoint": "selected",
    "epoch": 7,
    "epochs": 9,
    "val_clean": 97.5,
    "val_robust": 61.25,
}
FUZZ = settings(
    max_examples=60,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
ZOO = "mobilenet_v2"


def network(name: str = "arnas", **sizes: Any) -> nn.Module:
    """Return a model with weights that no other seed draws, and statistics of its own."""
    torch.manual_seed(0)
    model = build_model(name, **(sizes or SMALL))
    with torch.no_grad():
        model(torch.rand(4, model.normalise.mean.shape[1], 8, 8))
    return model.eval()


@pytest.fixture(scope="module")
def zoo_model() -> nn.Module:
    return network(ZOO, **SIZES)


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A weight file as the stage `retrain` leaves it."""
    path = tmp_path / "selected.safetensors"
    save_weights(path, network(), ModelSpec("arnas", **SMALL), PROVENANCE)
    return path


# Files of the project's own


def test_a_file_of_a_run_is_rebuilt_with_what_it_says_of_itself(own: Path) -> None:
    found = load_model(str(own), **SIZES)
    assert same(found, network())
    assert (found.name, found.source, found.warnings) == ("arnas", f"{own}, verified", ())
    assert found.info.to_json() == {
        "trained": PROVENANCE,
        "clean_accuracy": 97.5,
        "clean_accuracy_on": "the validation images of digits",
        "selection": "the epoch that was best on the validation images",
        "mean": [0.0, 0.0],
        "std": [1.0, 1.0],
        "model_sha256": found.sha256,
    }
    json.dumps(found.info.to_json())


def test_the_history_beside_the_weights_is_known_if_it_is_theirs(own: Path) -> None:
    rows = [{"epoch": n, "val_clean": 90.0 + n / 2, "val_robust": 50.0 + n} for n in range(1, 10)]
    rows[6] |= {"val_clean": 97.5, "val_robust": 61.25}
    history = own.with_name("history.jsonl")

    def course(lines: list[str]) -> Any:
        history.write_text("\n".join(lines))
        return load_model(str(own)).info.training_history

    lines = [json.dumps(row) for row in rows]
    assert course(lines) == [row["val_robust"] for row in rows]
    assert course(lines[:8]) is None
    assert course([*lines[:3], "{", *lines[4:]]) is None
    assert course([*lines[:3], '{"epoch": 4}', *lines[4:]]) is None
    assert course([*lines[:6], lines[5], *lines[7:]]) is None
    assert course([]) is None


def test_a_file_may_say_more_or_nothing_of_its_training(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    said = {"clean_accuracy": 84.25, "clean_accuracy_on": "the test images of cifar10"}
    origin = {**PROVENANCE, **said, "checkpoint": "last"}
    save_weights(path, network(), ModelSpec("arnas", **SMALL), origin)
    known = load_model(str(path)).info.to_json()
    assert known.items() >= {**said, "selection": "the last epoch"}.items()
    save_weights(path, network(), ModelSpec("arnas", **SMALL), {})
    found = load_model(str(path), **SIZES)
    assert same(found, network()) and found.name == "a"
    assert found.info.to_json().keys() == {"mean", "std", "model_sha256"}


def test_a_folder_stands_for_its_selected_weights(own: Path) -> None:
    other = own.with_name("last.safetensors")
    save_weights(other, build_model("arnas", **SMALL), ModelSpec("arnas", **SMALL), {})
    assert same(load_model(str(own.parent), **SIZES), network())


def test_a_folder_of_several_other_files_is_refused(own: Path) -> None:
    for name in ("one", "two"):
        own.with_name(f"{name}.safetensors").write_bytes(b"")
    own.unlink()
    assert "holds one.safetensors, two.safetensors: name one" in refusal(own.parent)
    for name in ("one", "two"):
        own.with_name(f"{name}.safetensors").unlink()
    assert "is a folder, which holds none" in refusal(own.parent)


def test_a_name_with_a_described_file_is_that_file(own: Path) -> None:
    found = load_model("arnas", weights=own, **SIZES)
    assert same(found, network()) and found.info.selection
    message = refusal("resnet18", weights=own)
    assert "says that its network is 'arnas', not 'resnet18'" in message


@given(share=st.floats(0, 1, exclude_max=True), change=st.integers(1, 255))
@FUZZ
def test_a_changed_byte_or_the_end_of_a_file_of_a_run_is_missed(
    own: Path, share: float, change: int
) -> None:
    data = own.read_bytes()
    place = int(share * len(data))
    changed = data[:place] + bytes([data[place] ^ change]) + data[place + 1 :]
    for damaged in (changed, data[:place]):
        own.write_bytes(damaged)
        assert refusal(own).startswith(f"{own} is ")
    own.write_bytes(data)


# Weights for a name of the zoo


def test_a_name_without_weights_is_refused() -> None:
    assert "a network whose weights are drawn at random" in refusal("arnas")


@pytest.mark.parametrize("form", ["plain", "legacy", "checkpoint", "compiled", "safetensors"])
@pytest.mark.parametrize("classes", [4, None])
def test_the_digest_is_that_of_the_weights_and_not_of_the_file(
    tmp_path: Path, zoo_model: nn.Module, form: str, classes: int | None
) -> None:
    path = stored(tmp_path / "a.pth", zoo_model.state_dict(), form)
    found = load_model(ZOO, weights=path, **{**SIZES, "num_classes": classes})
    assert same(found, zoo_model)
    assert found.name == ZOO and str(path) in found.source
    assert len(found.warnings) == 1
    assert "comes without a recorded sha256 to verify it by" in found.warnings[0]


def test_counters_of_batches_may_be_missing(tmp_path: Path, zoo_model: nn.Module) -> None:
    """Checkpoints of PyTorch 0.3 have no counters of batches, which are not used."""
    tensors = zoo_model.state_dict()
    old = {key: value for key, value in tensors.items() if "num_batches" not in key}
    found = load_model(ZOO, weights=stored(tmp_path / "a.pt", old, "plain"), **SIZES)
    assert torch.equal(found.model(images()), zoo_model(images()))
    assert f"lacks {len(tensors) - len(old)} counters of batches" in found.warnings[1]


def test_weights_of_half_precision_are_told_of(tmp_path: Path, zoo_model: nn.Module) -> None:
    tensors = {
        k: v.half() if v.is_floating_point() else v for k, v in zoo_model.state_dict().items()
    }
    found = load_model(ZOO, weights=stored(tmp_path / "a.pt", tensors, "plain"), **SIZES)
    count = sum(value.dtype == torch.float16 for value in tensors.values())
    assert f"{count} tensors are stored as float16 and used as float32" in found.warnings[1]
    key = "classifier.weight"
    assert torch.equal(found.model.state_dict()[key], tensors[key].float())


def test_weights_that_are_not_finite_are_told_of(tmp_path: Path, zoo_model: nn.Module) -> None:
    tensors = {key: value.clone() for key, value in zoo_model.state_dict().items()}
    tensors["classifier.bias"][0] = torch.nan
    found = load_model(ZOO, weights=stored(tmp_path / "a.pt", tensors, "plain"), **SIZES)
    assert "1 of " in found.warnings[1]
    assert "tensors hold NaN or infinity (classifier.bias)" in found.warnings[1]


@pytest.mark.parametrize(("dtype", "word"), [(torch.int8, "int8"), (torch.complex64, "complex64")])
def test_another_kind_of_numbers_is_refused(
    tmp_path: Path, zoo_model: nn.Module, dtype: torch.dtype, word: str
) -> None:
    tensors = zoo_model.state_dict() | {"classifier.bias": torch.zeros(4, dtype=dtype)}
    message = refusal(ZOO, weights=stored(tmp_path / "a.pt", tensors, "plain"))
    assert f"classifier.bias is {word} where float32 is needed" in message


def test_weights_of_another_network_are_counted_and_named(
    tmp_path: Path, zoo_model: nn.Module
) -> None:
    path = stored(tmp_path / "a.pt", zoo_model.state_dict(), "plain")
    wanted, found = build_model("resnet18", **SIZES).state_dict(), zoo_model.state_dict()
    missing = [k for k in wanted if k not in found and "num_batches" not in k]
    extra = [k for k in found if k not in wanted]
    message = refusal("resnet18", weights=path)
    assert f"{len(missing)} of its {len(wanted)} tensors are missing" in message
    assert f"{', '.join(missing[:3])} and {len(missing) - 3} more" in message
    assert f"{len(extra)} are not its own: {', '.join(extra[:3])}" in message
    key = next(key for key, value in found.items() if value.ndim == 4 and "normalise" not in key)
    tensors = found | {key: torch.zeros(3, 3)}
    message = refusal(ZOO, weights=stored(tmp_path / "b.pt", tensors, "plain"))
    assert f"(1 have another shape: {key} (3, 3) where {tuple(found[key].shape)} is" in message


def test_images_of_more_classes_are_refused_and_of_fewer_told_of(
    tmp_path: Path, zoo_model: nn.Module
) -> None:
    path = stored(tmp_path / "a.pt", zoo_model.state_dict(), "plain")
    message = refusal(ZOO, weights=path, num_classes=10)
    assert "has 4 classes, but the images have 10" in message
    found = load_model(ZOO, weights=path, **{**SIZES, "num_classes": 3})
    assert "has 4 classes, the images have 3" in found.warnings[1]


def test_a_file_that_names_no_network_needs_one(tmp_path: Path, zoo_model: nn.Module) -> None:
    for form in ("plain", "safetensors"):
        path = stored(tmp_path / "a.pt", zoo_model.state_dict(), form)
        message = refusal(path)
        assert f"holds {len(zoo_model.state_dict())} tensors" in message
        assert f"--model NAME --weights {path}" in message
    assert "with weights, the model is a name" in refusal(path, weights=path)


def test_images_of_other_channels_are_refused(own: Path) -> None:
    message = refusal(own, in_channels=3)
    assert f"{own}, verified fails on images of shape (2, 3, 8, 8)" in message


@given(share=st.floats(0, 1, exclude_max=True), change=st.integers(1, 255))
@FUZZ
def test_a_changed_byte_of_a_foreign_file_never_crashes(
    tmp_path: Path, share: float, change: int
) -> None:
    """Of its header, that is: there is nothing to see a changed weight by."""
    tensors = {"a.weight": torch.zeros(2, 2), "b": torch.ones(3)}
    data = bytearray(safetensors.torch.save(tensors))
    header = 8 + int.from_bytes(data[:8], "little")
    data[int(share * header)] ^= change
    path = tmp_path / "a.safetensors"
    path.write_bytes(data)
    refusal(path)


# What names nothing


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("nothing", "there is no 'nothing': allowed are arnas, "),
        ("x" * 5000, "there is no 'xxx"),
        ("a\0b", "there is no 'a"),
        ("", "is a folder, which holds none"),
        ("absent.safetensors", "there is no 'absent.safetensors'"),
    ],
)
def test_what_is_not_there_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: str, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert words in refusal(spec)


@pytest.mark.parametrize("name", ["a.txt", "a", "a.onnx"])
def test_another_ending_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"x" * 100)
    assert "is no weight file by its name" in refusal(tmp_path / name)


@pytest.mark.parametrize("name", ["a.safetensors", "a.pt", "a.txt"])
def test_a_page_in_place_of_weights_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"<!DOCTYPE html><html>Quota exceeded")
    assert "is a web page" in refusal(tmp_path / name)


# Digests


def test_the_digest_sees_every_weight_name_shape_and_dtype() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    digests = {weights_sha256(model)}
    for key in model.state_dict():
        value = model.state_dict()[key]
        kept = value.clone()
        value.view(-1)[-1] += 1
        digests.add(weights_sha256(model))
        value.copy_(kept)
    assert len(digests) == 1 + len(model.state_dict())
    assert weights_sha256(model) in digests
    digests.add(weights_sha256(nn.Sequential(*[nn.Identity(), *model])))
    digests.add(weights_sha256(model.double()))
    assert len(digests) == 3 + len(model.state_dict())


@pytest.mark.parametrize(
    "dtype", [torch.bfloat16, torch.float8_e4m3fn, torch.complex64, torch.bool]
)
def test_every_dtype_has_a_digest(dtype: torch.dtype) -> None:
    model = nn.Module()
    model.register_buffer("a", torch.tensor([0, 1]).to(dtype))
    model.register_buffer("b", torch.zeros(0).to(dtype))
    first = weights_sha256(model)
    model.a = torch.tensor([1, 1]).to(dtype)
    assert weights_sha256(model) != first
