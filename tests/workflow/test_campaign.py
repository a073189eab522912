"""A randomized campaign: whatever is done to a checkout, no stale table is called current.

A walk does what users and bad days do to a small run: settings change and change back, engines run
and are killed, files are deleted, edited and replaced, clocks move. When an engine ends with
success, or `status` finds every job done, the tables are those of a fresh clone with the same
settings.

The long tests take one short walk. For an hour of others, from a seed of your own:

    ARNAS_CAMPAIGN="7 3600" pytest -m long -s tests/workflow/test_campaign.py
"""

from __future__ import annotations

import copy
import json
import os
import random
import re
import shutil
import signal
import subprocess
import time
from contextlib import chdir, suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from dotted import put
from engines import BIN, checked, commit, copied, copy_checkout, edit_settings, jobs_to_run, run
from killing import members

from arnas.config.load import load_params
from arnas.pipeline.explain import explain
from arnas.pipeline.status import Overview, overview
from arnas.runtime.files import digest

pytestmark = pytest.mark.long

KNOBS: dict[str, tuple[Any, Any]] = {
    "whitebox.curve_images": (20, 10),
    "retrain.digits.epochs": (1, 2),
    "blackbox.square_queries": (10, 9),
}
"""Settings that reach the tables by different ways, each with its two values."""
ENGINES = {"snakemake": ("snakemake", "-c", "2"), "dvc": ("dvc", "repro")}
EVERY_JOB = """
from arnas.config.load import load_params
from arnas.pipeline.jobs import planned_jobs
from arnas.pipeline.runner import run_command
for job in planned_jobs(load_params()):
    run_command(job.stage.command, job.axes)
"""
ACTIONS = {
    "run": 4,
    "kill": 3,
    "change": 4,
    "damage": 4,
    "move_the_clock": 2,
    "unpack": 2,
    "adopt": 1,
    "experiment": 1,
    "apply": 1,
    "checkout": 2,
    "commit": 1,
}
"""What may happen, with how often it does."""
FIRST_SEED, SECONDS = map(int, os.environ.get("ARNAS_CAMPAIGN", "1 0").split())
STEPS = 20 if SECONDS else 8
NUMBERS = [signal.SIGKILL, signal.SIGTERM, signal.SIGINT]
DAY = 86_400 * 10**9


def tables(folder: Path) -> dict[str, bytes]:
    """Return the tables of the run by name."""
    return {path.name: path.read_bytes() for path in (folder / "results/tables/smoke").glob("*")}


class References:
    """Fresh clones with complete runs, one for each settings, made when they are asked for."""

    def __init__(self, root: Path) -> None:
        self.root = root
        first = copy_checkout(root / "checkout", "smoke")
        edit_settings(
            first,
            run__searches=[],
            run__searches_on=[],
            run__networks=["arnas_undefended"],
            searches={},
            supernet={},
            whitebox__attacks=["fgsm"],
            reproduction={"orderings": []},
            **{knob.replace(".", "__"): values[0] for knob, values in KNOBS.items()},
        )
        commit(first)
        self.settings = yaml.safe_load((first / "params.yaml").read_text())

    def of(self, wanted: dict[str, Any]) -> Path:
        """Return the clone with these settings."""
        folder = self.root / digest(wanted)
        if not folder.exists():
            making = folder.with_suffix(".making")
            checked(self.root, "git", "clone", "-q", "checkout", str(making))
            (making / "params.yaml").write_text(yaml.safe_dump(wanted, sort_keys=False))
            checked(making, "python", "-c", EVERY_JOB)
            making.rename(folder)
        return folder


class Walk:
    """One checkout and what happens to it."""

    def __init__(self, references: References, place: Path, seed: int) -> None:
        self.references = references
        self.folder = copied(references.of(references.settings), place)
        self.random = random.Random(seed)
        self.groups: list[int] = []
        """Process groups of engines that were killed."""
        if self.random.random() < 0.5:
            self.adopt()

    def step(self) -> None:
        """Let one thing happen, and look."""
        (action,) = self.random.choices(list(ACTIONS), list(ACTIONS.values()))
        print(action, end=" ")
        getattr(self, action)()
        print()
        self.look()

    # What is true of a checkout

    def drift(self) -> list[str]:
        """Return the names of the tables that are not those of a fresh clone."""
        present = yaml.safe_load((self.folder / "params.yaml").read_text())
        found, wanted = tables(self.folder), tables(self.references.of(present))
        return [name for name in wanted if found.get(name) != wanted[name]]

    def overview(self) -> Overview:
        with chdir(self.folder):
            return overview(load_params())

    def look(self) -> None:
        """Check that `status` and `explain` agree, and are right if they find nothing to do."""
        found = self.overview()
        with chdir(self.folder):
            reruns = explain("report", load_params())
        done = set(found.counts) == {"done"}
        if not found.running:
            assert done == (not reruns), (found.counts, reruns)
        if done:
            assert self.drift() == []

    # The engines

    def run(self) -> None:
        engine = self.random.choice(sorted(ENGINES))
        patient = self.random.random() < 0.7
        print(engine, "after orphans" if patient else "", end="")
        if patient:
            self.wait()
        self.end(*ENGINES[engine], alone=not self.living())

    def end(self, *command: str, alone: bool = True) -> None:
        """Let an engine come to its end; it may fail if orphans are at work."""
        # DVC does not keep empty folders; how-to/use-snakemake-and-dvc-together.md says so.
        (self.folder / "results/smoke/search").mkdir(parents=True, exist_ok=True)
        done = run(self.folder, *command)
        said = done.stdout[-3000:] + done.stderr[-3000:]
        assert "Traceback" not in said, said
        if done.returncode:
            assert not alone, said
        elif command[0] == "snakemake":
            assert self.drift() == [], said
            assert set(self.overview().counts) == {"done"}, said
            assert jobs_to_run(self.folder) == set()
        elif self.drift():
            assert jobs_to_run(self.folder), f"both engines call stale tables current: {said}"

    def kill(self) -> None:
        """End an engine on its way, with its jobs or without."""
        self.wait()
        engine, number = self.random.choice(sorted(ENGINES)), self.random.choice(NUMBERS)
        seconds, everybody = self.random.uniform(0.5, 20), self.random.random() < 0.5
        print(engine, number.name, f"{seconds:.1f} s", "and jobs" if everybody else "", end="")
        process = subprocess.Popen(
            ENGINES[engine],
            cwd=self.folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self.groups.append(process.pid)
        with suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
        with suppress(ProcessLookupError):
            (os.killpg if everybody else os.kill)(process.pid, number)
        process.wait(120)

    def living(self) -> list[int]:
        """Return the processes that killed engines have left behind."""
        return [member for group in self.groups for member in members(group)]

    def wait(self) -> None:
        """Let what killed engines have left come to its end."""
        end = time.monotonic() + 200
        while self.living():
            assert time.monotonic() < end, "orphans do not end"
            time.sleep(0.2)

    # Settings and files

    def turn(self) -> tuple[str, Any]:
        """Return a setting and a value for it."""
        knob = self.random.choice(sorted(KNOBS))
        return knob, self.random.choice(KNOBS[knob])

    def change(self) -> None:
        knob, value = self.turn()
        print(knob, value, end="")
        edit_settings(self.folder, **{knob.replace(".", "__"): value})

    def damage(self) -> None:
        roots = (self.folder / name for name in ("results", ".arnas/tokens", ".arnas/state"))
        found = sorted(path for root in roots for path in root.rglob("*") if path.is_file())
        if not found:
            return
        path = self.random.choice(found)
        harm = self.random.choice(["delete", "cut", "append", "flip", "delete folder"])
        keep_date = self.random.random() < 0.5
        print(harm, path.relative_to(self.folder), "as old" if keep_date else "", end="")
        times, content = path.stat(), path.read_bytes()
        if harm == "delete":
            path.unlink()
        elif harm == "delete folder":
            shutil.rmtree(path.parent)
        else:
            changed = {
                "cut": content[: len(content) // 2],
                "append": content + b"\n",
                "flip": content[:-1] + bytes([content[-1] ^ 1]) if content else b"",
            }
            path.write_bytes(changed[harm])
            if keep_date:
                os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))

    def move_the_clock(self) -> None:
        """Date results as a clock that was ahead or behind would have."""
        days, every = self.random.choice([-30, -1, 1, 30]), self.random.randint(1, 5)
        print(days, "days", end="")
        for path in sorted((self.folder / "results").rglob("*"))[::every]:
            stamp = path.stat().st_mtime_ns + days * DAY
            os.utime(path, ns=(stamp, stamp))

    def unpack(self) -> None:
        """Copy results of some settings over what is there, with their dates or without."""
        self.wait()
        other = copy.deepcopy(self.references.settings)
        for knob, values in KNOBS.items():
            put(other, knob, self.random.choice(values))
        part = self.random.choice([".", "smoke/retrain", "smoke/whitebox", "tables/smoke"])
        keep_dates = self.random.random() < 0.5
        print(part, "as old" if keep_dates else "", end="")
        shutil.copytree(
            self.references.of(other) / "results" / part,
            self.folder / "results" / part,
            dirs_exist_ok=True,
            copy_function=shutil.copy2 if keep_dates else shutil.copy,
        )

    # DVC and git

    def adopt(self) -> None:
        self.wait()
        done = run(self.folder, "python", "-m", "arnas", "adopt")
        assert done.returncode in (0, 1), done.stderr
        if done.returncode == 0:
            assert self.drift() == []
            assert json.loads(checked(self.folder, "dvc", "status", "--json") or "{}") == {}

    def experiment(self) -> None:
        self.wait()
        knob, value = self.turn()
        self.end("dvc", "exp", "run", "-S", f"{knob}={value}")

    def apply(self) -> None:
        self.wait()
        listed = checked(self.folder, "git", "for-each-ref", "--format=%(refname)", "refs/exps")
        names = [name for name in re.findall(r"/([^/\n]+)\n", listed) if "EXEC" not in name]
        if names:
            run(self.folder, "dvc", "exp", "apply", self.random.choice(names))

    def checkout(self) -> None:
        self.wait()
        command = self.random.choice(["dvc checkout -q -f", "git checkout -q -f HEAD"])
        print(command, end="")
        run(self.folder, *command.split())

    def commit(self) -> None:
        commit(self.folder)


def test_no_stale_table_is_called_current(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{BIN}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("ARNAS_PARAMS", raising=False)
    references = References(tmp_path)
    end, seed = time.monotonic() + SECONDS, FIRST_SEED
    while seed == FIRST_SEED or time.monotonic() < end:
        print(f"walk {seed}")
        place = tmp_path / f"walk {seed}"
        walk = Walk(references, place, seed)
        try:
            for _ in range(STEPS):
                walk.step()
        finally:
            walk.wait()
        shutil.rmtree(place)
        seed += 1
