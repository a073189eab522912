"""Telling DVC of results that it has not made itself.

``dvc commit -f`` believes whatever lies in the folder, so every manifest is held against the
settings, the stage's version, the inputs and the bytes of the outputs before.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from arnas.config.load import DEFAULT_PATH, load_params, params_path
from arnas.config.params import Params
from arnas.pipeline.freshness import ReadManifest, why_stale
from arnas.pipeline.jobs import Instance, instances
from arnas.runtime.abandoned import state_slots
from arnas.runtime.errors import UserError
from arnas.runtime.files import sha256_file
from arnas.runtime.history import state_root
from arnas.runtime.manifest import manifest_or_empty


@dataclass(frozen=True)
class Adoption:
    """What DVC was told, or would be."""

    adopted: tuple[str, ...]
    """Titles of the results that are news to DVC."""
    known: int
    """Number of results that it knew."""
    refused: Mapping[str, str]
    """Title to the reason."""


def adopt(dry_run: bool = False) -> Adoption:
    """Commit the run's current results to DVC; whatever is not current is refused.

    Raises
    ------
    UserError
        While an instance of the run is being made, when the settings are not those that DVC reads,
        or when DVC is not there or refuses.
    """
    params = load_params(DEFAULT_PATH)
    if params_path() != DEFAULT_PATH and load_params() != params:
        raise UserError(
            f"ARNAS_PARAMS names {params_path()}, but DVC reads {DEFAULT_PATH}, which differs: "
            "unset it, or make these settings the ones of params.yaml."
        )
    planned = instances(params)
    _refuse_while_running(planned)
    refused = unfit(planned, params)
    with _dvc() as repo:
        names = {" ".join(stage.cmd.split()): stage.addressing for stage in repo.index.stages}
        news = set(repo.status())
        fit = [instance for instance in planned if instance.title not in refused]
        wanted = [i for i in fit if names.get(" ".join(i.command)) in news]
        if not dry_run:
            for target in _targets({names[" ".join(i.command)] for i in wanted}, names.values()):
                # Where DVC copies, the files can stay what they are, and as old as they are.
                repo.commit(target, force=True, relink="type" in repo.config["cache"])
        left = set() if dry_run else set(repo.status())
    for instance in wanted:
        if names[" ".join(instance.command)] in left:
            refused[instance.title] = "DVC still finds it changed, see `dvc status`"
    adopted = tuple(i.title for i in wanted if i.title not in refused)
    return Adoption(adopted, len(fit) - len(wanted), refused)


def _targets(wanted: Collection[str], stages: Collection[str]) -> list[str]:
    """Return what to name to DVC: a whole matrix at once where all of its cells are wanted.

    DVC reads and writes everything again for each target.
    """
    groups = {name.partition("@")[0] for name in stages}
    cells = {group: [n for n in stages if n.partition("@")[0] == group] for group in groups}
    whole = {group for group in groups if set(cells[group]) <= set(wanted)}
    return sorted(whole | {name for name in wanted if name.partition("@")[0] not in whole})


def _refuse_while_running(planned: list[Instance]) -> None:
    """Raise while a process of this checkout makes a result of the run."""
    results = {str(instance.manifest) for instance in planned}
    for slot in state_slots(state_root()):
        if slot.held and slot.here and slot.holder.get("result") in results:
            raise UserError(
                f"{slot.title} is being made by {slot.who}: wait for it, `python -m arnas status "
                "--watch` shows when it is done."
            )


def unfit(planned: list[Instance], params: Params) -> dict[str, str]:
    """Return by title why results are not to be relied upon; every output is read."""
    read: ReadManifest = cache(manifest_or_empty)
    found: dict[str, str] = {}
    makers: dict[Path, str] = {}
    for instance in planned:
        sources = [makers[path] for path in instance.inputs.values() if path in makers]
        late = next((title for title in sources if title in found), None)
        reason = _damage(instance, read) or why_stale(instance, params, read)
        if reason is None and late is not None:
            reason = f"it comes from {late}"
        if reason is not None:
            found[instance.title] = reason
        makers |= dict.fromkeys(instance.outputs.values(), instance.title)
    return found


def _damage(instance: Instance, read: ReadManifest) -> str | None:
    """Return what is wrong with the files of a result, None if they are as they were written."""
    manifest = read(instance.manifest)
    if not manifest:
        return "it is missing"
    recorded = manifest.get("outputs", {})
    for path in instance.outputs.values():
        try:
            if sha256_file(path) != recorded.get(str(path)):
                return f"{path} is not what the stage has written"
        except OSError as error:
            return f"{path} cannot be read: {error.strerror}"
    return None


@contextmanager
def _dvc() -> Iterator[Any]:
    """Yield DVC's view of the checkout; its errors become sentences."""
    try:
        from dvc.exceptions import DvcException
        from dvc.repo import Repo
    except ImportError:
        raise UserError(
            "DVC is not installed, so there is nothing to tell it: install the extra `workflow`."
        ) from None
    log = logging.getLogger("dvc")
    level = log.level
    try:
        with Repo() as repo:
            log.setLevel(logging.ERROR)
            yield repo
    except DvcException as error:
        cause = error.__cause__ or error
        text = " ".join(str(cause).split()).rstrip(".")
        raise UserError(f"DVC refuses: {text}.") from None
    finally:
        log.setLevel(level)
