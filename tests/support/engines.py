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

import yaml
from dotted import put

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


class Seen(NamedTuple):
    """A stage job as an engine sees it, every field sorted."""

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
    checked(target, "git", "init", "-q")
    commit(target)
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


def checked(folder: Path, *command: str, **environment: str) -> str:
    """Run a command that must succeed and return what it printed."""
    done = run(folder, *command, **environment)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return done.stdout


def commit(folder: Path) -> None:
    """Commit everything that git does not ignore."""
    who = ("-c", "user.name=test", "-c", "user.email=test@example.org")
    checked(folder, "git", "add", "-A")
    checked(folder, "git", *who, "commit", "-q", "--allow-empty", "-m", "results")


def copied(source: Path, target: Path) -> Path:
    """Return a copy of a checkout with its results."""
    return Path(shutil.copytree(source, target / "copy", symlinks=True))


def edit_settings(folder: Path, **changes: Any) -> dict[str, Any]:
    """Set values of the settings, named as in ``run__seeds=[1]``, and return all of them."""
    settings: dict[str, Any] = yaml.safe_load((folder / "params.yaml").read_text())
    for name, value in changes.items():
        put(settings, name.replace("__", "."), value)
    (folder / "params.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    return settings


PRETENDING = """
import importlib.util, sys

class PretendGpus:
    def find_spec(self, name, path=None, target=None):
        if name != "arnas.runtime.device":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module
        def patched(module):
            execute(module)
            cpu = module.torch.device("cpu")
            module.visible_gpus = lambda: NAMES
            module._devices = lambda held, names: module.Devices(held, (cpu,) * len(held))
        spec.loader.exec_module = patched
        return spec

sys.meta_path.insert(0, PretendGpus())
"""


def pretended_gpus(folder: Path, *names: str) -> dict[str, str]:
    """Return an environment in which every Python leases such GPUs and computes on the CPU."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(f"NAMES = {names!r}\n{PRETENDING}")
    return {
        "PYTHONPATH": str(folder),
        "ARNAS_DEVICE": "auto",
        "ARNAS_LEASE_DIR": str(folder / "locks"),
    }


def words(command: str) -> str:
    """Return a command with single spaces, without its environment and what it does to its log."""
    plain = re.sub(r"^(\w+=\S* )+", "", command.split(" 2>&1", maxsplit=1)[0])
    return " ".join(plain.split())


def seen_by_snakemake(folder: Path) -> set[Seen]:
    """Return the jobs of the default target, from a dry run that forces all.

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


def dvc_changed(folder: Path) -> Any:
    """Return what DVC finds changed."""
    return json.loads(checked(folder, "dvc", "status", "--json") or "{}")


def jobs_to_run(folder: Path, *options: str) -> set[str]:
    """Return the commands that a dry run would run."""
    done = run(folder, "snakemake", "-n", *options)
    assert done.returncode == 0, done.stderr + done.stdout
    shells = re.findall(r"\nShell command: ([^\n]*python [^\n]*)", done.stdout + done.stderr)
    return {words(shell) for shell in shells}


def stages_with_changed_params(folder: Path) -> set[str]:
    """Return the commands of the stages whose params DVC finds changed."""
    commands = {name: seen.command for name, (seen, _) in seen_by_dvc(folder).items()}
    return {
        commands[name]
        for name, changes in dvc_changed(folder).items()
        for change in filter(None, changes)
        if any(key.endswith(".yaml") for key in change.get("changed deps", {}))
    }
