"""The examples of a user's own code run: each becomes a module, and is used by its reference."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from docs_pages import write_modules

from arnas import Threat
from arnas.config.references import referenced_files
from arnas.data.splits import LabelledImages
from arnas.runtime.errors import UserError
from arnas.runtime.progress import silent
from arnas.runtime.references import load_reference
from arnas.search.derive import derive_genotype
from arnas.search.supernet import Supernet
from arnas.spaces.network import DerivedNetwork
from arnas.spaces.options import SearchSpaceOptions
from arnas.training.loop import TrainingData, TrainingTask, train
from arnas.training.options import NetworkOptions, RetrainOptions
from arnas.training.registry import loss_options

PAGE = "how-to/use-your-own-code.md"
SIZES: dict[str, Any] = {"num_classes": 3, "in_channels": 1}
THREAT = Threat("linf", 0.1)


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the modules of the page, each named by its first line."""
    path, before = tmp_path_factory.mktemp("own"), Path.cwd()
    write_modules(PAGE, path)
    os.chdir(path)
    yield path
    os.chdir(before)


def test_the_model_trains_with_the_loss() -> None:
    model = load_reference("mymodels:build")(**SIZES, image_size=8)
    x = torch.randint(0, 256, (12, 1, 8, 8), dtype=torch.uint8)
    images = LabelledImages(x, torch.arange(12) % 3)
    recipe = RetrainOptions(epochs=1, batch_size=4, milestones=[])
    loss = loss_options({"name": "mylosses:smooth_at", "smoothing": 0.1})
    task = TrainingTask(loss, TrainingData(images, images, 255), recipe, THREAT, ("a test",))
    (row,) = train(model, task, silent).history
    assert 0 < row["train_loss"] < 10


def test_the_attack_stays_in_the_ball() -> None:
    model = load_reference("mymodels:build")(**SIZES, image_size=8).eval()
    x = torch.rand(9, 1, 8, 8)
    y = model(x).argmax(1)
    x_adv = load_reference("myattacks:best_of_noise")(model, x, y, THREAT)
    assert (x_adv - x).abs().max() <= THREAT.epsilon + 1e-6
    assert 0 <= x_adv.min() <= x_adv.max() <= 1


def test_the_operation_is_searched_and_derived() -> None:
    primitives = ["skip_connect", "sep_conv_3x3", "myoperations:silu_conv"]
    space = SearchSpaceOptions(primitives=primitives)
    supernet = Supernet(space, **SIZES, channels=2, cells=4)
    x = torch.rand(4, 1, 8, 8)
    supernet(x).sum().backward()
    tables = supernet.tables()
    for table in tables.values():
        table[:, 2] += 1
    genotype = derive_genotype(tables, "a test", primitives)
    assert {e.primitive for node in genotype.cells["robust"] for e in node} == {primitives[2]}
    network = DerivedNetwork(genotype, space.layout(), **SIZES, channels=2, cells=4)
    assert network(x).shape == (4, 3)


def test_the_files_of_references_are_found(folder: Path) -> None:
    network = NetworkOptions(model="mymodels:build", loss="mylosses:smooth_at")
    settings = {"networks": {"own": network}, "attacks": ["pgd20", "myattacks:best_of_noise"]}
    found = referenced_files(settings)
    assert found == [Path(f"{name}.py") for name in ("myattacks", "mylosses", "mymodels")]
    assert referenced_files(NetworkOptions(model="arnas", loss="trades")) == []
    with pytest.raises(UserError, match="there is no module 'nowhere'"):
        referenced_files(["nowhere:f"])


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("return 3", "failed .AttributeError"),
        ("raise ValueError('odd')", r"odd_op:build\(2, 1\) failed .ValueError: odd"),
        ("from torch import nn; return nn.Conv2d(channels, 5, 1)", "keep the channels"),
    ],
)
def test_a_wrong_operation_is_refused(
    body: str, words: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "odd_op", raising=False)
    (folder / "odd_op.py").write_text(f"def build(channels, stride):\n    {body}\n# {words}\n")
    with pytest.raises(UserError, match=words):
        Supernet(SearchSpaceOptions(primitives=["odd_op:build"]), **SIZES, channels=2, cells=3)
