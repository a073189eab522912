"""Reading what the attacks have stored: outcomes, examples and black-box scores, each verified."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import BaseModel

from arnas.evaluation.result import Check
from arnas.runtime.errors import UserError
from arnas.runtime.files import ArrayFile, check_form, load_arrays

if TYPE_CHECKING:  # to read them takes no torch
    from arnas.data.splits import LabelledImages

WHITEBOX = "rerun `python -m arnas whitebox`"
EXAMPLES = "rerun `python -m arnas blackbox_examples`"
BLACKBOX = "rerun `python -m arnas blackbox`"


class _Named(BaseModel):
    name: str


class _Threat(BaseModel):
    norm: str
    epsilon: float | str


class _Origin(BaseModel):
    loss: str
    epoch: int


class _Checkpoints(BaseModel):
    selected: _Origin
    last: _Origin


class _Point(BaseModel):
    epsilon: str
    budget: float


class _Whitebox(BaseModel):
    dataset: _Named
    network: str
    seed: int
    threat: _Threat
    checkpoints: _Checkpoints
    epsilon_curve: list[_Point]
    curve_attack: str
    checks: list[Check]


class _Examples(BaseModel):
    dataset: _Named
    network: str
    seed: int
    loss: str
    threat: _Threat
    checks: list[Check]


class _Blackbox(BaseModel):
    dataset: str
    networks: list[str]
    losses: dict[str, str]
    threat: _Threat
    checks: dict[str, list[Check]]


def load_outcomes(path: Path, dataset: str, network: str, seed: int) -> ArrayFile:
    """Read the outcomes of white-box attacks on a network.

    Raises
    ------
    UserError
        When the file is missing, damaged, of another kind, or that of another network.
    """
    found = load_arrays(path)
    arrays, description = found
    check_form(path, description, _Whitebox, WHITEBOX)
    _check_owner(path, description, dataset, network, seed, WHITEBOX)
    clean = arrays.get("selected.clean")
    points = len(description["epsilon_curve"])
    _check_flags(path, {k: v for k, v in arrays.items() if k != "curve"}, WHITEBOX)
    curve = arrays.get("curve")
    if clean is None or "last.clean" not in arrays or curve is None or len(curve) != points:
        raise _lacking(path, "clean outcomes and a curve", WHITEBOX)
    _check_flags(path, {f"curve {n}": flags for n, flags in enumerate(curve)}, WHITEBOX)
    return found


def load_examples(
    path: Path, dataset: str, network: str, seed: int, test: LabelledImages | None = None
) -> ArrayFile:
    """Read the adversarial examples that were made on a network, likewise.

    They must have been made of the images `test`, on the CPU, if these are at hand.
    """
    found = load_arrays(path)
    arrays, description = found
    check_form(path, description, _Examples, EXAMPLES)
    _check_owner(path, description, dataset, network, seed, EXAMPLES)
    x_adv, labels = arrays.get("x_adv"), arrays.get("labels")
    if x_adv is None or labels is None or "square" not in arrays:
        raise _lacking(path, "examples with their labels", EXAMPLES)
    if x_adv.dtype != np.float32 or x_adv.ndim != 4 or not np.isfinite(x_adv).all():
        raise _lacking(path, "finite images", EXAMPLES)
    for kind in ("clean", "adversarial"):
        for said in ("predicted", "confidence"):
            values = arrays.get(f"{kind}.{said}")
            if values is None or values.shape != labels.shape or len(labels) != len(x_adv):
                raise _lacking(path, f"{kind}.{said} of each image", EXAMPLES)
    _check_flags(path, {"square": arrays["square"]}, EXAMPLES)
    if test is not None and not (
        x_adv.shape == test.images.shape and np.array_equal(labels, test.labels)
    ):
        raise _lacking(path, f"examples of the present test images of {dataset}", EXAMPLES)
    return found


def load_scores(path: Path, dataset: str, cells: Iterable[tuple[str, int]]) -> ArrayFile:
    """Read the black-box outcomes of a dataset for networks and seeds, likewise."""
    found = load_arrays(path)
    arrays, description = found
    check_form(path, description, _Blackbox, BLACKBOX)
    if description["dataset"] != dataset:
        raise _of_another(path, "dataset", description["dataset"], dataset, BLACKBOX)
    cells = list(cells)
    if set(description["networks"]) != {network for network, _ in cells}:
        raise _lacking(path, "the scores of the run's networks", BLACKBOX)
    _check_flags(path, arrays, BLACKBOX)
    for network, seed in cells:
        sources = [other for other, own in cells if own == seed]
        wanted = {f"{seed}.{network}.{source}" for source in [*sources, "square"]}
        if network not in description["losses"] or not wanted <= arrays.keys():
            raise _lacking(path, f"the scores of {network}, seed {seed}", BLACKBOX)
    return found


def _check_owner(
    path: Path,
    description: Mapping[str, object],
    dataset: str,
    network: str,
    seed: int,
    way_out: str,
) -> None:
    """Raise unless a description is that of a network."""
    info = description["dataset"]
    found = {**description, "dataset": info["name"] if isinstance(info, dict) else info}
    for key, value in (("dataset", dataset), ("network", network), ("seed", seed)):
        if found[key] != value:
            raise _of_another(path, key, found[key], value, way_out)


def _check_flags(path: Path, arrays: Mapping[str, np.ndarray], way_out: str) -> None:
    """Raise unless each array is uint8 of shape (n,), n from 1 up, with ones and zeros only."""
    for name, flags in arrays.items():
        if flags.dtype != np.uint8 or flags.ndim != 1 or not len(flags) or int(flags.max()) > 1:
            raise _lacking(path, f"zeros and ones in {name}", way_out)


def _lacking(path: Path, what: str, way_out: str) -> UserError:
    """Return what to say of a file whose arrays are others than it describes."""
    return UserError(f"{path} does not hold {what}: {way_out}.")


def _of_another(path: Path, key: str, found: object, needed: object, way_out: str) -> UserError:
    """Return what to say of a file that stands in the place of another."""
    return UserError(
        f"{path} is that of another {key}, {found!r} where {needed!r} is needed: {way_out}."
    )
