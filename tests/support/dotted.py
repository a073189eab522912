"""Values at dotted paths of nested blocks."""

from __future__ import annotations

from typing import Any


def put(content: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """Set a value in place, blocks on the way created, and return all; `...` removes the key."""
    *blocks, key = path.split(".")
    here = content
    for block in blocks:
        here = here.setdefault(block, {})
    if value is ...:
        del here[key]
    else:
        here[key] = value
    return content
