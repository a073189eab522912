"""Attack a network of a finished digits run with `python -m arnas attack`, and compare the outcomes
with those that its tables were made from, image by image. Run by reproduce.sh in its copy.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from arnas.config.load import load_params
from arnas.evaluation.record import read_record
from arnas.evaluation.result import ROBUST, EvalResult
from arnas.pipeline.jobs import find_job
from arnas.runtime.files import load_tensors

NETWORK = "resnet18"
PARAMS = load_params(Path("params.yaml"))
OPTIONS = PARAMS.whitebox
JOB = find_job("whitebox", {"dataset": "digits", "network": NETWORK, "seed": "0"}, PARAMS)


def attack(suite: str, *words: str) -> EvalResult:
    """Return what the command writes."""
    with tempfile.TemporaryDirectory() as folder:
        line = [sys.executable, "-m", "arnas", "attack", "--suite", suite, *words]
        line += ["--model", str(JOB.inputs["selected"]), "--data", str(JOB.inputs["splits"])]
        line += ["--threat", f"linf:{PARAMS.threat['digits'].epsilon}", "--checks", "none"]
        subprocess.run([*line, "--out", f"{folder}/found"], check=True)
        return read_record(Path(folder, "found.json"))


single = [name for name in OPTIONS.attacks if name != "autoattack"]
outcomes = attack(",".join(single), "--combine", "each").outcomes
robust = {name: outcome == ROBUST for name, outcome in outcomes.items()}
robust["autoattack"] = attack(OPTIONS.suite, "--n", str(OPTIONS.autoattack_images)).robust_flags
table, _ = load_tensors(JOB.outputs["outcomes"])
for name, flags in robust.items():
    differ = int((table[f"selected.{name}"].bool() != flags).sum())
    print(f"{NETWORK}, {name}: {int(flags.sum())} of {len(flags)} robust, {differ} differ")
    if differ:
        sys.exit(f"error: the table of {NETWORK} and the command differ under {name}")
