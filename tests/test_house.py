"""The package keeps its order: rooms are known, nothing pickles, the library does not print."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "arnas"
LINTER = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
"""`make lint` runs it: a room may import itself and the rooms below it, and there are no cycles."""
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


def test_every_room_is_known() -> None:
    found = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    assert found == set(LINTER["contracts"][0]["layers"])


def calls(tree: ast.AST) -> list[tuple[str, set[str]]]:
    """Return the name of every call and its keywords with their values."""
    return [
        (ast.unparse(node.func), {f"{k.arg}={ast.unparse(k.value)}" for k in node.keywords})
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
    ]


UNSAFE = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
NEVER = {"eval", "exec", "compile", "__import__", "print", "torch.save"}
NEVER_OF_ANY = {"read_pickle", "to_pickle", "unsafe_load", "full_load"}
SAFE = {
    "torch.load": "weights_only=True",
    "load_state_dict_from_url": "weights_only=True",
    "np.load": "allow_pickle=False",
    "numpy.load": "allow_pickle=False",
    "yaml.load": "Loader=_LOADER",
}
"""Calls that are allowed with this keyword only."""


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE))
)
def test_nothing_in_the_package_runs_what_it_reads_or_prints(path: Path) -> None:
    tree = ast.parse(path.read_text())
    imported = {
        alias.name for n in ast.walk(tree) if isinstance(n, ast.Import) for alias in n.names
    }
    imported |= {n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert not {name.split(".")[0] for name in imported} & UNSAFE
    found = calls(tree)
    for name, keywords in found:
        assert name not in NEVER
        assert name.rsplit(".", 1)[-1] not in NEVER_OF_ANY
        assert name not in SAFE or SAFE[name] in keywords, name
    loads = sum(name == "torch.load" for name, _ in found)
    assert loads == (path == READS_TORCH_FILES)


@pytest.mark.parametrize("module", TORCH_FREE)
def test_settings_are_read_without_waiting_for_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules or 'pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
