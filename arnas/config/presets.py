"""Presets: complete settings files that come with the project."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

from arnas.config.load import DEFAULT_PATH, load_params
from arnas.runtime.errors import UserError
from arnas.runtime.files import write_bytes


def workflow_folder() -> Path:
    """Return the folder with the rules, profiles and presets: the checkout's, or the package's."""
    package = Path(__file__).parents[1]
    installed = package / "workflow"
    return installed if installed.is_dir() else package.parent / "workflow"


def preset_path(name: str) -> Path:
    """Return the file of a preset.

    Raises
    ------
    UserError
        When there is none of that name.
    """
    known = _known()
    if name not in known:
        raise UserError(f"there is no preset '{name}': allowed are {', '.join(known)}.")
    return known[name]


def _known() -> dict[str, Path]:
    """Return the presets by name."""
    return {path.stem: path for path in sorted((workflow_folder() / "presets").glob("*.yaml"))}


def use_preset(name: str) -> list[str]:
    """Copy a preset to `params.yaml` and return a line for each thing done.

    Settings that differ from every preset are saved as `params.previous.<n>.yaml` first.

    Raises
    ------
    UserError
        When there is no such preset, or it is wrong.
    """
    path, done = preset_path(name), []
    load_params(path)
    presets = {path.read_bytes() for path in _known().values()}
    if DEFAULT_PATH.exists() and DEFAULT_PATH.read_bytes() not in presets:
        names = (f"params.previous.{number}.yaml" for number in itertools.count(1))
        backup = next(path for path in map(Path, names) if not path.exists())
        shutil.copyfile(DEFAULT_PATH, backup)
        done.append(f"Your settings were saved as {backup}.")
    write_bytes(DEFAULT_PATH, path.read_bytes())
    return [*done, f"{DEFAULT_PATH} is now workflow/presets/{path.name}."]
