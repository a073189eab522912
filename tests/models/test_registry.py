"""Models by name, by genotype and by description."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from arnas.data.splits import DatasetInfo
from arnas.models.complexity import count_macs, count_parameters
from arnas.models.loading.load import load_model
from arnas.models.registry import MODELS, ModelSpec, build_model
from arnas.models.weight_files import load_trained, load_weights, save_weights
from arnas.runtime.errors import UserError
from arnas.spaces.genotype import Genotype, save_genotype
from arnas.spaces.options import SpaceOptions
from arnas.spaces.published import ARNAS

SIZES: dict[str, Any] = {
    "num_classes": 10,
    "image_size": 8,
    "in_channels": 1,
    "channels": 4,
    "cells": 5,
}
RENAMED = Genotype(
    {"normal": ARNAS.genotype.cells["robust"], "reduction": ARNAS.genotype.cells["reduction"]},
    "one kind of cell",
)
CLASSIC = SpaceOptions(kinds=["normal"] * 3, widths=[1, 2, 4])


def shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in model.state_dict().items()}


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return build_model("arnas", **SIZES)


def trained(model: nn.Module) -> nn.Module:
    """Return the model in evaluation mode, its running statistics moved off the initial ones."""
    for seed in range(3):
        model.train()(torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(seed)))
    return model.eval()


def test_a_batch_is_its_images_one_by_one(model: nn.Module) -> None:
    model = trained(model).double()
    x = torch.rand(5, 1, 8, 8, dtype=torch.float64)
    one_by_one = torch.cat([model(image[None]) for image in x])
    torch.testing.assert_close(model(x), one_by_one, rtol=1e-12, atol=1e-12)


def test_evaluation_is_deterministic(model: nn.Module) -> None:
    model = trained(model)
    x = torch.rand(3, 1, 8, 8)
    first = model(x)
    state = torch.get_rng_state()
    assert torch.equal(model(x), first)
    assert torch.equal(torch.get_rng_state(), state)


def test_training_draws_nothing_at_random(model: nn.Module) -> None:
    x = torch.rand(3, 1, 8, 8)
    assert torch.equal(model.train()(x), model.train()(x))


@pytest.mark.parametrize("image_size", [4, 5, 7, 8, 12])
def test_logits_of_any_image_size(image_size: int) -> None:
    sizes = SIZES | {"image_size": image_size, "cells": 3}
    x = torch.rand(2, 1, image_size, image_size)
    logits = build_model("arnas", **sizes)(x)
    assert logits.shape == (2, 10)
    assert logits.dtype == torch.float32
    assert logits.isfinite().all()


def test_every_entry_has_a_citation() -> None:
    assert all(entry.citation for entry in MODELS.values())
    assert "arXiv 2405.05502" in MODELS["arnas"].citation


def test_a_genotype_gets_the_published_layout_and_size(model: nn.Module) -> None:
    assert shapes(build_model(ARNAS.genotype, **SIZES)) == shapes(model)
    with torch.device("meta"):
        own = build_model(ARNAS.genotype, num_classes=10)
        assert shapes(own) == shapes(build_model("arnas", num_classes=10))


@pytest.mark.parametrize("as_text", [True, False])
def test_a_genotype_file(tmp_path: Path, as_text: bool) -> None:
    path = tmp_path / "genotype.json"
    save_genotype(path, RENAMED)
    found = build_model(str(path) if as_text else path, space=CLASSIC, **SIZES)
    assert shapes(found) == shapes(build_model(RENAMED, space=CLASSIC, **SIZES))
    assert found.classifier.in_features == 4 * 4 * 4


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_classes": 1}, "num_classes is 1: allowed are 2"),
        ({"in_channels": 0}, "in_channels is 0: allowed are 1"),
        ({"image_size": 3}, "image_size is 3: allowed are 4"),
        ({"channels": 0}, "channels is 0: allowed are 2"),
        ({"cells": 2}, "cells is 2: allowed are 3"),
        ({"cells": 0}, "cells is 0: allowed are 3"),
    ],
    ids=str,
)
def test_impossible_sizes_are_named(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        build_model("arnas", **(SIZES | changes))


def test_a_published_genotype_can_be_laid_out_anew() -> None:
    """ARNAS with its accurate and robust cells exchanged has the counts of the specification."""
    sizes = {**SIZES, "image_size": 8, "in_channels": 1, "channels": 16, "cells": 5}
    space = SpaceOptions(kinds=["robust", "robust", "accurate"])
    found = build_model("arnas", space=space, **sizes)
    assert count_parameters(found) == 84_058
    assert count_macs(found, (1, 8, 8)) == 1_361_536
    with pytest.raises(UserError, match="model 'resnet18' has no cells to lay out"):
        build_model("resnet18", space=space, **SIZES)


@pytest.mark.parametrize("name", ["arnass", "", "genotype.yaml", Path("genotype")])
def test_an_unknown_model_is_named(name: str | Path) -> None:
    with pytest.raises(UserError, match=f"unknown model '{name}': allowed are arnas, .*json"):
        build_model(name, **SIZES)


def test_a_genotype_that_does_not_fit_the_layout_is_named() -> None:
    with pytest.raises(UserError, match=r"one kind of cell .* need accurate, robust"):
        build_model(RENAMED, **SIZES)


@pytest.mark.parametrize(
    ("name", "space"),
    [("arnas", None), (RENAMED, CLASSIC), (ARNAS.genotype, None)],
    ids=["name", "genotype and layout", "genotype"],
)
def test_a_description_builds_the_same_model(
    name: str | Genotype, space: SpaceOptions | None
) -> None:
    spec = ModelSpec(name, space=space, **SIZES)
    assert ModelSpec.from_json(json.loads(json.dumps(spec.to_json())), "x.safetensors") == spec
    found = spec.build()
    assert shapes(found) == shapes(build_model(name, space=space, **SIZES))


GOOD = ModelSpec("arnas", **SIZES).to_json()


def without(key: str) -> dict[str, Any]:
    return {k: v for k, v in GOOD.items() if k != key}


BAD_DESCRIPTIONS: dict[str, Any] = {
    "no model": without("model"),
    "no space": without("space"),
    "no classes": without("num_classes"),
    "unknown key": GOOD | {"depth": 3},
    "text for a number": GOOD | {"num_classes": "10"},
    "fraction": GOOD | {"cells": 5.0},
    "unknown model": GOOD | {"model": "arnass"},
    "unknown option of the space": GOOD | {"space": {"depth": 3}},
    "damaged genotype": GOOD | {"model": {"cells": 3}},
    "nothing": None,
    "a number": 3,
    "a text": "arnas",
}


@pytest.mark.parametrize("description", BAD_DESCRIPTIONS.values(), ids=BAD_DESCRIPTIONS)
def test_a_bad_description_is_refused(description: Any) -> None:
    with pytest.raises(UserError):
        ModelSpec.from_json(description, "x.safetensors").build()


# A function of the user's own

OWN = """
from torch import nn
def make(num_classes, in_channels, width=8):
    return nn.Sequential(nn.Conv2d(in_channels, width, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(width, num_classes))
def sized(**sizes):
    return nn.Sequential(nn.Flatten(), nn.Linear(sizes["image_size"] ** 2, sizes["num_classes"]))
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module of the user's own."""
    monkeypatch.chdir(tmp_path)
    name = f"own_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(OWN)
    return name


def test_a_function_of_the_users_own_gets_the_sizes_that_it_takes(own: str) -> None:
    sizes = {"num_classes": 7, "in_channels": 1, "image_size": 8}
    for function in ("make", "sized"):
        model = build_model(f"{own}:{function}", **sizes)
        assert model(torch.rand(2, 1, 8, 8)).shape == (2, 7)


def test_weights_of_the_users_own_model_come_back(own: str, tmp_path: Path) -> None:
    spec = ModelSpec(f"{own}:make", num_classes=7, in_channels=1, image_size=8)
    model, path = spec.build().eval(), tmp_path / "a.safetensors"
    info = DatasetInfo("mine", "npz", False, 7, 8, 1, 255, "")
    provenance = {"dataset": "mine", "network": "own", "seed": 0, "loss": "pgd", "epoch": 1}
    save_weights(path, model, spec, {**provenance, "val_clean": 50.0})
    found, _ = load_trained(path, info, "own", 0)
    x = torch.rand(2, 1, 8, 8)
    assert torch.equal(found(x), model(x))
    with pytest.raises(UserError, match=f"--model {own}:make --weights"):
        load_weights(path)
    assert torch.equal(load_model(f"{own}:make", weights=path).model(x), model(x))


def test_the_users_own_function_decides_on_its_size(own: str) -> None:
    with pytest.raises(UserError, match="leave out channels, cells, space and auxiliary"):
        build_model(f"{own}:make", num_classes=3, channels=4)
