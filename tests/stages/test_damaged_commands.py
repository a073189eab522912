"""Commands that read damaged files: exit code 2, one sentence, nothing run, nothing written."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from damage import (
    ALL,
    EXAMPLES,
    FIRST,
    GENOTYPE,
    OUTCOMES,
    SCORES,
    SECOND,
    SPLITS,
    TABLES,
    TRAINED,
    check_sentence,
    files_below,
    restore,
    seeds,
)
from dotted import put
from tiny_run import CELL, SEARCH, exit_code
from tiny_run import COMMANDS as STAGES

from arnas.runtime.files import load_tensors, save_tensors

FOUND = {"dataset": "digits", "network": "dsara", "seed": "0"}
COMMANDS: dict[Path, tuple[str, dict[str, str]]] = {
    SPLITS: ("search_adversarial", SEARCH),
    FIRST: ("search_multiobjective", SEARCH),
    FIRST.with_name("manifest.json"): ("search_multiobjective", SEARCH),
    SECOND: ("derive", SEARCH),
    GENOTYPE: ("retrain", FOUND),
    TRAINED / "selected.safetensors": ("whitebox", CELL),
    TRAINED / "manifest.json": ("whitebox", CELL),
    TRAINED / "history.jsonl": ("tables", {}),
    FIRST.with_name("history.jsonl"): ("tables", {}),
    OUTCOMES: ("tables", {}),
    EXAMPLES: ("blackbox", {"dataset": "digits"}),
    SCORES: ("tables", {}),
    TABLES / "whitebox.csv": ("report", {}),
    TABLES / "alphas.csv": ("report", {}),
}
"""Each file with a command that reads it."""
SHORT = {k: v for k, v in ALL.items() if k in {"flip 0", "cut", "pickle", "deep JSON", "directory"}}


@pytest.mark.parametrize("path", COMMANDS, ids=lambda p: "/".join(p.parts[1:]))
def test_commands_end_with_one_sentence(
    path: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command, axes = COMMANDS[path]
    whole = files_below(Path("results"))
    data = path.read_bytes()
    for kind, damage in SHORT.items():
        damage(path, seeds(command, kind))
        capsys.readouterr()
        assert exit_code(command, axes) == 2, kind
        check_output(capsys.readouterr().err, path)
        restore(path, data)
        assert files_below(Path("results")) == whole, "nothing was written, nothing is lost"


def check_output(said: str, path: Path) -> None:
    """Check what a command has written of a damaged file."""
    assert "Traceback" not in said
    (line,) = [line for line in said.splitlines() if line.startswith("error: ")]
    if "is missing, which" not in line:  # a folder counts as no file
        check_sentence(line, path, path.with_name("manifest.json"))


def test_commands_refuse_a_valid_file_of_another_kind(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path, other in ((SECOND, FIRST), (FIRST, TRAINED / "last.safetensors"), (SPLITS, EXAMPLES)):
        data = path.read_bytes()
        shutil.copy(other, path)
        command, axes = COMMANDS[path]
        assert exit_code(command, axes) == 2
        check_output(capsys.readouterr().err, path)
        restore(path, data)


WEIGHTS = TRAINED / "selected.safetensors"
SEALED: list[tuple[Path, str, Any, list[str]]] = [
    (WEIGHTS, "provenance", {}, ["whitebox", "blackbox_examples", "tables"]),
    (WEIGHTS, "provenance.dataset", "shapes", ["whitebox", "blackbox", "analysis"]),
    (WEIGHTS, "model.image_size", 16, ["whitebox", "blackbox_examples"]),
    (TRAINED / "last.safetensors", "provenance.epoch", "two", ["whitebox"]),
    (EXAMPLES, "network", "another", ["blackbox", "analysis", "report"]),
    (EXAMPLES, "threat", None, ["blackbox", "analysis"]),
    (SPLITS, "info.name", "shapes", ["retrain", "whitebox", "blackbox", "search_adversarial"]),
    (SECOND, "search", "another", ["derive", "analysis"]),
    (FIRST, "dataset", "shapes", ["search_multiobjective"]),
    (OUTCOMES, "seed", 1, ["tables"]),
    (SCORES, "dataset", "shapes", ["tables"]),
]
"""A file, a key of its description with another value, and commands that read it."""


@pytest.mark.parametrize(("path", "key", "value", "commands"), SEALED, ids=str)
def test_commands_refuse_what_is_sealed_but_another_without_a_manifest(
    path: Path,
    key: str,
    value: Any,
    commands: list[str],
    run: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As in results that were copied without their manifests."""
    manifest = path.with_name("manifest.json")
    places = (path, manifest)
    before = [place.read_bytes() for place in places]
    manifest.unlink()
    tensors, description = load_tensors(path)
    save_tensors(path, tensors, put(description, key, value))
    whole = files_below(Path("results"))
    axes = dict(STAGES)
    for command in commands:
        capsys.readouterr()
        assert exit_code(command, axes[command]) == 2, command
        check_output(capsys.readouterr().err, path)
        assert files_below(Path("results")) == whole
    for place, data in zip(places, before, strict=True):
        restore(place, data)


def test_the_results_are_not_shown_from_a_damaged_table(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("whitebox", "checks"):
        path = TABLES / f"{name}.csv"
        data = path.read_bytes()
        for kind in ("nothing left", "pickle", "no UTF-8", "null", "directory", "deep JSON"):
            ALL[kind](path, seeds(kind))
            assert exit_code("results", {}) == 2, kind
            check_output(capsys.readouterr().err, path)
            restore(path, data)
    assert exit_code("results", {}) == 0
