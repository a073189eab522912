"""What the tests of the engines share: copies of the checkout, each engine's view of the plan."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]
FAKE_GPUS = ROOT / "tests/fake_gpus"
"""Folder on `PYTHONPATH` that gives a process the pretended GPUs that ``TEST_GPUS`` lists."""
BIN = Path(sys.executable).parent


class Seen(NamedTuple):
    """A stage instance as an engine sees it, every field sorted."""

    command: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def copy_checkout(target: Path, preset: str) -> Path:
    """Copy the working tree without results into a git repository of its own; use a preset."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file() and not name.startswith("results/tables/"):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    shutil.copyfile(target / f"workflow/presets/{preset}.yaml", target / "params.yaml")
    (target / "dvc.lock").unlink(missing_ok=True)
    who = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    for command in (["init", "-q"], ["add", "-A"], [*who, "commit", "-q", "-m", "copy"]):
        subprocess.run(["git", *command], cwd=target, check=True, capture_output=True)
    return target


def run(folder: Path, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command of the environment in `folder`; the caller looks at its exit code."""
    variables = {key: value for key, value in os.environ.items() if key != "ARNAS_PARAMS"}
    variables |= {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", **environment}
    return subprocess.run(
        command,
        cwd=folder,
        env=variables,
        capture_output=True,
        text=True,
        check=False,
        timeout=1200,
    )


def words(command: str) -> str:
    """Return a command with single spaces, without its environment and what it does to its log."""
    plain = re.sub(r"^(\w+=\S* )+", "", command.split(" 2>&1", maxsplit=1)[0])
    return " ".join(plain.split())


def seen_by_snakemake(folder: Path) -> set[Seen]:
    """Return the instances of the default target, from a dry run that forces all.

    Snakemake shows a job's files only if its rule has no message, so the copy loses those.
    """
    for rules in (folder / "workflow/rules").glob("*.smk"):
        rules.write_text(re.sub(r"    message:\n.*\n", "", rules.read_text()))
    done = run(folder, "snakemake", "-n", "--forceall")
    assert done.returncode == 0, done.stderr
    field = r"\n    {}: (?P<{}>[^\n]*)"
    pattern = re.compile(
        r"\nrule \w+:("
        + field.format("input", "input")
        + ")?"
        + field.format("output", "output")
        + r".*?\nShell command: (?P<shell>[^\n]*)",
        re.S,
    )
    return {
        Seen(
            words(match["shell"]),
            tuple(sorted(_without_tokens(match["input"] or ""))),
            tuple(sorted(match["output"].split(", "))),
        )
        for match in pattern.finditer(done.stdout)
    }


def _without_tokens(inputs: str) -> list[str]:
    """Return the inputs of a job that are made by stages or users; every job has one token."""
    paths = [path for path in inputs.split(", ") if path]
    tokens = [path for path in paths if path.startswith(".arnas/tokens/")]
    assert len(tokens) == 1, inputs
    return [path for path in paths if path not in tokens]


def seen_by_dvc(folder: Path) -> dict[str, tuple[Seen, dict[str, list[str]]]]:
    """Return DVC's stages by name, each with the settings it reads by file."""
    code = (
        "import json; from dvc.repo import Repo\n"
        "repo = Repo()\n"
        "def path(out): return str(out.fs_path).removeprefix(repo.root_dir + '/')\n"
        "print(json.dumps([[s.addressing, s.cmd,\n"
        "  [path(d) for d in s.deps if not hasattr(d, 'params')],\n"
        "  [path(o) for o in s.outs],\n"
        "  {path(d): d.params for d in s.deps if hasattr(d, 'params')}]\n"
        "  for s in repo.index.stages]))\n"
    )
    done = run(folder, sys.executable, "-c", code)
    assert done.returncode == 0, done.stderr
    return {
        name: (Seen(words(cmd), tuple(sorted(deps)), tuple(sorted(outs))), params)
        for name, cmd, deps, outs, params in json.loads(done.stdout.splitlines()[-1])
    }


def jobs_to_run(folder: Path, *options: str) -> set[str]:
    """Return the commands that a dry run would run."""
    done = run(folder, "snakemake", "-n", *options)
    assert done.returncode == 0, done.stderr + done.stdout
    shells = re.findall(r"\nShell command: ([^\n]*python [^\n]*)", done.stdout + done.stderr)
    return {words(shell) for shell in shells}


def stages_with_changed_params(folder: Path) -> set[str]:
    """Return the commands of the stages whose params DVC finds changed."""
    done = run(folder, "dvc", "status", "--json")
    assert done.returncode == 0, done.stderr
    commands = {name: seen.command for name, (seen, _) in seen_by_dvc(folder).items()}
    found = set()
    for name, changes in json.loads(done.stdout or "{}").items():
        for change in changes:
            settings: dict[str, Any] = change.get("changed deps", {}) if change else {}
            if any(key.endswith(".yaml") for key in settings):
                found.add(commands[name])
    return found
