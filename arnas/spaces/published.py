"""Published genotypes, each with its citation. Facts from the papers' released code."""

from __future__ import annotations

from dataclasses import dataclass

from arnas.spaces.genotype import Cell, Edge, Genotype
from arnas.spaces.options import SpaceOptions

_SHORT = {
    "mx": "max_pool_3x3",
    "av": "avg_pool_3x3",
    "sk": "skip_connect",
    "s3": "sep_conv_3x3",
    "s5": "sep_conv_5x5",
    "d3": "dil_conv_3x3",
    "d5": "dil_conv_5x5",
}


def _cell(text: str) -> Cell:
    """Read "op:state op:state / ..." with one group for each node."""
    nodes = []
    for node in text.split("/"):
        pairs = (edge.split(":") for edge in node.split())
        nodes.append(tuple(Edge(_SHORT[name], int(state)) for name, state in pairs))
    return tuple(nodes)


@dataclass(frozen=True)
class PublishedGenotype:
    """A registry entry: the cells, the layout they were made for and the published size."""

    genotype: Genotype
    space: SpaceOptions
    channels: int
    cells: int


ARNAS = PublishedGenotype(
    Genotype(
        {
            "accurate": _cell("sk:0 sk:1 / s5:0 s3:1 / s5:3 s3:1 / s5:4 sk:0"),
            "reduction": _cell("av:1 av:0 / d5:2 av:0 / d5:3 d5:2 / d5:4 d5:3"),
            "robust": _cell("d5:0 d5:1 / d5:1 d5:2 / d3:3 d5:2 / d3:4 d3:3"),
        },
        "Ou, Feng, Sun, Towards Accurate and Robust Architectures via Neural Architecture Search, "
        "CVPR 2024, arXiv 2405.05502; the same cells as DSARA, arXiv 2212.14049",
    ),
    SpaceOptions(),
    channels=64,
    cells=20,
)

DARTS_SPACE = SpaceOptions(kinds=["normal", "normal", "normal"], widths=[1, 2, 4])
"""One kind of cell besides the reduction, and twice the width after each reduction."""


def _normal_and_reduction(normal: str, reduction: str, citation: str) -> PublishedGenotype:
    """Return a genotype of the DARTS space at its usual size on CIFAR-10."""
    cells = {"normal": _cell(normal), "reduction": _cell(reduction)}
    return PublishedGenotype(Genotype(cells, citation), DARTS_SPACE, channels=36, cells=20)


_DARTS = (
    "Liu, Simonyan, Yang, DARTS: Differentiable Architecture Search, ICLR 2019, arXiv 1806.09055"
)

GENOTYPES: dict[str, PublishedGenotype] = {
    "arnas": ARNAS,
    "advrush": _normal_and_reduction(
        "s3:1 s3:0 / s5:0 s3:1 / s3:1 s3:0 / sk:0 s3:1",
        "s3:0 s3:1 / sk:0 d3:2 / sk:0 av:1 / sk:0 sk:2",
        "Mok, Na, Choe, Yoon, AdvRush: Searching for Adversarially Robust Neural Architectures, "
        "ICCV 2021, arXiv 2108.01289",
    ),
    "darts_v1": _normal_and_reduction(
        "s3:1 s3:0 / sk:0 s3:1 / sk:0 s3:1 / s3:0 sk:2",
        "mx:0 mx:1 / sk:2 mx:0 / mx:0 sk:2 / sk:2 av:0",
        f"{_DARTS}; first order",
    ),
    "darts_v2": _normal_and_reduction(
        "s3:0 s3:1 / s3:0 s3:1 / s3:1 sk:0 / sk:0 d3:2",
        "mx:0 mx:1 / sk:2 mx:1 / mx:0 sk:2 / sk:2 mx:1",
        f"{_DARTS}; second order",
    ),
    "pdarts": _normal_and_reduction(
        "sk:0 d3:1 / sk:0 s3:1 / s3:1 s3:3 / s3:0 d5:4",
        "av:0 s5:1 / s3:0 d5:2 / mx:0 d3:1 / d3:1 d5:3",
        "Chen, Xie, Wu, Tian, Progressive Differentiable Architecture Search, ICCV 2019, "
        "arXiv 1904.12760",
    ),
    "pc_darts": _normal_and_reduction(
        "s3:1 sk:0 / s3:0 d3:1 / s5:0 s3:1 / av:0 d3:1",
        "s5:1 mx:0 / s5:1 s5:2 / s3:0 s3:3 / s3:1 s3:2",
        "Xu et al., PC-DARTS: Partial Channel Connections for Memory-Efficient Architecture "
        "Search, ICLR 2020, arXiv 1907.05737; the CIFAR cells",
    ),
    "racl": _normal_and_reduction(
        "s3:0 s3:1 / s5:0 sk:1 / s3:0 sk:3 / s3:3 sk:4",
        "s3:0 s5:1 / av:0 d3:1 / s3:0 s5:1 / s3:2 d3:3",
        "Dong, Li, Wang, Xu, Adversarially Robust Neural Architectures, arXiv 2009.00902",
    ),
}
"""Name to published genotype."""


@dataclass(frozen=True)
class PublishedRobNet:
    """A registry entry: the codes of the cells and the published size."""

    codes: tuple[str, ...]
    """One for all cells, or one for each; see `arnas.spaces.robnet.cell_from_code`."""
    channels: int
    cells: int
    citation: str


_ROBNET = "Guo, Yang, Xu, Liu, Lin, When NAS Meets Robustness, CVPR 2020, arXiv 1911.10695"
_LARGE = "1111111111011101101101010111"
_FREE = """
    1110111110110101101111001101 1100011001001010000111101100 1111110101110100100010100011
    1011100101101001101100000110 1111010010101001100100100111 1110111111011011001001110111
    1111111010011110011010100110 0111111101111111011101111000 1111111111010111100100100111
    1011010011111011011111111100 1110110000001100011000011011 0111011111101011101101111000
    1111101001001011110110100001 0111111101011101011111011010 0111111111010001101011101011
    1111001111010001100011011111 1111011111101110101010101111 1011011111011100111100100001
    1110111111111110110011011111 1111010111110100001000010111
"""

ROBNETS: dict[str, PublishedRobNet] = {
    "robnet_large_v1": PublishedRobNet((_LARGE,), 36, 20, f"{_ROBNET}; released code"),
    "robnet_large_v2": PublishedRobNet((_LARGE,), 64, 33, f"{_ROBNET}; released code"),
    "robnet_free": PublishedRobNet(
        tuple(_FREE.split()), 36, 20, f"{_ROBNET}; released code, a code for each cell"
    ),
}
"""Name to published RobNet."""
