"""The JSON schema of the settings, for editors, docs and messages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from arnas.config.params import Params

SCHEMA_PATH = Path("workflow/schemas/params.schema.json")


def schema() -> dict[str, Any]:
    """Return the JSON schema of `Params`."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Settings of arnas",
        **{k: v for k, v in Params.model_json_schema().items() if k != "title"},
    }


def schema_text() -> str:
    """Return the schema as it is stored."""
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"


def _entries(node: dict[str, Any]) -> Any:
    """Return the schema of the entries of a block whose keys are free names."""
    named = list(node.get("patternProperties", {}).values())
    return named[0] if named else node.get("additionalProperties")


def fields_at(loc: tuple[int | str, ...]) -> list[str]:
    """Return the settings of the block at a validation error's location.

    Tags of unions, which such locations hold too, are followed to their member.
    """
    root = schema()

    def resolve(node: dict[str, Any]) -> dict[str, Any]:
        # A block that may be null is the one reference among the two.
        blocks = [member for member in node.get("anyOf", []) if "$ref" in member]
        reference = (blocks[0] if len(blocks) == 1 else node).get("$ref")
        return node if reference is None else resolve(root["$defs"][reference.rsplit("/", 1)[1]])

    node: dict[str, Any] = root
    for key in loc:
        node = resolve(node)
        mapping = node.get("discriminator", {}).get("mapping", {})
        if key in mapping:
            node = {"$ref": mapping[str(key)]}
        elif key in node.get("properties", {}):
            node = node["properties"][str(key)]
        elif isinstance(entries := _entries(node), dict):
            node = entries
        elif isinstance(key, int) and "items" in node:
            node = node["items"]
        else:
            return []
    return list(resolve(node).get("properties", {}))
