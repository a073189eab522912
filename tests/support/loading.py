"""Which modules a Python process loads."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def loaded_modules(words: list[str], folder: Path) -> set[str]:
    """Run ``python`` with some arguments in a folder and return the modules that it loaded."""
    ended = subprocess.run(
        [sys.executable, "-X", "importtime", *words],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "ARNAS_DEVICE": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-500:]
    return {line.rpartition("|")[2].strip() for line in ended.stderr.splitlines()}
