"""Parameters and multiplications of networks by formula, without building one.

On C channels a separable convolution of kernel k has 2 (k^2 C + C^2 + 2 C) parameters, a dilated
one half of that, a strided skip C^2 + 2 C, every other skip and every pool none. Of these, 2 C are
the normalisation's and multiply nothing; a RobNet's cells have none of these.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from arnas.spaces.genotype import Genotype


class Size(NamedTuple):
    parameters: int
    macs: int


def operation_weights(name: str, channels: int, stride: int) -> tuple[int, int]:
    """Return the convolution weights of an operation and its normalised channels."""
    if name.startswith(("sep", "dil")):
        kernel = int(name[-1])
        repeats = 2 if name.startswith("sep") else 1
        pair = kernel * kernel * channels + channels * channels
        return repeats * pair, repeats * channels
    if name == "skip_connect" and stride == 2:
        return channels * channels, channels
    return 0, 0


def derived_size(
    genotype: Genotype,
    kinds: list[str],
    widths: list[int],
    *,
    num_classes: int,
    in_channels: int,
    channels: int,
    cells: int,
    image_size: int,
) -> Size:
    """Return the exact size of a network on square images."""
    side = image_size
    older = newer = 3 * channels
    weights = 9 * in_channels * newer
    parameters, macs = weights + 2 * newer, weights * side * side
    for index in range(cells):
        reduces = index in (cells // 3, 2 * cells // 3)
        stage = (index >= cells // 3) + (index >= 2 * cells // 3)
        width = channels * widths[stage]
        weights = (older + newer) * width
        parameters, macs = parameters + weights + 4 * width, macs + weights * side * side
        if reduces:
            side = (side + 1) // 2
        for node in genotype.cells["reduction" if reduces else kinds[stage]]:
            for name, state in node:
                stride = 2 if reduces and state < 2 else 1
                weights, normalised = operation_weights(name, width, stride)
                parameters += weights + 2 * normalised
                macs += weights * side * side
        older, newer = newer, 4 * width
    head = newer * num_classes
    return Size(parameters + head + num_classes, macs + head)


def robnet_size(
    codes: Sequence[str],
    *,
    num_classes: int,
    in_channels: int,
    channels: int,
    image_size: int,
) -> Size:
    """Return the exact size of a RobNet with one code for each cell, from its bits alone."""
    cells, side = len(codes), image_size
    older = newer = 3 * channels
    parameters = 9 * in_channels * newer + 2 * newer
    macs = 9 * in_channels * newer * side * side
    width = channels
    for index, code in enumerate(codes):
        reduces = index in (cells // 3, 2 * cells // 3)
        width *= 2 if reduces else 1
        weights = (older + newer) * width
        parameters, macs = parameters + weights, macs + weights * side * side
        side = (side + 1) // 2 if reduces else side
        edges = [(state, code[2 * e : 2 * e + 2]) for e, state in enumerate(STATES)]
        for state, (identity, separable) in edges:
            weights = 2 * (9 * width + width * width) if separable == "1" else 0
            if identity == "1" and reduces and state < 2:
                weights += width * width
            parameters, macs = parameters + weights, macs + weights * side * side
        older, newer = newer, 4 * width
    return Size(parameters + (newer + 1) * num_classes, macs + newer * num_classes)


STATES = [state for node in range(4) for state in range(node + 2)]
"""State that each of the 14 edges of a cell comes from."""


def wide_size(
    stages: Sequence[tuple[int, int, int]],
    *,
    num_classes: int,
    in_channels: int,
    channels: int,
    image_size: int,
    last_norm: bool,
) -> Size:
    """Return the exact size of a pre-activation network.

    A block from i to o channels has 9 i o + 9 o^2 weights, i o more where it projects, and norms of
    2 i + 2 o; `stages` are width in units of the stem's, blocks and stride.
    """
    side, width = image_size, channels
    parameters = 9 * in_channels * width
    macs = parameters * side * side
    for factor, blocks, first_stride in stages:
        for number in range(blocks):
            outer, stride = factor * channels, 1 if number else first_stride
            side = (side + stride - 1) // stride
            weights = 9 * width * outer + 9 * outer * outer
            weights += width * outer if width != outer or stride != 1 else 0
            parameters += weights + 2 * width + 2 * outer
            macs += weights * side * side
            width = outer
    head = width * num_classes
    return Size(parameters + 2 * width * last_norm + head + num_classes, macs + head)
