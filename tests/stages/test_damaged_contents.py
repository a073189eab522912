"""Files that are whole and sealed but hold what they must not: one sentence, before any use."""

from __future__ import annotations

import io
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from damage import MARKER, Trap, sentence
from dotted import put
from torch import Tensor

from arnas.data.load import load_dataset
from arnas.data.sources.registry import NpzOptions
from arnas.data.splits import load_splits
from arnas.evaluation.outcomes import load_examples, load_outcomes, load_scores
from arnas.models.weight_files import load_weights
from arnas.runtime.errors import UserError
from arnas.runtime.files import load_tensors, save_tensors, write_json, write_sealed
from arnas.search.state import load_trajectory
from arnas.spaces.genotype import load_genotype
from arnas.spaces.published import ARNAS

RUN = "results/golden"
Tensors = dict[str, Tensor]
Change = Callable[[Tensors, dict[str, Any]], object]


def set_tensor(name: str, make: Callable[[Tensor], Tensor]) -> Change:
    return lambda tensors, _: tensors.update({name: make(tensors[name])})


def drop(name: str) -> Change:
    return lambda tensors, _: tensors.pop(name)


def describe(path: str, value: Any) -> Change:
    """Return a change of the description at a dotted path; `...` takes a key away."""
    return lambda _, description: put(description, path, value)


def spoiled(value: float) -> Callable[[Tensor], Tensor]:
    """Return a change of the first number of a tensor."""

    def spoil(tensor: Tensor) -> Tensor:
        tensor = tensor.clone()
        tensor.view(-1)[0] = value
        return tensor

    return spoil


def rename(old: str, new: str) -> Change:
    return lambda tensors, _: tensors.update({new: tensors.pop(old)})


LONG_TABLE: Change = set_tensor("trajectory.accurate", lambda t: torch.cat([t, t]))
CASES: dict[str, tuple[str, Callable[[Path], object], list[Change]]] = {
    "splits": (
        "data/digits/splits",
        load_splits,
        [
            set_tensor("images", lambda t: t.float()),
            set_tensor("images", lambda t: t[:, 0]),
            set_tensor("images", lambda t: t[..., :-1]),
            set_tensor("images", lambda t: t[:5]),
            set_tensor("images", spoiled(255)),
            set_tensor("labels", lambda t: t.float()),
            set_tensor("labels", lambda t: t[:-1]),
            set_tensor("labels", lambda t: t[0]),
            set_tensor("labels", spoiled(10)),
            set_tensor("labels", spoiled(-1)),
            set_tensor("test", spoiled(99999)),
            set_tensor("test", spoiled(-1)),
            set_tensor("train", lambda t: t[:0]),
            set_tensor("val", lambda t: t[:-1]),
            set_tensor("search_val", lambda t: t.to(torch.int32)),
            drop("test"),
            drop("images"),
            describe("info.num_classes", 3),
            describe("info.num_classes", "10"),
            describe("info.scale", 0),
            describe("info.image_size", 9),
            describe("info.name", None),
            describe("info.name", ...),
            describe("info", ["name"]),
            describe("counts", 3),
            describe("counts.test", 19),
        ],
    ),
    "weights": (
        "retrain/digits/arnas/0/selected",
        load_weights,
        [
            describe("model.model", "resnet18"),
            describe("model.model", "../../x.json"),
            describe("model.model", "/etc/passwd"),
            describe("model.model", 3),
            describe("model.model", {"cells": {}}),
            describe("model.cells", 5),
            describe("model.cells", 10**12),
            describe("model.cells", True),
            describe("model.cells", "4"),
            describe("model.cells", -1),
            describe("model.cells", None),
            describe("model.channels", 16),
            describe("model.channels", 10**9),
            describe("model.channels", 10**30),
            describe("model.channels", 0.5),
            describe("model.num_classes", 10**12),
            describe("model.num_classes", 1),
            describe("model.in_channels", 10**12),
            describe("model.image_size", 0),
            describe("model.image_size", ...),
            describe("model.extra", 3),
            describe("model.space", {"kinds": ["accurate"]}),
            describe("model.space", {"kinds": ["normal"] * 3}),
            describe("model.space", {"widths": [10**9, 1, 1]}),
            describe("model.space", 3),
            describe("model", []),
            describe("model", "arnas"),
            describe("model", ...),
            describe("provenance", 3),
            describe("provenance", [1, 2]),
            set_tensor("classifier.weight", lambda t: t.double()),
            set_tensor("classifier.weight", lambda t: t.T.contiguous()),
            set_tensor("classifier.bias", lambda t: t[:3]),
            drop("classifier.bias"),
            rename("classifier.bias", "classifier.bia"),
            lambda tensors, _: tensors.update({"another": torch.zeros(3)}),
            lambda tensors, _: tensors.clear(),
        ],
    ),
    "state": (
        "search/dsara/0/multiobjective/state",
        load_trajectory,
        [
            LONG_TABLE,
            set_tensor("trajectory.robust", lambda t: t[:, :3]),
            set_tensor("trajectory.robust", lambda t: t[0]),
            set_tensor("trajectory.robust", lambda t: t.double()),
            drop("trajectory.reduction"),
            rename("trajectory.robust", "trajectory.../../x"),
            drop("gammas"),
            set_tensor("gammas", lambda t: t.long()),
            set_tensor("gammas", lambda t: t[:, None]),
            lambda tensors, _: tensors.clear(),
        ],
    ),
    "outcomes": (
        "whitebox/digits/arnas/0/outcomes",
        lambda path: load_outcomes(path, "digits", "arnas", 0),
        [
            set_tensor("selected.clean", spoiled(2)),
            set_tensor("selected.pgd20", lambda t: t.float()),
            set_tensor("selected.fgsm", lambda t: t[:0]),
            set_tensor("curve", lambda t: t[:-1]),
            set_tensor("curve", lambda t: t[0]),
            set_tensor("curve", spoiled(7)),
            drop("curve"),
            drop("selected.clean"),
            drop("last.clean"),
            describe("checkpoints.last", ...),
            describe("checkpoints.selected.loss", 3),
            describe("epsilon_curve", [0, 1, 2]),
            describe("threat", "linf"),
            describe("seed", 1),
            describe("seed", "0"),
            describe("dataset.name", "../../x"),
            describe("network", "resnet18"),
            describe("checks", [{"id": "eval_mode"}]),
            describe("checks", None),
        ],
    ),
    "examples": (
        "blackbox_examples/digits/arnas/0/examples",
        lambda path: load_examples(path, "digits", "arnas", 0),
        [
            set_tensor("x_adv", spoiled(float("nan"))),
            set_tensor("x_adv", lambda t: t.double()),
            set_tensor("x_adv", lambda t: t[:3]),
            set_tensor("x_adv", lambda t: t[0]),
            set_tensor("square", spoiled(9)),
            drop("square"),
            drop("labels"),
            drop("clean.confidence"),
            set_tensor("adversarial.predicted", lambda t: t[:2]),
            describe("loss", ...),
            describe("seed", 0.5),
            describe("network", "/etc/passwd"),
        ],
    ),
    "scores": (
        "blackbox/digits/outcomes",
        lambda path: load_scores(path, "digits", [("arnas", 0)]),
        [
            drop("0.arnas.square"),
            drop("0.arnas.arnas"),
            set_tensor("0.arnas.arnas", spoiled(3)),
            describe("networks", ["arnas", "another"]),
            describe("networks", []),
            describe("losses", {}),
            describe("dataset", "shapes"),
            describe("checks", []),
        ],
    ),
}


@pytest.mark.parametrize("kind", CASES)
def test_contents_that_do_not_fit_are_named(kind: str, tiny_run: Path, tmp_path: Path) -> None:
    name, read, changes = CASES[kind]
    original = tiny_run / RUN / f"{name}.safetensors"
    for number, change in enumerate(changes):
        tensors, description = load_tensors(original)
        change(tensors, description)
        path = tmp_path / f"{number}.safetensors"
        save_tensors(path, tensors, description)
        sentence(lambda path=path: read(path), path)
    save_tensors(tmp_path / "good.safetensors", *load_tensors(original))
    read(tmp_path / "good.safetensors")


def cells(**changes: Any) -> dict[str, Any]:
    """Return the published genotype as JSON, with some cells changed."""
    content = ARNAS.genotype.to_json()
    return {**content, "cells": {**content["cells"], **changes}}


def first_edge(*edge: Any) -> dict[str, Any]:
    cell = cells()["cells"]["robust"]
    return cells(robust=[[list(edge), *cell[0][1:]], *cell[1:]])


GENOTYPES: dict[str, Any] = {
    "unknown operation": first_edge("conv_99x99", 0),
    "code for an operation": first_edge("__import__('os').system('touch sprung')", 0),
    "operation that is a number": first_edge(3, 0),
    "later state": first_edge("sep_conv_3x3", 2),
    "negative state": first_edge("sep_conv_3x3", -1),
    "huge state": first_edge("sep_conv_3x3", 10**30),
    "state that is no whole number": first_edge("sep_conv_3x3", 0.5),
    "state that is true": first_edge("sep_conv_3x3", True),
    "edge of three": first_edge("sep_conv_3x3", 0, 0),
    "no edges": cells(robust=[[], [], [], []]),
    "three nodes": cells(robust=cells()["cells"]["robust"][:3]),
    "unknown kind": cells(other=cells()["cells"]["robust"]),
    "kind that is a path": cells(**{"../../x": cells()["cells"]["robust"]}),
    "no cells": {"cells": {}, "origin": "x"},
    "no block": {"origin": "x"},
    "a list": [],
    "nothing": None,
    "a number": 3,
    "a text": "text",
    "cells as text": {"cells": "robust", "origin": "x"},
    "cells as a list": {"cells": ["reduction"]},
    "cells as nothing": {"cells": None},
    "a cell as a number": cells(robust=3),
    "nodes as text": cells(robust=["abcd"]),
    "edge of one": first_edge("sep_conv_3x3"),
    "state as text": first_edge("sep_conv_3x3", "1"),
    "state of nothing": first_edge("sep_conv_3x3", None),
    "another key": {**cells(), "extra": 1},
    "line break": {**first_edge("sep\nconv", 0), "origin": "a\nb"},
}


@pytest.mark.parametrize("name", GENOTYPES)
@pytest.mark.parametrize("write", [write_json, write_sealed])
def test_genotypes_that_are_none_are_named(name: str, write: Any, tmp_path: Path) -> None:
    content = GENOTYPES[name]
    if write is write_sealed and not isinstance(content, dict):
        pytest.skip("only objects are sealed")
    path = tmp_path / "genotype.json"
    write(path, content)
    sentence(lambda: load_genotype(path), path)


def test_a_genotype_written_by_hand_needs_no_seal(tmp_path: Path) -> None:
    write_json(tmp_path / "mine.json", ARNAS.genotype.to_json())
    assert load_genotype(tmp_path / "mine.json").cells == ARNAS.genotype.cells


# A user's own file


def npy(shape: tuple[int, ...], dtype: str = "|u1", data: bytes = b"") -> bytes:
    """Return an array file whose header says what it likes."""
    stream = io.BytesIO()
    header = {"descr": dtype, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, header)
    return stream.getvalue() + data


LABELS = npy((80,), "<i8", np.arange(80, dtype="<i8").tobytes())
IMAGES = npy((80, 8, 8), data=bytes(80 * 64))
NPZ: dict[str, dict[str, bytes]] = {
    "terabytes of images": {"images.npy": npy((2**40, 8, 8)), "labels.npy": LABELS},
    "beyond all numbers": {"images.npy": npy((10**30, 8, 8)), "labels.npy": LABELS},
    "negative": {"images.npy": npy((-1, 8, 8)), "labels.npy": LABELS},
    "terabytes of labels": {"images.npy": IMAGES, "labels.npy": npy((2**40,), "<i8")},
    "nothing of great number": {"images.npy": npy((2**40,), "|V0"), "labels.npy": LABELS},
    "no array": {"images.npy": b"\x80\x04N.", "labels.npy": LABELS},
    "pickled objects": {"images.npy": npy((1,), "|O"), "labels.npy": LABELS},
    "names that leave the archive": {"../../images.npy": IMAGES, "/labels.npy": LABELS},
}


@pytest.mark.parametrize("name", NPZ)
def test_arrays_that_claim_what_they_are_not(name: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, data in NPZ[name].items():
            archive.writestr(member, data)
    options = NpzOptions(source="npz", path=str(path), test_images=5, val_images=5)
    with pytest.raises(UserError, match=r"^data\.mine\.path: ") as caught:
        load_dataset("mine", options)
    assert str(caught.value).isprintable()
    assert list(tmp_path.iterdir()) == [path]


def test_an_archive_that_unpacks_beyond_the_memory_is_not_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mine.npz"
    np.savez_compressed(path, images=np.full((80, 64, 64), 200, np.uint8), labels=np.arange(80) % 2)
    options = NpzOptions(source="npz", path=str(path), test_images=5, val_images=5)
    load_dataset("mine", options)
    monkeypatch.setattr("os.sysconf", lambda name: 500)  # bytes a page, and pages
    with pytest.raises(UserError, match=r"its arrays take .* GB, this machine has .* GB"):
        load_dataset("mine", options)


def test_traps_are_traps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else their silence would say nothing."""
    import pickle

    monkeypatch.chdir(tmp_path)
    pickle.loads(pickle.dumps(Trap(MARKER.absolute())))
    assert MARKER.exists()
    shutil.rmtree(tmp_path)
