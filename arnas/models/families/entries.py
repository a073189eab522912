"""The registry's entries of models that were made by hand, each with its citation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from torch import nn

from arnas.models.families.densenet import DenseNet121
from arnas.models.families.mobilenet import MobileNetV2
from arnas.models.families.preact_resnet import PREACT_STAGES, PreActivationNetwork, wide_stages
from arnas.models.families.resnet import ResNet
from arnas.models.families.vgg import VGG16

MIN_IMAGE_SIZE = 4
"""Of most models."""


@dataclass(frozen=True)
class ModelEntry:
    """A registry entry."""

    build: Callable[..., nn.Module]
    """Called with num_classes, in_channels and channels; with cells where the model has some, and
    with auxiliary (the side of the images) where a head is asked for."""
    channels: int
    """Published initial channels."""
    cells: int | None
    """Published number of cells; None where a model has no cells."""
    citation: str
    min_image_size: int = MIN_IMAGE_SIZE
    """Side of the smallest images in pixels that it takes."""
    auxiliary: bool = False
    """Whether it can have an auxiliary head."""


def _by_hand(
    build: Callable[..., nn.Module], channels: int, citation: str, smallest: int = MIN_IMAGE_SIZE
) -> ModelEntry:
    """Return the entry of a model without cells."""
    return ModelEntry(build, channels, None, f"{citation}; CIFAR form", smallest)


def _wide(depth: int, widths: Sequence[int], citation: str) -> ModelEntry:
    """Return the entry of a wide residual network."""
    stages = wide_stages(depth, widths)
    build = partial(PreActivationNetwork, stages, wide=True)
    return ModelEntry(build, 16, None, citation)


_RESNET = "He, Zhang, Ren, Sun, CVPR 2016, arXiv 1512.03385"
_WIDE = "Zagoruyko, Komodakis, Wide Residual Networks, BMVC 2016, arXiv 1605.07146"
_ROBUST_WIDE = (
    "Huang, Wang, Erfani, Gu, Bailey, Ma, Exploring Architectural Ingredients of Adversarially "
    "Robust Deep Neural Networks, NeurIPS 2021, arXiv 2110.03825"
)

BASELINES: dict[str, ModelEntry] = {
    "resnet18": _by_hand(partial(ResNet, (2, 2, 2, 2)), 64, _RESNET),
    "resnet34": _by_hand(partial(ResNet, (3, 4, 6, 3)), 64, _RESNET),
    "preact_resnet18": _by_hand(
        partial(PreActivationNetwork, PREACT_STAGES, wide=False),
        64,
        "He, Zhang, Ren, Sun, Identity Mappings in Deep Residual Networks, ECCV 2016, "
        "arXiv 1603.05027",
    ),
    "densenet121": _by_hand(
        DenseNet121,
        64,
        "Huang, Liu, van der Maaten, Weinberger, Densely Connected Convolutional Networks, "
        "CVPR 2017, arXiv 1608.06993",
        smallest=8,
    ),
    "vgg16_bn": _by_hand(
        VGG16,
        64,
        "Simonyan, Zisserman, Very Deep Convolutional Networks, ICLR 2015, arXiv 1409.1556",
        smallest=32,
    ),
    "mobilenet_v2": _by_hand(
        MobileNetV2,
        32,
        "Sandler, Howard, Zhu, Zhmoginov, Chen, MobileNetV2: Inverted Residuals and Linear "
        "Bottlenecks, CVPR 2018, arXiv 1801.04381",
    ),
    "wrn28_10": _wide(28, (10, 20, 40), _WIDE),
    "wrn34_10": _wide(34, (10, 20, 40), _WIDE),
    "wrn34_12": _wide(34, (12, 24, 48), _WIDE),
    "wrn34_r": _wide(34, (20, 40, 32), _ROBUST_WIDE),
}
"""Name to model."""
