"""Peers have the published sizes: one wrong detail of a cell changes the integers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import arnas
from arnas.config.load import load_params
from arnas.models.options import NetworkOptions
from arnas.models.registry import MODELS
from arnas.runtime.errors import UserError

SIZES = {
    "advrush": (4_158_046, 645_337_728),
    "darts_v1": (3_169_414, 500_987_520),
    "darts_v2": (3_349_342, 528_359_040),
    "pdarts": (3_433_798, 532_174_464),
    "pc_darts": (3_634_678, 556_670_592),
    "racl": (3_571_174, 549_979_776),
    "resnet18": (11_173_962, 555_422_720),
}
"""Parameters and multiply-accumulates for 10 classes and 3x32x32 pixels."""

ROOT = Path(__file__).parents[2]
ZOO = load_params(ROOT / "workflow/presets/digits_zoo.yaml").networks


@pytest.mark.parametrize("name", SIZES)
def test_published_size(name: str) -> None:
    model = arnas.build_model(name, num_classes=10)
    assert (arnas.count_parameters(model), arnas.count_macs(model, (3, 32, 32))) == SIZES[name]


@pytest.mark.parametrize(("name", "more"), [("advrush", 51_930), ("resnet18", 46_170)])
def test_a_hundred_classes_add_the_classifier_only(name: str, more: int) -> None:
    model = arnas.build_model(name, num_classes=100)
    assert arnas.count_parameters(model) == SIZES[name][0] + more


def test_scaled_advrush() -> None:
    """23 cells of 96 channels, the size that arXiv 2212.11005 calls AdvRush 7@96."""
    model = arnas.build_model("advrush", num_classes=10, channels=96, cells=23)
    assert arnas.count_parameters(model) == 32_575_018


@pytest.mark.parametrize("name", ZOO)
def test_one_budget_on_digits(name: str) -> None:
    """Within 10 % of ARNAS; ResNet-18 has no width that is, as the preset says."""
    options = ZOO[name]
    model = arnas.build_model(
        options.model,
        num_classes=10,
        image_size=8,
        in_channels=1,
        channels=options.channels,
        cells=options.cells,
    )
    allowed = 0.17 if name == "resnet18" else 0.1
    assert abs(arnas.count_parameters(model) / 85_178 - 1) < allowed


def test_resnet18_is_that_of_torchvision_with_another_stem() -> None:
    torchvision = pytest.importorskip("torchvision")
    ours = arnas.build_model("resnet18", num_classes=10).eval()
    theirs = torchvision.models.resnet18(num_classes=10)
    theirs.conv1 = torch.nn.Conv2d(3, 64, 3, 1, 1, bias=False)
    theirs.maxpool = torch.nn.Identity()
    theirs.load_state_dict(
        dict(
            zip(
                theirs.state_dict(),
                [v for k, v in ours.state_dict().items() if "normalise" not in k],
                strict=True,
            )
        )
    )
    x = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(ours(x), theirs.eval()(x))


@pytest.mark.parametrize("name", MODELS)
def test_every_model_trains_on_small_grey_images(name: str) -> None:
    options = NetworkOptions(model=name, channels=4)
    model = arnas.build_model(
        options.model, num_classes=3, image_size=8, in_channels=1, channels=options.channels
    )
    model(torch.rand(2, 1, 8, 8)).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_resnet18_has_no_cells() -> None:
    with pytest.raises(UserError, match="cells is 5, but resnet18 has no cells"):
        arnas.build_model("resnet18", num_classes=10, cells=5)
