"""A Slurm of one machine: the commands that the executor plugin calls, run for real but locally.

Called as ``fake_slurm.py COMMAND ARGUMENTS...``; jobs are folders of ``$FAKE_SLURM``. Only a job's
own process gets the signals, as under the cgroups of Slurm; its children get SIGKILL with it.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

COMMANDS = ("sbatch", "srun", "sacct", "sinfo", "scancel", "scontrol")


def install(folder: Path) -> dict[str, str]:
    """Write the commands to `folder`; return the environment in which they are found."""
    (folder / "bin").mkdir(parents=True)
    (folder / "jobs").mkdir()
    for name in COMMANDS:
        script = folder / "bin" / name
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{__file__}" {name} "$@"\n')
        script.chmod(0o755)
    return {
        "PATH": os.pathsep.join(
            [str(folder / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]]
        ),
        "FAKE_SLURM": str(folder / "jobs"),
    }


def jobs(root: Path) -> list[Path]:
    """Return the folders of all jobs, in the order of submission."""
    return sorted(root.iterdir(), key=lambda path: int(path.name))


def asked(job: Path) -> argparse.Namespace:
    """Return what a job asked for."""
    return parse(json.loads((job / "call.json").read_text()))


def parse(words: list[str]) -> argparse.Namespace:
    """Return the options of an sbatch call; an unknown one is an error, as it is for sbatch."""
    parser = argparse.ArgumentParser("sbatch", allow_abbrev=False)
    for option in ("job-name", "output", "export", "comment", "gpus", "wrap", "ntasks"):
        parser.add_argument(f"--{option}")
    for option in ("mem", "cpus-per-task"):
        parser.add_argument(f"--{option}", type=int, required=True)
    parser.add_argument("-p", "--partition", required=True)
    parser.add_argument("-t", "--time", type=int, required=True)
    parser.add_argument("-D", "--chdir", required=True)
    parser.add_argument("--requeue", action="store_true")
    parser.add_argument("--parsable", action="store_true", required=True)
    return parser.parse_args(words)


def take_away(job: Path, end: str) -> None:
    """End a running job as Slurm does when its time is up (TIMEOUT) or on preemption."""
    (job / "end").write_text(end)
    pid = int((job / "pid").read_text())
    os.kill(pid, signal.SIGTERM)
    time.sleep(1)
    os.killpg(pid, signal.SIGKILL)


def sbatch(root: Path, words: list[str]) -> None:
    parse(words)
    job = root / str(len(list(root.iterdir())) + 1)
    job.mkdir()
    (job / "call.json").write_text(json.dumps(words))
    (job / "state").write_text("PENDING")
    command = [sys.executable, __file__, "keep", job.name]
    subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL)
    print(job.name)


def keep(root: Path, words: list[str]) -> None:
    """Run a job, again if it was preempted, until it ends."""
    job = root / words[0]
    call = asked(job)
    while True:
        (job / "state").write_text("RUNNING")
        with Path(call.output.replace("%j", job.name)).open("a") as log:
            process = subprocess.Popen(
                ["/bin/sh", "-c", call.wrap],
                cwd=call.chdir,
                env=os.environ | {"SLURM_JOB_ID": job.name},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            (job / "pid").write_text(str(process.pid))
            process.wait()
        end = job / "end"
        state = "FAILED" if process.returncode else "COMPLETED"
        if end.exists():
            state = end.read_text()
            end.unlink()
        (job / "state").write_text(state)
        if not (state == "PREEMPTED" and call.requeue):
            break
        with (job / "requeued").open("a") as stream:
            stream.write("again\n")


def srun(root: Path, words: list[str]) -> None:
    command = [word for word in words if not word.startswith("-")]
    position = words.index(command[0])
    os.execvp(words[position], words[position:])


def sacct(root: Path, words: list[str]) -> None:
    if "--name" not in words:
        sys.exit("no accounts here")
    for job in jobs(root):
        print(f"{job.name}|{(job / 'state').read_text()}")


def sinfo(root: Path, words: list[str]) -> None:
    print("PARTITION\nlogin*")


def scancel(root: Path, words: list[str]) -> None:
    for word in words:
        take_away(root / word, "CANCELLED")


def scontrol(root: Path, words: list[str]) -> None:
    print("MaxArraySize = 1001\nMinJobAge = 2 sec")


if __name__ == "__main__":
    globals()[sys.argv[1]](Path(os.environ["FAKE_SLURM"]), sys.argv[2:])
