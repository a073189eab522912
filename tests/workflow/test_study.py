"""`arnas init`: a folder of the user's own runs the pipeline of the package from a wheel."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
from engines import ROOT, checked, run

from arnas.pipeline.study import make_study, update_study
from arnas.runtime.errors import UserError

SPLITS = "results/smoke/data/digits/splits.safetensors"


@pytest.mark.long
def test_both_engines_run_in_a_study_of_the_installed_package(tmp_path: Path) -> None:
    source, site, study = (tmp_path / name for name in ("source", "site", "study"))
    for name in ("arnas", "workflow"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy2(ROOT / name, source / name)
    pip = (sys.executable, "-m", "pip", "install", "--no-deps", "--no-build-isolation", "-q")
    checked(tmp_path, *pip, "--target", str(site), str(source))
    shutil.rmtree(source)
    paths = {"PYTHONPATH": str(site)}

    def succeeds(folder: Path, *command: str) -> str:
        done = run(folder, *command, **paths)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    succeeds(tmp_path, "python", "-m", "arnas", "init", "study", "--preset", "smoke")
    assert "report" in succeeds(study, "snakemake", "-n", "--quiet", "rules")
    succeeds(study, "snakemake", "--cores", "1", SPLITS)
    made = (study / SPLITS).read_bytes()
    (study / SPLITS).unlink()
    checked(study, "git", "init", "-q")
    succeeds(study, "dvc", "init", "-q")
    succeeds(study, "dvc", "repro", "-q", "data@digits")
    assert (study / SPLITS).read_bytes() == made


def test_an_update_shows_what_changed_and_leaves_the_settings(tmp_path: Path) -> None:
    study = tmp_path / "study"
    make_study(study, "smoke")
    assert update_study(study) == []
    settings = (study / "params.yaml").read_bytes()
    text = (study / "dvc.yaml").read_text()
    (study / "dvc.yaml").write_text(text.replace("desc: Prepare", "desc: Make"))
    (study / "versions.yaml").write_text("data: 1\n")
    done = run(study, "python", "-m", "arnas", "data", "--dataset", "digits", PYTHONPATH=str(ROOT))
    assert (done.returncode, "arnas init --update" in done.stderr) == (2, True)
    changes = update_study(study)
    assert [line for line in changes if line.startswith("-data")] == ["-data: 1"]
    assert (study / "dvc.yaml").read_text() == text
    assert (study / "params.yaml").read_bytes() == settings


def test_nothing_of_the_users_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("mine")
    with pytest.raises(UserError, match=r"params\.yaml already exists: name a new folder"):
        make_study(tmp_path, "smoke")
    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"]
    with pytest.raises(UserError, match=r"is no study, it has no versions\.yaml"):
        update_study(tmp_path)
