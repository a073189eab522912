"""State of a search: supernet, optimisers, trajectory; saving and loading it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from arnas.runtime.errors import UserError
from arnas.runtime.files import load_tensors, save_tensors
from arnas.runtime.seeds import seeded
from arnas.search.options import SupernetOptions
from arnas.search.supernet import Supernet
from arnas.spaces.genotype import EDGES, KINDS
from arnas.spaces.options import SearchSpaceOptions


@dataclass
class SearchState:
    """A search in progress."""

    supernet: Supernet
    weight_optimiser: torch.optim.SGD
    alpha_optimiser: torch.optim.Adam
    trajectory: list[dict[str, Tensor]] = field(default_factory=list)
    """The architecture parameters before the first epoch and after each one."""
    gammas: list[float] = field(default_factory=list)
    """Share of the natural gradient in every architecture step; NaN where there is none."""

    @property
    def epochs(self) -> int:
        """Return the number of epochs done, both stages together."""
        return len(self.trajectory) - 1


def new_state(
    options: SupernetOptions,
    space: SearchSpaceOptions,
    *,
    num_classes: int,
    in_channels: int,
    seed: int,
    device: torch.device,
) -> SearchState:
    """Return the state before the first step; it depends on the settings and `seed` only."""
    with seeded("search", "weights", seed):
        supernet = Supernet(
            space,
            num_classes=num_classes,
            in_channels=in_channels,
            channels=options.channels,
            cells=options.cells,
            alpha_scale=options.alphas.init_scale,
            seed=seed,
        )
    supernet.to(device)
    weights, alphas = options.weights, options.alphas
    state = SearchState(
        supernet,
        torch.optim.SGD(
            supernet.weights(),
            lr=weights.learning_rate,
            momentum=weights.momentum,
            weight_decay=weights.weight_decay,
        ),
        torch.optim.Adam(
            list(supernet.alphas.values()),
            lr=alphas.learning_rate,
            betas=(alphas.beta1, alphas.beta2),
            weight_decay=alphas.weight_decay,
        ),
    )
    state.trajectory.append(supernet.tables())
    return state


def save_state(path: Path, state: SearchState, description: dict[str, Any]) -> None:
    """Write everything of `state` to a safetensors file."""
    save_tensors(path, state_tensors(state), {"epochs": state.epochs, **description})


def state_tensors(state: SearchState) -> dict[str, Tensor]:
    """Return everything of `state` as tensors by name."""
    names: dict[Tensor, str] = {p: name for name, p in state.supernet.named_parameters()}
    tensors = {f"supernet.{name}": value for name, value in state.supernet.state_dict().items()}
    for prefix, optimiser in _optimisers(state).items():
        for parameter, values in optimiser.state.items():
            for key, value in values.items():
                if isinstance(value, Tensor):
                    tensors[f"{prefix}.{key}.{names[parameter]}"] = value
    for kind in state.trajectory[0]:
        tensors[f"trajectory.{kind}"] = torch.stack([tables[kind] for tables in state.trajectory])
    tensors["gammas"] = torch.tensor(state.gammas, dtype=torch.float64)
    return tensors


def _optimisers(state: SearchState) -> dict[str, torch.optim.Optimizer]:
    """Return the optimisers by the prefix of their tensors."""
    return {"sgd": state.weight_optimiser, "adam": state.alpha_optimiser}


def load_state(path: Path, state: SearchState, expected: Mapping[str, Any] | None = None) -> None:
    """Restore a new `state` from a file written by `save_state`.

    Parameters
    ----------
    expected
        Values that its description must have: those of the search that it comes from.

    Raises
    ------
    UserError
        When the file is damaged or belongs to another supernet or search.
    """
    fill_state(state, _read_state(path, expected or {}), path)


def fill_state(state: SearchState, tensors: dict[str, Tensor], path: Path) -> None:
    """Restore a new `state` from what `state_tensors` returned; `path` names it in errors."""
    trajectory = _trajectory(tensors, path)
    own = {k.removeprefix("supernet."): v for k, v in tensors.items() if k.startswith("supernet.")}
    try:
        state.supernet.load_state_dict(own)
    except RuntimeError as error:
        raise _mismatch(path, str(error).splitlines()[-1].strip()) from None
    if trajectory[0].keys() != state.supernet.alphas.keys():
        raise _mismatch(path, f"its kinds of cells are {', '.join(trajectory[0])}")
    for prefix, optimiser in _optimisers(state).items():
        for name, parameter in state.supernet.named_parameters():
            values = {
                key.split(".", 2)[1]: value.to(parameter.device if value.ndim else "cpu")
                for key, value in tensors.items()
                if key.startswith(f"{prefix}.") and key.split(".", 2)[2:] == [name]
            }
            if any(value.ndim and value.shape != parameter.shape for value in values.values()):
                raise _mismatch(path, f"the optimiser's tensors of {name} have another shape")
            if values:
                optimiser.state[parameter] = values
    state.trajectory = trajectory
    state.gammas = tensors["gammas"].tolist()


def _mismatch(path: Path, reason: str) -> UserError:
    """Return the error for a state that does not fit the supernet of the settings."""
    return UserError(
        f"{path} belongs to another supernet ({reason}): rerun `python -m arnas "
        "search_adversarial`."
    )


def load_trajectory(
    path: Path, expected: Mapping[str, Any] | None = None, columns: int | None = None
) -> tuple[list[dict[str, Tensor]], Tensor]:
    """Return the trajectory and the gammas of a search's file, see `SearchState`.

    Parameters
    ----------
    expected
        As for `load_state`.
    columns
        Number of primitives that the architecture parameters must be of.

    Returns
    -------
    trajectory, gammas
        The second is float64 of shape (n,).
    """
    tensors = _read_state(path, expected or {})
    return _trajectory(tensors, path, columns), tensors["gammas"]


def _read_state(path: Path, expected: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the tensors of a state file after comparing its description."""
    tensors, description = load_tensors(path)
    for key, value in expected.items():
        if description.get(key) != value:
            raise UserError(
                f"{path} is of another search, for its {key} is {description.get(key)!r} where "
                f"{value!r} is needed: delete its folder and rerun the search."
            )
    return tensors


def _trajectory(
    tensors: dict[str, Tensor], path: Path, columns: int | None = None
) -> list[dict[str, Tensor]]:
    """Return the architecture parameters in the tensors of the state file `path`."""
    stacked = {
        key.removeprefix("trajectory."): value
        for key, value in tensors.items()
        if key.startswith("trajectory.")
    }
    shapes = {value.shape for value in stacked.values()}
    gammas = tensors.get("gammas")
    complete = (
        set(stacked) <= set(KINDS)
        and "reduction" in stacked
        and len(shapes) == 1
        and next(iter(shapes))[1:-1] == (EDGES,)
        and columns in (None, next(iter(shapes))[-1])
        and len(stacked["reduction"]) > 0
        and all(value.dtype == torch.float32 for value in stacked.values())
        and gammas is not None
        and gammas.ndim == 1
        and gammas.is_floating_point()
    )
    if not complete:
        raise UserError(f"{path} holds no architecture parameters of a search: rerun the search.")
    kinds = sorted(stacked)
    return [{k: stacked[k][i] for k in kinds} for i in range(len(stacked["reduction"]))]
