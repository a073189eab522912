"""The package keeps its order: rooms are known, nothing pickles, the library does not print."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "arnas"
LINTER = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
"""`make lint` runs it: a room may import itself and the rooms below it, and there are no cycles."""
FORBIDDEN = (r"\bpickle\.", r"\btorch\.(load|save)\(", r"(?<!\.)\beval\(", r"(?<!\.)\bprint\(")
READS_TORCH_FILES = PACKAGE / "models/loading/torch_files.py"
"""The one file that may read what ``torch.save`` wrote, once, and plain tensors only."""
TORCH_FREE = (
    "arnas",
    "arnas.attacks.registry",
    "arnas.config.load",
    "arnas.models.registry",
    "arnas.config.schema",
    "arnas.config.references",
    "arnas.training.registry",
    "arnas.spaces.registry",
    "arnas.pipeline.plan",
    "arnas.pipeline.status",
    "arnas.pipeline.explain",
    "arnas.pipeline.dvc",
    "arnas.cli",
)


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE)


def test_every_room_is_known() -> None:
    found = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    assert found == set(LINTER["contracts"][0]["layers"])


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_are_safe(path: Path) -> None:
    text = path.read_text()
    if path == READS_TORCH_FILES:
        assert text.count("torch.load(") == 1
        text, safe = re.subn(
            r"torch\.load\([^()]*\([^()]*\)[^()]*weights_only=True[^()]*\)", "", text
        )
        assert safe == 1
    for pattern in (
        r"\bpickle\.",
        r"\btorch\.(load|save)\(",
        r"\beval\(\s*[\"']",
        r"(?<!\.)\bprint\(",
    ):
        assert not re.search(pattern, text), pattern


@pytest.mark.parametrize("module", TORCH_FREE)
def test_settings_are_read_without_waiting_for_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules or 'pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
