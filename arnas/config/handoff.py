"""Handing the settings that an engine resolved to the stages it starts."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from arnas.config.load import check_params
from arnas.runtime.errors import UserError
from arnas.runtime.files import canonical_json, sha256_bytes, write_bytes

FOLDER = Path(".arnas/params")


def hand_off(config: Mapping[str, Any]) -> str:
    """Check resolved settings, store them and return the path for ``ARNAS_PARAMS``.

    The file is named by its content, so that runs with different overrides side by side each
    keep their own. A mistake in the settings ends the process with one sentence and exit code 2.
    """
    try:
        check_params(config, "settings")
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)
    text = canonical_json(config)
    path = FOLDER / f"{sha256_bytes(text.encode())[:16]}.json"
    if not path.exists():
        write_bytes(path, text.encode())
    return str(path)
