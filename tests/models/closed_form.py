"""Parameters and multiplications of a derived network by formula, without building one.

On C channels a separable convolution of kernel k has 2 (k^2 C + C^2 + 2 C) parameters, a dilated
one half of that, a strided skip C^2 + 2 C, every other skip and every pool none. Of these, 2 C are
the normalisation's and multiply nothing.
"""

from __future__ import annotations

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
