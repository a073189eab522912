"""Networks of the user's own: made, tried on two images, and every mistake in one sentence."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from foreign_cases import SIZES, refusal, stored

from arnas.models.loading.load import load_model
from arnas.runtime.references import is_reference

Write = Callable[[str], str]


@pytest.fixture
def user_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Write a module of the user's own; returns its name."""
    monkeypatch.chdir(tmp_path)
    count = 0

    def write(code: str) -> str:
        nonlocal count
        count += 1
        name = f"own_{tmp_path.name.replace('-', '_')}_{count}"
        (tmp_path / f"{name}.py").write_text(code)
        return name

    return write


LINEAR = """
import torch
from torch import nn
def make():
    torch.manual_seed(5)
    return nn.Sequential(nn.Flatten(), nn.Linear(128, {classes}), nn.Dropout(0.5))
def wrapped():
    return nn.DataParallel(make())
ready = make()
"""


def test_a_network_of_the_users_own_is_made(user_code: Write) -> None:
    module = user_code(LINEAR.format(classes=4))
    found = [load_model(f"{module}:{name}", **SIZES) for name in ("make", "wrapped", "ready")]
    assert len({one.sha256 for one in found}) == 1
    assert found[0].name == f"{module}:make" and found[0].warnings == ()
    assert all(not part.training for one in found for part in one.model.modules())
    assert found[0].info.to_json() == {"model_sha256": found[0].sha256}


def test_a_network_of_the_users_own_takes_weights(user_code: Write, tmp_path: Path) -> None:
    module = user_code(LINEAR.format(classes=4))
    tensors = {"1.weight": torch.ones(4, 128), "1.bias": torch.arange(4.0)}
    path = stored(tmp_path / "a.pt", tensors, "checkpoint")
    found = load_model(f"{module}:make", weights=path, **SIZES)
    assert torch.equal(found.model.state_dict()["1.bias"], torch.arange(4.0))
    other = load_model(f"{module}:make", **SIZES)
    assert found.sha256 != other.sha256
    assert str(path) in found.source and "comes without a recorded sha256" in found.warnings[0]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("nn.Flatten()", "has 128 classes, the images have 4"),
        ("nn.Linear(3, 4)", "fails on images of shape (2, 2, 8, 8)"),
        ("nn.Identity()", "answers images of shape (2, 2, 8, 8) with shape (2, 2, 8, 8)"),
        ("nn.Sequential(nn.Flatten(0))", "with shape (256,)"),
        ("nn.LSTM(8, 4)", "fails on images"),
        ("nn.Sequential(nn.Flatten(), nn.LSTM(128, 4))", "with tuple, needed are logits"),
        ("nn.Sequential(nn.Flatten(), nn.Linear(128, 2))", "has 2 classes, but the images have 4"),
        ("nn.Sequential(nn.Flatten(), nn.LazyLinear(4))", "has no values for '1.weight'"),
        ("nn.Sequential(nn.Flatten(), nn.Linear(128, 4, device='meta'))", "has no values for '1."),
    ],
)
def test_what_a_network_does_is_tried(user_code: Write, body: str, words: str) -> None:
    module = user_code(f"from torch import nn\ndef make():\n    return {body}\n")
    if "128 classes" in words:
        assert words in load_model(f"{module}:make", **SIZES).warnings[0]
    else:
        assert words in refusal(f"{module}:make")


def test_trying_a_network_leaves_the_random_numbers_alone(user_code: Write) -> None:
    module = user_code(
        "import torch\nfrom torch import nn\nclass Noisy(nn.Module):\n"
        "    def forward(self, x):\n        return torch.rand(len(x), 4)\n"
    )
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    load_model(f"{module}:Noisy", **SIZES)
    assert torch.equal(torch.rand(3), expected)


def test_images_need_not_be_square(user_code: Write) -> None:
    module = user_code(LINEAR.format(classes=4))
    load_model(f"{module}:make", num_classes=4, in_channels=2, image_size=(4, 16))
    assert "fails on images" in refusal(f"{module}:make", image_size=(4, 8))


# Mistakes in the text and in the code


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import absent_module_of_nobody", "failed (ModuleNotFoundError: No module named 'absent_"),
        ("def make(:", "failed (SyntaxError: "),
        ("raise ValueError('first\\nsecond')", "failed (ValueError: first); correct the module"),
        ("import sys\nsys.exit(3)", "failed (SystemExit: 3)"),
        ("other = 1", "has no 'make'; correct the name"),
        ("make = 3", "is of type int, allowed are a function that"),
        ("def make():\n    return {}", "returned an object of type dict, allowed is"),
        ("def make():\n    return 'a' + 1", "failed when it was called without arguments (TypeEr"),
        ("def make(depth):\n    return depth", "without arguments (TypeError: make() missing 1"),
        ("def make():\n    raise SystemExit", "without arguments (SystemExit); correct it"),
        ("def make():\n    raise OSError('no\\nfile')", "(OSError: no); correct it"),
        ("def make():\n    return make()", "(RecursionError: maximum recursion depth"),
    ],
)
def test_a_mistake_in_the_code_is_one_sentence(user_code: Write, code: str, words: str) -> None:
    module = user_code(code)
    message = refusal(f"{module}:make")
    assert message.startswith(f"{module}:make") and words in message


def test_what_cannot_be_imported_is_named(user_code: Write) -> None:
    module = user_code("make = 3")
    assert "there is no module 'nobody_has_it' in" in refusal("nobody_has_it:make")
    assert "there is no module 'nobody_has_it' in" in refusal("nobody_has_it.at.all:make")
    assert f"there is no module '{module}.inside'" in refusal(f"{module}.inside:make")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a:b", True),
        ("a.b.c:d.e", True),
        ("netz:größe", True),
        ("a", False),
        ("a:", False),
        (":b", False),
        ("a.:b", False),
        ("a b:c", False),
        ("a:b()", False),
        ("a/b.pt", False),
        ("a:b:c", False),
    ],
)
def test_only_the_form_of_a_factory_is_imported(text: str, expected: bool) -> None:
    assert is_reference(text) is expected


def test_the_path_is_left_as_it_was(user_code: Write) -> None:
    module, before = user_code(LINEAR.format(classes=4)), list(sys.path)
    load_model(f"{module}:make", **SIZES)
    refusal(f"{module}:absent")
    assert sys.path == before


def test_a_method_of_a_class_is_called(user_code: Write) -> None:
    code = LINEAR.format(classes=4) + "class Zoo:\n    first = staticmethod(make)\n"
    assert load_model(f"{user_code(code)}:Zoo.first", **SIZES).warnings == ()


def test_weights_are_read_before_the_code_runs(user_code: Write, tmp_path: Path) -> None:
    module = user_code("raise ValueError('imported')")
    (tmp_path / "a.pt").write_bytes(b"")
    assert "a.pt is empty" in refusal(f"{module}:make", weights=tmp_path / "a.pt")
    assert "there is no 'absent.pt'" in refusal(f"{module}:make", weights=Path("absent.pt"))
