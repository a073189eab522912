"""The pipeline as DVC sees it: its `dvc.yaml`, and results that it has not made itself.

``dvc commit -f`` believes whatever lies in the folder, so `adopt` first checks every manifest
against the settings, the stage's version, the inputs and the bytes of the outputs.
"""

from __future__ import annotations

import logging
import os
import textwrap
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from arnas.config.load import DEFAULT_PATH, load_params, params_path, read_yaml
from arnas.config.params import Params
from arnas.pipeline.freshness import ReadManifest, expected, why_stale
from arnas.pipeline.jobs import Job, planned_jobs, sources
from arnas.pipeline.plan import (
    AXES,
    STAGES,
    TABLES,
    Grid,
    Stage,
    stage_by_command,
    stage_versions,
)
from arnas.runtime.abandoned import state_slots
from arnas.runtime.errors import UserError
from arnas.runtime.history import state_root
from arnas.runtime.manifest import manifest_or_empty

DVC_YAML = Path("dvc.yaml")
VERSIONS = "arnas/pipeline/versions.yaml"
STUDY_VERSIONS = "versions.yaml"
"""In a study, which has no copy of the package: see `arnas.pipeline.study`."""
HEADER = """\
# The pipeline as DVC runs it: `dvc repro`, `dvc exp run -S whitebox.autoattack_images=32`.
# Generated from arnas/pipeline/plan.py: change the plan, then `make plan`.
# "failed to parse ... in 'dvc.yaml'" means a mistake in params.yaml, such as an empty file:
# `python -m arnas params show` names it.

"""
PLOTS = """\
metrics:
- {tables}/metrics.json

plots:
- Accuracy against epsilon:
    template: scatter
    x: budget
    y:
      {tables}/curve.csv: accuracy
    x_label: epsilon
    y_label: percent
- Search:
    title: Losses of the supernet
    template: linear
    x: epoch
    y:
      {tables}/search.csv: [train_loss, adversarial_loss, natural_loss]
    x_label: epoch
    y_label: cross-entropy
- Share of the natural gradient:
    template: linear
    x: step
    y:
      {tables}/gamma.csv: gamma
    x_label: step of the second stage
    y_label: gamma
- Training:
    title: Accuracy, clean and under PGD, on training and validation images
    template: linear
    x: epoch
    y:
      {tables}/training.csv: [train_clean, train_robust, val_clean, val_robust]
    x_label: epoch
    y_label: percent
"""


def dvc_yaml(params: Params, versions: str | None = None) -> str:
    """Return the text of ``dvc.yaml``: every stage of the plan.

    `versions` is the file with the versions of the stages, by default what the folder has. The text
    depends on the settings only where they name files of the user's own, which become
    dependencies of the stages that read them.
    """
    own: dict[str, dict[Path, None]] = {}
    versions = versions or (STUDY_VERSIONS if Path(STUDY_VERSIONS).is_file() else VERSIONS)
    for job in planned_jobs(params):
        own.setdefault(job.stage.name, {}).update(dict.fromkeys(job.user_files))
    blocks = []
    for stage in STAGES:
        for number, grid in enumerate(stage.grids):
            name = f"{stage.name}_searched" if number else stage.name
            files = [str(path) for path in own.get(stage.name, {})]
            text = yaml.safe_dump(
                {name: _dvc_stage(stage, grid, files, versions)}, sort_keys=False, width=100
            )
            blocks.append(textwrap.indent(text, "  "))
    return HEADER + "stages:\n" + "\n".join(blocks) + "\n" + PLOTS.format(tables=_for_dvc(TABLES))


def _dvc_stage(stage: Stage, grid: Grid, files: Sequence[str], versions: str) -> dict[str, Any]:
    """Return the entry of a stage."""
    options = "".join(f" --{axis} ${{item.{axis}}}" for axis in grid)
    entry = {
        "desc": stage.help,
        "matrix": {axis: f"${{run.{field}}}" for axis, field in grid.items()},
        "cmd": f"python -m arnas {stage.command}{options}",
        "deps": [*map(_for_dvc, stage.inputs.values()), *_gathered_folders(stage), *files],
        "params": [*map(_for_dvc, stage.params), {versions: [stage.command]}],
        "outs": [
            # Tables are kept in git.
            {path: {"cache": False}} if path.startswith("results/tables/") else path
            for path in map(_for_dvc, [*stage.outputs.values(), stage.manifest])
        ],
    }
    return {key: value for key, value in entry.items() if value}


def _gathered_folders(stage: Stage) -> list[str]:
    """Return the folders that an aggregate depends on, as DVC takes no list of files from `run`.

    Each ends before the first axis that the aggregate lacks. Which jobs enter still comes from
    `run`, not from what lies in the folders.
    """
    found: dict[str, None] = {}
    for command, keys in stage.gathers.items():
        for key in keys:
            parts = stage_by_command(command).outputs[key].split("/")
            lacking = (f"{{{axis}}}" for axis in AXES if axis not in stage.axes)
            ends = [parts.index(axis) for axis in lacking if axis in parts]
            found["/".join(parts[: min(ends, default=-1)])] = None
    return [_for_dvc(folder) for folder in found]


def _for_dvc(template: str) -> str:
    """Return a template of the plan with DVC's names in it."""
    fields = {axis: f"${{item.{axis}}}" for axis in AXES}
    return template.format(name="${name}", search_dataset="${run.search_dataset}", **fields)


def check_study() -> None:
    """Refuse to run in a study whose files another version of the package has written.

    DVC compares the versions of the stages in the study, and the stages are the package's.
    """
    path = Path(STUDY_VERSIONS)
    if path.is_file() and read_yaml(path) != stage_versions():
        raise UserError(
            f"{path} is not of the installed version of arnas: run `python -m arnas init --update`,"
            " which shows what changed."
        )


def check_settings() -> None:
    """Refuse to run a stage for DVC on settings that DVC does not record."""
    if "DVC_STAGE" in os.environ:
        _refuse_other_settings(load_params(DEFAULT_PATH))


def check_settings_kept(job: Job, params: Params) -> None:
    """Refuse to end a stage of DVC, which records the settings of its end, if they have changed."""
    if "DVC_STAGE" in os.environ and expected(job, load_params()) != expected(job, params):
        raise UserError(
            f"the settings of {job.title} were changed while it ran, and DVC would record the new "
            "ones: run `dvc repro` again."
        )


def _refuse_other_settings(params: Params) -> None:
    """Refuse ``ARNAS_PARAMS`` with other settings than those of ``params.yaml``."""
    if params_path() != DEFAULT_PATH and load_params() != params:
        raise UserError(
            f"ARNAS_PARAMS names {params_path()}, but DVC reads {DEFAULT_PATH}, which differs: "
            "unset it, or make these settings the ones of params.yaml."
        )


def undeclared(job: Job) -> list[Path]:
    """Return the files of the user's own that a job run by DVC reads and DVC does not know of."""
    if "DVC_STAGE" not in os.environ or not job.user_files:
        return []
    try:
        text = DVC_YAML.read_text(encoding="utf-8")
    except OSError:
        return []
    return [path for path in job.user_files if f"- {path}\n" not in text]


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
        While a job of the run is being made, when the settings are not those that DVC reads,
        or when DVC is not there or refuses.
    """
    params = load_params(DEFAULT_PATH)
    _refuse_other_settings(params)
    planned = planned_jobs(params)
    _refuse_while_running(planned)
    refused = unfit(planned, params)
    with _dvc() as repo:
        names = {" ".join(stage.cmd.split()): stage.addressing for stage in repo.index.stages}
        news = set(repo.status())
        fit = [job for job in planned if job.title not in refused]
        wanted = [i for i in fit if names.get(" ".join(i.command)) in news]
        if not dry_run:
            for target in _targets({names[" ".join(i.command)] for i in wanted}, names.values()):
                # Where DVC copies, the files can stay what they are, and as old as they are.
                repo.commit(target, force=True, relink="type" in repo.config["cache"])
        left = set() if dry_run else set(repo.status())
    for job in wanted:
        if names[" ".join(job.command)] in left:
            refused[job.title] = "DVC still finds it changed, see `dvc status`"
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


def _refuse_while_running(planned: list[Job]) -> None:
    """Raise while a process of this checkout makes a result of the run."""
    results = {str(job.manifest) for job in planned}
    for slot in state_slots(state_root()):
        if slot.making in results:
            raise UserError(
                f"{slot.title} is being made by {slot.who}: wait for it, `python -m arnas status "
                "--watch` shows when it is done."
            )


def unfit(planned: list[Job], params: Params) -> dict[str, str]:
    """Return by title why results are not to be relied upon; every output is read."""
    read: ReadManifest = cache(manifest_or_empty)
    found: dict[str, str] = {}
    made_from = sources(planned)
    for job in planned:
        late = next((s.title for s in made_from[job.title] if s.title in found), None)
        reason = why_stale(job, params, read, every=True)
        if reason is None and late is not None:
            reason = f"it comes from {late}"
        if reason is not None:
            found[job.title] = reason
    return found


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
