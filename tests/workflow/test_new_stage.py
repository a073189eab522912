"""A stage that is added as the page says runs in both engines."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
from engines import ROOT, checked, copied, copy_checkout, jobs_to_run, seen_by_dvc

PAGE = ROOT / "docs/pages/how-to/add-a-stage.md"
NAME = "results/smoke/weight_norms/digits/arnas/0/norms.json"
COMMAND = "python -m arnas weight_norms --dataset digits --network arnas --seed 0"


def append(path: Path, text: str) -> None:
    path.write_text(path.read_text() + text)


def add_the_stage(folder: Path) -> Path:
    """Do in a checkout what the page says."""
    stage, function, rule = re.findall(
        r"^```(?:\{|\w).*?\n(.*?)^```$", PAGE.read_text(), re.M | re.S
    )
    plan = folder / "arnas/pipeline/plan.py"
    before, end, after = plan.read_text().partition(")\n\n\ndef stage_by_name")
    assert end
    plan.write_text(f"{before}{stage.rstrip()},\n{end}{after}")
    append(folder / "arnas/pipeline/versions.yaml", "weight_norms: 1\n")
    (folder / "arnas/stages/weight_norms.py").write_text(function)
    append(folder / "workflow/rules/evaluate.smk", f"\n\n{rule}")
    generated = checked(folder, sys.executable, "-m", "arnas", "plan", "dvc")
    (folder / "dvc.yaml").write_text(generated)
    return folder


def test_both_engines_plan_it(tmp_path: Path) -> None:
    folder = add_the_stage(copy_checkout(tmp_path, "smoke"))
    assert COMMAND in jobs_to_run(folder, NAME)
    found = {name: seen.command for name, (seen, _) in seen_by_dvc(folder).items()}
    assert found["weight_norms@digits-arnas-0"] == COMMAND
    assert "weight_norms_searched@digits-dsara-0" in found


@pytest.mark.long
def test_both_engines_run_it_alone(
    run_by_snakemake: Path, run_by_dvc: Path, tmp_path: Path
) -> None:
    one = add_the_stage(copied(run_by_snakemake, tmp_path / "snakemake"))
    other = add_the_stage(copied(run_by_dvc, tmp_path / "dvc"))
    assert jobs_to_run(one, NAME) == {COMMAND}
    checked(one, "snakemake", "--cores", "1", NAME)
    said = checked(other, "dvc", "repro", "weight_norms@digits-arnas-0")
    assert re.findall(r"Running stage '(.*)'", said) == ["weight_norms@digits-arnas-0"]
    assert (one / NAME).read_bytes() == (other / NAME).read_bytes()
    assert all(norm >= 0 for norm in json.loads((one / NAME).read_text()).values())
