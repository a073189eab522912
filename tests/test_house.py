"""The house keeps its order: imports point upward, nothing pickles, the library does not print."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "arnas"
ROOMS = (
    "runtime",
    "data",
    "spaces",
    "models",
    "attacks",
    "evaluation",
    "corruptions",
    "training",
    "search",
    "reporting",
    "config",
    "pipeline",
    "stages",
    "cost",
    "cli",
)
"""From top to bottom: a room may use itself and the rooms above it."""
FORBIDDEN = (r"\bpickle\.", r"\btorch\.(load|save)\(", r"(?<!\.)\beval\(", r"(?<!\.)\bprint\(")
READS_TORCH_FILES = PACKAGE / "models/loading/torch_files.py"
"""The one file that may read what ``torch.save`` wrote, once, and plain tensors only."""
TORCH_FREE = (
    "arnas",
    "arnas.attacks.registry",
    "arnas.config.load",
    "arnas.models.registry",
    "arnas.config.schema",
    "arnas.pipeline.plan",
    "arnas.pipeline.status_table",
    "arnas.pipeline.explain",
    "arnas.pipeline.dvc",
    "arnas.cli",
)


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE)


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0]


def imported_rooms(path: Path) -> Iterator[str]:
    """Yield the rooms that a module imports, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            if name.startswith("arnas."):
                yield name.split(".")[1]


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_upward(path: Path) -> None:
    own = ROOMS.index(room_of(path))
    below = [room for room in imported_rooms(path) if ROOMS.index(room) > own]
    assert not below


def test_every_room_is_known() -> None:
    found = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    assert found == set(ROOMS)


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
