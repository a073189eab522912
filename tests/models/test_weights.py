"""Weight files: the same logits to the last bit, or an error that names the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from arnas.models.registry import MODELS, ModelSpec, build_model
from arnas.models.weight_files import load_weights, save_weights
from arnas.runtime.errors import UserError
from arnas.runtime.files import load_tensors, save_tensors
from arnas.spaces.genotype import Genotype
from arnas.spaces.network import DerivedNetwork
from arnas.spaces.options import SpaceOptions
from arnas.spaces.published import ARNAS

SIZES: dict[str, Any] = {
    "num_classes": 4,
    "image_size": 8,
    "in_channels": 2,
    "channels": 2,
    "cells": 4,
}
SPEC = ModelSpec("arnas", **SIZES)
PROVENANCE = {"dataset": "digits", "epoch": 3, "accuracy": 97.5}


def images(seed: int) -> Tensor:
    return torch.rand(4, 2, 8, 8, generator=torch.Generator().manual_seed(seed))


def trained_model(name: str | Genotype = "arnas", space: SpaceOptions | None = None) -> nn.Module:
    """Return a model whose every parameter and statistic differs from a fresh one."""
    torch.manual_seed(0)
    model = build_model(name, space=space, **SIZES)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
        for seed in range(3):
            model(images(seed))
    return model.eval()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A good weight file."""
    path = tmp_path / "weights.safetensors"
    save_weights(path, trained_model(), SPEC, PROVENANCE)
    return path


def test_logits_are_the_same_to_the_last_bit(path: Path) -> None:
    torch.manual_seed(9)
    model, provenance = load_weights(path)
    assert not any(module.training for module in model.modules())
    assert torch.equal(model(images(7)), trained_model()(images(7)))
    assert provenance == PROVENANCE


def test_a_searched_genotype_travels_with_its_weights(tmp_path: Path) -> None:
    cells = {kind: ARNAS.genotype.cells[kind] for kind in ("robust", "reduction")}
    genotype = Genotype(cells, "a run")
    space = SpaceOptions(kinds=["robust"] * 3, widths=[2, 1, 3])
    model = trained_model(genotype, space)
    path = tmp_path / "weights.safetensors"
    save_weights(path, model, ModelSpec(genotype, space=space, **SIZES), {})
    assert torch.equal(load_weights(path)[0](images(7)), model(images(7)))


@pytest.mark.parametrize("name", MODELS)
def test_every_model_travels_with_its_weights(tmp_path: Path, name: str) -> None:
    entry = MODELS[name]
    sizes = SIZES | {"image_size": max(8, entry.min_image_size), "cells": None}
    if name != "robnet_free" and entry.cells is not None:
        sizes["cells"] = 4
    torch.manual_seed(0)
    model = build_model(name, **sizes).train()
    x = torch.rand(4, 2, sizes["image_size"], sizes["image_size"])
    with torch.no_grad():
        model(x)
        path = tmp_path / "weights.safetensors"
        save_weights(path, model.eval(), ModelSpec(name, **sizes), {})
        assert torch.equal(load_weights(path)[0](x), model(x))


def test_weights_without_the_auxiliary_head_are_those_of_a_model_without_one(
    tmp_path: Path,
) -> None:
    """A head serves the training alone, so a description says nothing of it."""
    model = SPEC.build(auxiliary=True).eval()
    kept = {k: v for k, v in model.state_dict().items() if not k.startswith("auxiliary.")}
    assert len(kept) < len(model.state_dict())
    other = SPEC.build().eval()
    other.load_state_dict(kept)
    path = tmp_path / "weights.safetensors"
    save_weights(path, other, SPEC, {})
    assert torch.equal(load_weights(path)[0](images(7)), model(images(7)))


def test_normalisation_travels_with_the_weights(tmp_path: Path) -> None:
    sizes = {key: value for key, value in SIZES.items() if key != "image_size"}
    torch.manual_seed(0)
    model = DerivedNetwork(
        ARNAS.genotype, ARNAS.space, **sizes, mean=[0.3, 0.4], std=[0.2, 0.5]
    ).eval()
    path = tmp_path / "weights.safetensors"
    save_weights(path, model, SPEC, {})
    assert torch.equal(load_weights(path)[0](images(7)), model(images(7)))


def test_saving_twice_gives_the_same_bytes_and_no_other_file(path: Path) -> None:
    other = path.parent / "again" / "weights.safetensors"
    save_weights(other, trained_model(), SPEC, PROVENANCE)
    assert other.read_bytes() == path.read_bytes()
    assert sorted(other.parent.iterdir()) == [other]


def test_a_foreign_file_has_no_description(path: Path) -> None:
    safetensors.torch.save_file(safetensors.torch.load_file(path), path)
    with (
        pytest.warns(UserWarning, match="records no sha256"),
        pytest.raises(UserError, match=r"weights\.safetensors has no description of its model"),
    ):
        load_weights(path)


def rewrite(path: Path, description: dict[str, Any]) -> None:
    """Give a weight file another description."""
    save_tensors(path, load_tensors(path).tensors, description)


@pytest.mark.parametrize(
    "change",
    [{"channels": 4}, {"cells": 5}, {"cells": 3}, {"num_classes": 5}, {"in_channels": 1}],
    ids=str,
)
def test_weights_that_do_not_fit_are_named(path: Path, change: dict[str, int]) -> None:
    rewrite(path, {"model": SPEC.to_json() | change, "provenance": {}})
    with pytest.raises(UserError, match=r"weights\.safetensors does not fit the model"):
        load_weights(path)


@pytest.mark.parametrize(
    ("description", "words"),
    [
        ({}, "has no description of its model"),
        ({"model": {"model": "arnas"}}, "does not describe a model"),
        ({"model": 3}, "weights"),
    ],
    ids=["empty", "incomplete", "number for a model"],
)
def test_a_description_of_something_else_is_refused(
    path: Path, description: dict[str, Any], words: str
) -> None:
    rewrite(path, description)
    with pytest.raises(UserError, match=words):
        load_weights(path)


def test_other_programs_can_read_the_tensors(path: Path) -> None:
    found = safetensors.torch.load_file(path)
    expected = trained_model().state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
