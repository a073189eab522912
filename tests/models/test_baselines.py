"""Models made by hand against torchvision's and against a second writing."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torchvision
from closed_form import wide_size
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_models import PlainWide, copied, moved, plain_mobile
from torch import nn

from arnas.models.complexity import count_macs, count_parameters
from arnas.models.families.mobilenet import InvertedResidual
from arnas.models.families.preact_resnet import PreActivationBlock, PreActivationNetwork
from arnas.models.registry import MODELS, build_model

X = torch.rand(2, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
BY_HAND = [name for name, entry in MODELS.items() if entry.cells is None]


def ours(name: str, channels: int) -> nn.Module:
    torch.manual_seed(0)
    return moved(build_model(name, num_classes=10, channels=channels))


def same(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert found.std() > 1e-4, "the logits tell the images and classes apart"
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


def shapes(model: nn.Module) -> list[torch.Size]:
    return [v.shape for k, v in model.state_dict().items() if not k.startswith("normalise.")]


@pytest.mark.parametrize("name", ["resnet18", "resnet34"])
def test_a_resnet_is_that_of_torchvision_with_another_stem(name: str) -> None:
    theirs = getattr(torchvision.models, name)(num_classes=10)
    theirs.conv1, theirs.maxpool = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.Identity()
    model = ours(name, 64)
    same(model(X), copied(model, theirs)(X))


def test_vgg_is_that_of_torchvision_with_one_linear_layer() -> None:
    vgg = torchvision.models.vgg
    model = ours("vgg16_bn", 8)
    widths = [v if v == "M" else v // 8 for v in vgg.cfgs["D"]]
    theirs = nn.Sequential(
        vgg.make_layers(widths, batch_norm=True), nn.Flatten(), nn.Linear(64, 10)
    )
    same(model(X), copied(model, theirs)(X))


@pytest.mark.parametrize("channels", [8, 12])
def test_densenet_is_that_of_torchvision_with_another_stem(channels: int) -> None:
    theirs = torchvision.models.DenseNet(
        growth_rate=channels // 2,
        block_config=(6, 12, 24, 16),
        num_init_features=channels,
        num_classes=10,
    )
    theirs.features.conv0 = nn.Conv2d(3, channels, 3, padding=1, bias=False)
    for name in ("norm0", "relu0", "pool0"):
        setattr(theirs.features, name, nn.Identity())
    model = ours("densenet121", channels)
    same(model(X), copied(model, theirs)(X))


@pytest.mark.parametrize("channels", [4, 8])
def test_mobilenet_is_that_of_its_table(channels: int) -> None:
    model = ours("mobilenet_v2", channels)
    same(model(X), plain_mobile(model.state_dict(), channels, X))


@pytest.mark.parametrize(("width", "stride"), [(6, 1), (6, 2), (9, 2)])
def test_a_block_of_mobilenet_is_that_of_torchvision(width: int, stride: int) -> None:
    """Wherever the CIFAR form has no shortcut of its own, but for ReLU instead of ReLU6."""
    torch.manual_seed(0)
    own = moved(InvertedResidual(6, width, 6, stride))
    theirs = copied(own, torchvision.models.mobilenetv2.InvertedResidual(6, width, stride, 6))
    for module in list(theirs.modules()):
        if isinstance(module, nn.Sequential) and isinstance(module[-1], nn.ReLU6):
            module[-1] = nn.ReLU()
    x = 20 * torch.randn(2, 6, 7, 7, dtype=torch.float64)
    same(own(x), theirs(x))


@pytest.mark.parametrize(
    ("name", "widths", "blocks"),
    [
        ("wrn28_10", (10, 20, 40), 4),
        ("wrn34_10", (10, 20, 40), 5),
        ("wrn34_12", (12, 24, 48), 5),
        ("wrn34_r", (20, 40, 32), 5),
    ],
)
def test_wide_networks_are_the_plain_ones(name: str, widths: tuple[int, ...], blocks: int) -> None:
    model = ours(name, 2)
    plain = copied(model, PlainWide(2, [2 * width for width in widths], blocks, 10))
    x = X[:, :, ::2, ::2]
    same(model(x), plain(x))


def test_the_robust_wide_network_has_stages_of_320_640_and_512_channels() -> None:
    with torch.device("meta"):
        own = build_model("wrn34_r", num_classes=10)
        plain = PlainWide(16, (320, 640, 512), 5, 10)
    assert shapes(own) == shapes(plain)
    layers = [type(module) for module in own.modules()]
    assert (layers.count(nn.Conv2d), layers.count(nn.BatchNorm2d)) == (34, 31)
    groups = [sum(p.numel() for b in own.blocks[i : i + 5] for p in b.parameters())
              for i in (0, 5, 10)]  # fmt: skip
    assert groups == [8_351_392, 35_237_760, 24_520_960]


def test_fewer_blocks_in_the_last_stage() -> None:
    """The depth study of arXiv 2110.03825 on WRN-34-10: 5 to 1 blocks in the last stage."""
    found = []
    for blocks in range(5, 0, -1):
        stages = [(10, 5, 1), (20, 5, 2), (40, blocks, 2)]
        with torch.device("meta"):
            model = PreActivationNetwork(
                stages, num_classes=10, in_channels=3, channels=16, wide=True
            )
        found.append(count_parameters(model))
    assert found == [46_160_474, 38_785_114, 31_409_754, 24_034_394, 16_659_034]


def test_preact_resnet_is_the_plain_one() -> None:
    model = ours("preact_resnet18", 4)
    plain = PlainWide(4, (4, 8, 16, 32), 2, 10, last_norm=False)
    same(model(X), copied(model, plain)(X))


def test_a_stride_alone_projects_the_input_itself() -> None:
    block = moved(PreActivationBlock(4, 4, 2))
    nn.init.zeros_(block.residual[3].weight)
    x = torch.randn(2, 4, 6, 6, dtype=torch.float64)
    expected = torch.einsum("oi,nihw->nohw", block.shortcut.weight[:, :, 0, 0], x[:, :, ::2, ::2])
    same(block(x), expected)


def test_wide_networks_draw_their_own_weights() -> None:
    """Normal with variance 2 / (k^2 C_out), and no biases."""
    torch.manual_seed(0)
    model = build_model("wrn28_10", num_classes=10, channels=4)
    checked = 0
    for module in model.requires_grad_(False).modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 10_000:
            deviation = math.sqrt(2 / (module.kernel_size[0] ** 2 * module.out_channels))
            assert float(module.weight.std()) == pytest.approx(deviation, rel=0.03)
            fourth = float((module.weight**4).mean()) / deviation**4
            assert fourth == pytest.approx(3, rel=0.1), "normal, where uniform has 1.8"
            checked += 1
    assert checked > 15
    assert not model.classifier.bias.any()


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 5), st.integers(1, 3), st.integers(1, 2)), min_size=1, max_size=4
    ),
    st.integers(2, 6),
    st.integers(2, 20),
    st.integers(1, 3),
    st.integers(5, 20),
    st.booleans(),
)
def test_any_pre_activation_network_has_the_closed_form_size(
    rows: list[tuple[int, int, int]],
    channels: int,
    num_classes: int,
    in_channels: int,
    side: int,
    wide: bool,
) -> None:
    sizes = {"num_classes": num_classes, "in_channels": in_channels, "channels": channels}
    model = PreActivationNetwork(rows, wide=wide, **sizes)
    expected = wide_size(rows, image_size=side, last_norm=wide, **sizes)
    assert count_parameters(model) == expected.parameters
    assert count_macs(model, (in_channels, side, side)) == expected.macs


@pytest.mark.parametrize("name", BY_HAND)
@pytest.mark.parametrize(("in_channels", "side"), [(1, 8), (3, 16), (1, 64)])
def test_any_channels_and_image_size(name: str, in_channels: int, side: int) -> None:
    side = max(side, MODELS[name].min_image_size)
    sizes: dict[str, Any] = {"image_size": side, "in_channels": in_channels}
    with torch.device("meta"):
        model = build_model(name, num_classes=7, channels=3, **sizes).eval()
        logits = model(torch.rand(2, in_channels, side, side))
        assert model(torch.rand(0, in_channels, side, side)).shape == (0, 7)
    assert logits.shape == (2, 7)


@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_and_pixel_receives_a_gradient(name: str) -> None:
    torch.manual_seed(0)
    side = max(8, MODELS[name].min_image_size)
    model = build_model(name, num_classes=5, image_size=side, in_channels=1, channels=8).double()
    x = torch.rand(6, 1, side, side, dtype=torch.float64, requires_grad=True)
    model(x).square().sum().backward()
    assert not [n for n, p in model.named_parameters() if p.grad is None]
    assert x.grad is not None
    assert (x.grad.abs().sum((0, 1)) > 0).all()
