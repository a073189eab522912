"""Our CPU time over a peer's, for the same work in the same process.

    python benchmarks/bench.py [--only pgd,supernet] [--jobs 2]

Every group of rows runs in a process of its own, on one thread, where both sides take turns: a
ratio is the median over the rounds. A row whose rounds disagree is not judged. A run of all groups
writes its table to `benchmarks/results/`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import attacks, training  # noqa: E402
from benchmarks.table import markdown  # noqa: E402
from benchmarks.timing import row  # noqa: E402

RESULTS = ROOT / "benchmarks/results"
GROUPS = {
    "autoattack": attacks.AUTOATTACK,
    "pgd": attacks.PGD,
    "compiled": attacks.COMPILED,
    "overhead": attacks.OVERHEAD,
    "supernet": training.SUPERNET,
    "search": training.SEARCH,
    "training": training.TRAINING,
}
"""The longest first, so that two processes end at about the same time."""
VARIABLES = {"compiled": {"ARNAS_COMPILE": "1"}}
"""Environment of a group's process beyond the present one."""


def measure(group: str) -> list[dict[str, Any]]:
    """Return the rows of a group, measured in this process."""
    torch.set_num_threads(1)
    rows = []
    for case in GROUPS[group]:
        print(f"{case.work} ...", file=sys.stderr, flush=True)
        rows.append(row(case))
    return rows


def measure_apart(group: str) -> list[dict[str, Any]]:
    """Return the rows of a group, measured in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, "--group", group],
        env=os.environ | VARIABLES.get(group, {}),
        stdout=subprocess.PIPE,
        check=True,
    )
    rows: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return rows


def cpu_model() -> str:
    """Return the name of the processor."""
    try:
        found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor() or platform.machine()


def main() -> None:
    """Measure the groups, print the table and keep it where it is complete."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=",".join(GROUPS), help="groups, separated by commas")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), help="at a time")
    parser.add_argument("--group", choices=GROUPS, help=argparse.SUPPRESS)
    wanted = parser.parse_args()
    if wanted.group:
        print(json.dumps(measure(wanted.group)))
        return
    groups = wanted.only.split(",")
    if unknown := set(groups) - set(GROUPS):
        parser.error(f"no group {', '.join(unknown)}: there are {', '.join(GROUPS)}")
    environment = {
        "date": date.today().isoformat(),
        "cpu": cpu_model(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "load": [os.getloadavg()[0]],
    }
    with ThreadPoolExecutor(wanted.jobs) as pool:
        found = list(pool.map(measure_apart, groups))
    environment["load"].append(os.getloadavg()[0])
    results = {"environment": environment, "rows": [row for rows in found for row in rows]}
    print(markdown(results), end="")
    if set(groups) == set(GROUPS):
        machine = re.sub(r"\W+", "-", environment["cpu"]).strip("-").lower()
        for name in ("latest", f"{environment['date']}-{machine}"):
            (RESULTS / f"{name}.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
