"""The recipe for an image installs an environment in which the pipeline runs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest
from engines import BIN, ROOT, copy_checkout, run

VENV = "/opt/venv"
ROOM = 10e9
"""Bytes that an environment takes where uv cannot link to its cache, and some to spare."""


def instructions(keyword: str) -> list[str]:
    """Return the arguments of the recipe's instructions of one kind."""
    recipe = (ROOT / "Containerfile").read_text().replace("\\\n", " ")
    return re.findall(rf"^{keyword} (.*)$", recipe, re.M)


def test_the_recipe_fits_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (image,) = instructions("FROM")
    assert f">={image.split(':')[1].removesuffix('-slim')}" == project["requires-python"]
    pinned = re.search(r"^UV_VERSION := (.*)$", (ROOT / "Makefile").read_text(), re.M)
    assert pinned is not None
    assert any(f"uv=={pinned[1]}" in line for line in instructions("RUN"))
    (user,) = instructions("USER")
    assert user.split(":")[0] not in {"0", "root"}


def test_only_results_are_left_out() -> None:
    """Of what git tracks; and of what it ignores, the large folders are."""
    listed = run(ROOT, "git", "ls-files")
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    patterns = [line.removeprefix("**/") for line in lines if not line.startswith("#")]
    tracked = [Path(name) for name in listed.stdout.splitlines()]
    assert len(tracked) > 100
    for path in tracked:
        places = [str(path), *map(str, path.parents)]
        left_out = any(fnmatch(place, pattern) for place in places for pattern in patterns)
        assert left_out == (path.parts[0] == "results"), path
    assert {".venv*", ".arnas", ".snakemake", ".dvc/cache", ".git"} <= set(patterns)


@pytest.mark.long
def test_its_lines_install_what_runs(tmp_path: Path) -> None:
    """In a fresh environment, found as the image finds it: first in the PATH."""
    if shutil.disk_usage(tmp_path).free < ROOM:
        pytest.skip(f"a second environment needs {ROOM / 1e9:.0f} GB of disk")
    folder = copy_checkout(tmp_path / "arnas", "smoke")
    venv = tmp_path / "venv"
    (variables,) = instructions("ENV")
    assert f"PATH={VENV}/bin:$PATH" in variables
    here = [part for part in os.environ["PATH"].split(os.pathsep) if Path(part) != BIN]
    path = [str(venv / "bin"), f"{sys.base_prefix}/bin", *here]
    environment = os.environ | {"PATH": os.pathsep.join(path)}
    for name in ("PYTHONPATH", "VIRTUAL_ENV"):
        environment.pop(name, None)

    def shell(line: str) -> str:
        command = ["/bin/sh", "-c", line.replace(VENV, str(venv))]
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    for line in instructions("RUN"):
        shell(line)
    assert shell("command -v snakemake").strip() == f"{venv}/bin/snakemake"
    assert "name: smoke" in shell("python -m arnas params show")
    for profile in ("default", "slurm", "kubernetes"):
        said = shell(f"snakemake -n --workflow-profile workflow/profiles/{profile}")
        assert "search_multiobjective" in said
