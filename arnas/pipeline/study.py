"""A study: a folder of the user's own that runs the pipeline of the installed package."""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from arnas import __version__
from arnas.config.load import DEFAULT_PATH, load_params
from arnas.config.presets import preset_path, workflow_folder
from arnas.pipeline.dvc import DVC_YAML, STUDY_VERSIONS, dvc_yaml
from arnas.pipeline.plan import VERSIONS_PATH
from arnas.runtime.errors import UserError
from arnas.runtime.files import write_bytes

SNAKEFILE = '''\
"""The pipeline of arnas on params.yaml: `snakemake --cores all`. Written by `arnas init`."""

from arnas.config.presets import workflow_folder


include: str(workflow_folder() / "Snakefile")


localrules:
    study,


rule study:
    default_target: True
    input:
        rules.all.input,
'''
README = """\
# {name}

A study with arnas {version}. What to search, train and attack is in `params.yaml`.

```bash
snakemake --cores all   # runs what params.yaml says; results/NAME/report.html is its report
python -m arnas results   # prints the tables
```

The same under DVC, once `git init && dvc init` has been run here: `dvc repro`.

| command | what it does |
| --- | --- |
| `python -m arnas status` | what is done, running, missing or out of date |
| `python -m arnas cost` | hours, memory and disk that a run would take here |
| `python -m arnas params show` | the settings with every default |
| `python -m arnas init --update` | brings Snakefile and dvc.yaml to the installed version |
"""
IGNORED = """\
/results/*
!/results/tables/
/.arnas/
/.snakemake/
/datasets
/report.html
/params.previous.*.yaml
"""


def generated(folder: Path) -> dict[Path, str]:
    """Return the files of a study that follow from the package and `params.yaml`, with texts."""
    profile = workflow_folder() / "profiles/default/profile.yaml"
    return {
        folder / "Snakefile": SNAKEFILE,
        folder / DVC_YAML: dvc_yaml(load_params(folder / DEFAULT_PATH), STUDY_VERSIONS),
        folder / STUDY_VERSIONS: VERSIONS_PATH.read_text(encoding="utf-8"),
        folder / "profiles/default/profile.yaml": profile.read_text(encoding="utf-8"),
    }


def make_study(folder: Path, preset: str) -> list[str]:
    """Write a new study, and return the files written.

    Raises
    ------
    UserError
        When there is no such preset, or the folder already has one of the files.
    """
    settings = preset_path(preset).read_bytes()
    fixed = {
        folder / DEFAULT_PATH: settings.decode(),
        folder / "README.md": README.format(
            name=folder.resolve().name or "study", version=__version__
        ),
        folder / ".gitignore": IGNORED,
    }
    names = [*fixed, *(folder / name for name in ("Snakefile", DVC_YAML, STUDY_VERSIONS))]
    taken = [str(path) for path in names if os.path.lexists(path)]
    if taken:
        raise UserError(
            f"{', '.join(taken)} already exists: name a new folder, or run `python -m arnas init "
            "--update` in a study to bring its generated files up to date."
        )
    _write(fixed)
    _write(rest := generated(folder))
    return [str(path) for path in (*fixed, *rest)]


def update_study(folder: Path) -> list[str]:
    """Write the generated files of a study again, and return what changed, as a unified diff.

    Settings, README and .gitignore stay as they are.

    Raises
    ------
    UserError
        When the folder is no study, or its settings are not valid.
    """
    if not (folder / STUDY_VERSIONS).is_file():
        raise UserError(
            f"{folder} is no study, it has no {STUDY_VERSIONS}: run this in a folder that "
            "`python -m arnas init FOLDER` has made."
        )
    changed: list[str] = []
    for path, text in generated(folder).items():
        before = path.read_text(encoding="utf-8") if path.is_file() else ""
        lines = difflib.unified_diff(
            before.splitlines(), text.splitlines(), f"{path} before", str(path), lineterm=""
        )
        changed += lines
        _write({path: text})
    return changed


def _write(texts: dict[Path, str]) -> None:
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, text.encode())
