"""The operations of the search space, without torch: names, how to build and how to draw them.

An operation is an entry here, or a function of the user's own that is named
``package.module:function`` and called with channels and stride.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from arnas.runtime.references import is_reference

Family = Literal["pool", "skip", "separable", "dilated"]


@dataclass(frozen=True)
class Primitive:
    """What is known of an operation."""

    function: str
    """Reference to a function of channels, stride, kernel and affine; see `build_operation`."""
    family: Family
    """Operations that the supernet evaluates together."""
    kernel: int
    label: str
    """Its name in drawings."""
    colour: str


_BUILDERS = "arnas.spaces.primitives"

OPERATIONS: dict[str, Primitive] = {
    "max_pool_3x3": Primitive(f"{_BUILDERS}:max_pool", "pool", 3, "max pool 3", "#b45f06"),
    "avg_pool_3x3": Primitive(f"{_BUILDERS}:average_pool", "pool", 3, "avg pool 3", "#e69138"),
    "skip_connect": Primitive(f"{_BUILDERS}:skip", "skip", 1, "skip", "#777777"),
    "sep_conv_3x3": Primitive(f"{_BUILDERS}:separable", "separable", 3, "sep 3", "#6fa8dc"),
    "sep_conv_5x5": Primitive(f"{_BUILDERS}:separable", "separable", 5, "sep 5", "#1f5fa8"),
    "dil_conv_3x3": Primitive(f"{_BUILDERS}:dilated", "dilated", 3, "dil 3", "#93c47d"),
    "dil_conv_5x5": Primitive(f"{_BUILDERS}:dilated", "dilated", 5, "dil 5", "#38761d"),
}
"""Name to operation. Pools are drawn orange, skips grey, separable convolutions blue, dilated ones
green."""

PRIMITIVES = tuple(OPERATIONS)
"""The operations of an edge by default, in the order of the architecture parameters' columns, as in
ARNAS (arXiv 2405.05502). DARTS's `none` is absent there."""
OWN_COLOUR = "#8e63a8"
"""Of a user's own operation."""


def label_of(primitive: str) -> str:
    """Return the name of an operation in drawings."""
    if is_reference(primitive):
        return primitive.partition(":")[2]
    return OPERATIONS[primitive].label


def colour_of(primitive: str) -> str:
    """Return the colour of an operation in drawings."""
    return OWN_COLOUR if is_reference(primitive) else OPERATIONS[primitive].colour
