"""Damaged files of every kind: one sentence that names them, nothing run, nothing written."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from damage import (
    ALL,
    EXAMPLES,
    FIRST,
    GENOTYPE,
    NAMED,
    OUTCOMES,
    SCORES,
    SECOND,
    SPLITS,
    TABLES,
    TRAINED,
    TREE,
    damages,
    restore,
    seeds,
    sentence,
)

from arnas.config.load import load_params
from arnas.data.splits import load_splits
from arnas.evaluation.outcomes import load_examples, load_outcomes, load_scores
from arnas.models.origin import read_origin
from arnas.models.registry import build_model
from arnas.models.weight_files import load_weights
from arnas.reporting.run.histories import search_history, training_history
from arnas.reporting.run.tables import read_table
from arnas.runtime.files import load_tensors, save_tensors
from arnas.runtime.manifest import read_manifest
from arnas.search.state import (
    SearchState,
    load_state,
    load_trajectory,
    new_state,
)
from arnas.spaces.genotype import load_genotype


@pytest.fixture(scope="module")
def fresh(run: Path) -> SearchState:
    params = load_params()
    space = params.searches["dsara"].space
    sizes: Any = {"num_classes": 10, "in_channels": 1, "seed": 0, "device": torch.device("cpu")}
    return new_state(params.supernet, space, **sizes)


Reader = Callable[[Path], object]


def _table(path: Path) -> object:
    return read_table(path, TREE / "tables/manifest.json")


SEALED: dict[Path, Reader] = {
    SPLITS: load_splits,
    SECOND: load_trajectory,
    TRAINED / "selected.safetensors": load_weights,
    OUTCOMES: lambda path: load_outcomes(path, *NAMED),
    EXAMPLES: lambda path: load_examples(path, *NAMED),
    SCORES: lambda path: load_scores(path, "digits", [("arnas", 0)]),
}
"""Files that are verified wherever they lie, and their readers."""
RECORDED: dict[Path, Reader] = {
    GENOTYPE: load_genotype,
    FIRST.with_name("history.jsonl"): lambda path: search_history(path, "adversarial"),
    TRAINED / "history.jsonl": training_history,
    TRAINED / "manifest.json": lambda path: load_weights(path.with_name("last.safetensors")),
    TABLES / "whitebox.csv": _table,
    TABLES / "curve.csv": _table,
    TABLES / "checks.csv": _table,
}
"""Files that the manifest of their stage verifies, and that manifest."""


def attack(path: Path, read: Reader, name: str) -> None:
    """Damage a file in every way; each time its reader must end in a sentence that names it."""
    data = path.read_bytes()
    for damage, chance in damages(name):
        damage(path, chance)
        assert not path.is_file() or path.read_bytes() != data, "it must be damaged at all"
        sentence(lambda: read(path), path, path.with_name("manifest.json"))
        restore(path, data)
    read(path)


@pytest.mark.parametrize("original", SEALED, ids=lambda p: "/".join(p.parts[2:]))
def test_files_alone_are_verified(original: Path, run: Path, tmp_path: Path) -> None:
    """Away from their manifests."""
    path = tmp_path / original.name
    shutil.copy(original, path)
    attack(path, SEALED[original], str(original))


@pytest.mark.parametrize("path", RECORDED, ids=lambda p: "/".join(p.parts[2:]))
def test_files_in_their_place_are_verified(path: Path, run: Path) -> None:
    attack(path, RECORDED[path], str(path))


def test_a_supernet_takes_its_state_only(run: Path, fresh: SearchState) -> None:
    attack(FIRST, lambda path: load_state(path, fresh), "state")


@pytest.mark.long
@pytest.mark.parametrize("path", [TRAINED / "manifest.json", OUTCOMES], ids=["manifest", "tensors"])
def test_any_flipped_byte_of_a_sealed_file_is_noticed(path: Path, run: Path) -> None:
    """Also spaces, and also the name under which the seal lies."""
    read = read_manifest if path.suffix == ".json" else SEALED[path]
    data, chance = path.read_bytes(), seeds(path)
    alone = run.parent / path.name
    for place, byte in enumerate(data):
        alone.write_bytes(
            data[:place] + bytes([byte ^ (1 << chance.randrange(8))]) + data[place + 1 :]
        )
        sentence(lambda: read(alone), alone)
    alone.unlink()


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors", ".json", ".npz", ".ckpt"])
@pytest.mark.parametrize("kind", ["pickle", "pickle of torch", "directory", "nothing left"])
def test_pickles_are_not_opened_whatever_their_name(suffix: str, kind: str, run: Path) -> None:
    path = Path(f"model{suffix}")
    path.write_bytes(b"x")
    ALL[kind](path, seeds(suffix))
    for read in (load_tensors, load_weights, load_splits, load_trajectory, load_genotype):
        sentence(partial(read, path), path)
    if suffix == ".json":
        sentence(lambda: build_model(path, num_classes=10), path)
    restore(path, b"")
    path.unlink()


# Swapped files


KINDS = list(SEALED)


@pytest.mark.parametrize("place", KINDS, ids=lambda p: "/".join(p.parts[2:]))
def test_a_valid_file_of_another_kind_is_refused(place: Path, run: Path, tmp_path: Path) -> None:
    """With its own valid description, and with that of the file which should be there."""
    for other in (*KINDS, FIRST):
        for whose in (other, place):
            if other == place or (other == FIRST and place == SECOND):
                continue
            path = tmp_path / place.name
            save_tensors(path, load_tensors(other).tensors, load_tensors(whose).description)
            sentence(partial(SEALED[place], path), path)


def test_a_file_of_the_same_kind_is_refused_in_its_place(run: Path) -> None:
    """Another search's state, dataset or network under a name that is not its own."""
    wrong = {"search": "other"}
    for read, path in (
        (lambda: load_splits(SPLITS, "shapes"), SPLITS),
        (lambda: load_trajectory(SECOND, wrong), SECOND),
        (lambda: load_trajectory(SECOND, {"seed": 1}), SECOND),
        (lambda: load_trajectory(FIRST, {"stage": "multiobjective"}), FIRST),
        (lambda: load_outcomes(OUTCOMES, "shapes", "arnas", 0), OUTCOMES),
        (lambda: load_outcomes(OUTCOMES, "digits", "resnet18", 0), OUTCOMES),
        (lambda: load_examples(EXAMPLES, "digits", "arnas", 1), EXAMPLES),
        (lambda: load_scores(SCORES, "shapes", [("arnas", 0)]), SCORES),
        (lambda: load_scores(SCORES, "digits", [("arnas", 1)]), SCORES),
        (lambda: load_scores(SCORES, "digits", [("arnas", 0), ("other", 0)]), SCORES),
        (lambda: search_history(FIRST.with_name("history.jsonl"), "multiobjective"), FIRST.parent),
    ):
        sentence(read, path)
    for dataset, network, seed in (
        ("shapes", "arnas", 0),
        ("digits", "b", 0),
        ("digits", "arnas", 1),
    ):
        path = TRAINED / "last.safetensors"
        sentence(partial(read_origin, path, dataset, network, seed), path)


def test_whole_folders_that_were_exchanged_are_noticed(run: Path) -> None:
    """Every file is valid then, the manifest too; within the results each has one place."""
    for path in (SPLITS, FIRST, TRAINED / "last.safetensors", OUTCOMES, EXAMPLES, GENOTYPE):
        other = path.parent.with_name("7")
        shutil.copytree(path.parent, other)
        moved = other / path.name
        text = sentence(partial(SEALED.get(path, load_tensors), moved), moved)
        assert f"is that of {path}" in text
        shutil.rmtree(other)


def test_a_copy_outside_the_results_can_be_read(run: Path, tmp_path: Path) -> None:
    shutil.copytree(TRAINED, tmp_path / "mine")
    load_weights(tmp_path / "mine/last.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        load_weights("mine/last.safetensors")
