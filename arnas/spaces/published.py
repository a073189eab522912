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

GENOTYPES: dict[str, PublishedGenotype] = {"arnas": ARNAS}
"""Name to published genotype."""
