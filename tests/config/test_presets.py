"""The papers' presets: every value has a source, and the released recipe is a switch away."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from arnas.config.load import load_params
from arnas.config.params import Params
from arnas.models.complexity import count_macs, count_parameters
from arnas.models.registry import build_model

FOLDER = Path(__file__).parents[2] / "workflow/presets"
PAPERS = ("cifar10", "cifar10_literal", "cifar10_dsara", "cifar100", "svhn", "tiny_imagenet")
SOURCE = re.compile(r"\b([ADVLT]|V#2|own|arXiv [\d.]+|github\.com/\S+|no effect|released)\b|of A's")
NOT_SOURCED = (
    "name",
    "run.datasets",
    "run.searches",
    "run.searches_on",
    "run.networks_on",
    "supernet",
    "searches",
)
"""Names, choices of cells and empty blocks, which no paper can source."""


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted path and the value of every setting."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from leaves(inner, f"{path}.{key}".lstrip("."))
    else:
        yield path, value


def content(name: str) -> dict[str, Any]:
    return dict(leaves(yaml.safe_load((FOLDER / f"{name}.yaml").read_text())))


def sources(name: str) -> dict[str, str]:
    """Return the comment that belongs to each leaf: on its line, on its block's or just above."""
    found: dict[str, str] = {}
    lines = (FOLDER / f"{name}.yaml").read_text().splitlines()

    def walk(node: yaml.Node, path: str, inherited: str) -> None:
        if not isinstance(node, yaml.MappingNode) or not node.value:
            found[path] = inherited
            return
        for key, inner in node.value:
            line = key.start_mark.line
            last = inner.end_mark.line if inner.end_mark.column else inner.end_mark.line - 1
            one_line = inner.start_mark.line == last
            own = [lines[n] for n in ((line, last) if one_line else (line,))]
            above = lines[line - 1].strip()
            own += [above] if above.startswith("#") else []
            text = " ".join(part.partition("#")[2] for part in own).strip()
            walk(inner, f"{path}.{key.value}".lstrip("."), text or inherited)

    node = yaml.compose("\n".join(lines))
    assert node is not None
    walk(node, "", "")
    return found


@pytest.mark.parametrize("name", PAPERS)
def test_every_value_has_a_source(name: str) -> None:
    comments = sources(name)
    assert set(comments) == set(content(name))
    bare = [
        path
        for path, text in comments.items()
        if path not in NOT_SOURCED and not SOURCE.search(text)
    ]
    assert not bare


def test_a_value_without_a_source_is_found() -> None:
    """The test above looks at the comments, not only at the file."""
    assert not SOURCE.search(sources("digits")["supernet.batch_size"])
    assert SOURCE.search(sources("cifar10")["supernet.weights.momentum"])


SWITCHES = {
    "name": ("cifar10", "cifar10_literal"),
    "supernet.attack.clip": (True, False),
    "supernet.weights.schedule_lead": (0, 1),
    "retrain.cifar10.epochs": (110, 200),
    "retrain.cifar10.milestones": ([99, 104], [99, 149]),
    "retrain.cifar10.clean_forward": (False, True),
    "retrain.cifar10.auxiliary_weight": (0, 0.4),
    "searches.arnas_search.derive.epoch": ("last", 49),
    "retrain.cifar10.selection.by": ("loss", "clean"),
    "retrain.cifar10.selection.first_epoch": (None, 99),
    "retrain.cifar10.selection.last_epoch": (None, 105),
    "retrain.cifar10.augment.cutout": (0, 16),
}
"""What the literal preset changes: the better choice, then the released one."""


def test_the_literal_preset_differs_in_the_switches_only() -> None:
    better, literal = content("cifar10"), content("cifar10_literal")
    found = {
        path: (better.get(path), literal.get(path))
        for path in {*better, *literal}
        if better.get(path) != literal.get(path)
    }
    assert found == SWITCHES
    marked = {path for path, text in sources("cifar10_literal").items() if "as released" in text}
    assert marked == set(SWITCHES) - {"name"}


ARNAS = {
    "threat.cifar10.epsilon": "8/255",
    "supernet.channels": 24,
    "supernet.cells": 8,
    "supernet.batch_size": 32,
    "supernet.attack.steps": 7,
    "supernet.attack.step_size": "2/255",
    "supernet.weights.learning_rate": 0.025,
    "supernet.weights.final_learning_rate": 0.001,
    "supernet.weights.momentum": 0.9,
    "supernet.weights.weight_decay": 3e-4,
    "supernet.weights.gradient_clip": 5,
    "supernet.alphas.learning_rate": 3e-4,
    "supernet.alphas.beta1": 0.5,
    "supernet.alphas.beta2": 0.999,
    "supernet.alphas.weight_decay": 1e-3,
    "supernet.alphas.init_scale": 1e-3,
    "supernet.augment.crop_padding": 4,
    "supernet.augment.flip": True,
    "retrain.cifar10.batch_size": 32,
    "retrain.cifar10.learning_rate": 0.1,
    "retrain.cifar10.momentum": 0.9,
    "retrain.cifar10.weight_decay": 1e-4,
    "retrain.cifar10.gradient_clip": 5,
    "retrain.cifar10.attack.steps": 7,
    "retrain.cifar10.attack.step_size": 0.01,
    "retrain.cifar10.attack.start": "normal",
    "retrain.cifar10.attack.start_scale": 0.001,
    "retrain.cifar10.attack.batch_norm": "eval",
    "retrain.cifar10.augment.crop_padding": 4,
    "retrain.cifar10.augment.flip": True,
}
"""Read in the released code (github.com/fyqsama/ARNAS), typed here a second time."""


@pytest.mark.parametrize("name", ["cifar10", "cifar10_literal", "cifar10_dsara"])
def test_the_recipe_is_that_of_the_released_code(name: str) -> None:
    found = content(name)
    assert {path: found[path] for path in ARNAS} == ARNAS


def test_the_stages_of_both_searches_take_fifty_epochs() -> None:
    for name, search, epochs in (
        ("cifar10", "arnas_search", (0, 50)),
        ("cifar10_dsara", "dsara", (20, 30)),
    ):
        options = load_params(FOLDER / f"{name}.yaml").searches[search]
        assert (options.adversarial.epochs, options.multiobjective.epochs) == epochs
        assert options.multiobjective.combine == "min_norm"
        assert options.multiobjective.adversarial_weight == 0.1


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "cifar100",
            {"epochs": 110, "learning_rate": 0.1, "milestones": [99, 104], "batch_size": 32},
        ),
        (
            "svhn",
            {"epochs": 200, "learning_rate": 0.01, "milestones": [99, 149], "batch_size": 64},
        ),
        (
            "tiny_imagenet",
            {"epochs": 90, "learning_rate": 0.1, "milestones": [30, 60], "batch_size": 26},
        ),
    ],
)
def test_the_recipes_of_transfer(name: str, expected: dict[str, Any]) -> None:
    recipe = load_params(FOLDER / f"{name}.yaml").retrain[name]
    assert {key: getattr(recipe, key) for key in expected} == expected
    assert recipe.auxiliary_weight == 0


def size(params: Params, network: str, image_size: int, classes: int) -> tuple[int, int]:
    options = params.networks[network]
    with torch.device("meta"):
        model = build_model(
            options.model,
            num_classes=classes,
            image_size=image_size,
            channels=options.channels,
            cells=options.cells,
            space=options.space,
        )
    return count_parameters(model), count_macs(model, (3, image_size, image_size))


def test_peers_on_tiny_imagenet_have_the_parameters_of_arnas() -> None:
    params = load_params(FOLDER / "tiny_imagenet.yaml")
    wanted, _ = size(params, "arnas", 64, 200)
    for network in ("advrush", "racl", "pdarts", "darts_v2"):
        found, _ = size(params, network, 64, 200)
        assert abs(found / wanted - 1) < 0.02, network


def test_the_wide_peer_has_the_operations_of_arnas() -> None:
    params = load_params(FOLDER / "cifar10.yaml")
    (_, wanted), (_, found) = (size(params, n, 32, 10) for n in ("arnas", "advrush_wide"))
    assert abs(found / wanted - 1) < 0.02
