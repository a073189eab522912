"""Jobs go to Slurm and Kubernetes with what they need, and what is taken away goes on."""

from __future__ import annotations

import os
import re
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fake_slurm
import pytest
import yaml
from engines import BIN, copy_checkout, run
from fake_kubernetes import Cluster, serving
from snakemake_executor_plugin_slurm import ExecutorSettings
from snakemake_executor_plugin_slurm.submit_string import get_submit_command
from snakemake_executor_plugin_slurm.utils import set_gres_string
from snakemake_executor_plugin_slurm.validation import validate_slurm_extra

from arnas.pipeline.plan import STAGES

ROOT = Path(__file__).parents[2]
PROFILES = ROOT / "workflow/profiles"
GPU_RULES = {stage.name for stage in STAGES if stage.gpus != "none"}
SLURM = ("--workflow-profile", "workflow/profiles/slurm")
KUBERNETES = ("--workflow-profile", "workflow/profiles/kubernetes")
MANIFESTS = ROOT / "workflow/kubernetes"


def profile(name: str) -> dict[str, Any]:
    content = yaml.safe_load((PROFILES / name / "profile.yaml").read_text())
    assert isinstance(content, dict)
    return content


@pytest.mark.parametrize("name", ["slurm", "kubernetes"])
def test_a_profile_repeats_the_default_that_it_replaces(name: str) -> None:
    found = profile(name)
    assert found | profile("default") == found


@pytest.mark.parametrize("name", ["slurm", "kubernetes"])
def test_a_profile_names_the_rules_of_the_plan(name: str) -> None:
    """A rule that it misspells is not an error for Snakemake."""
    content = profile(name)
    assert set(content["set-resources"]) == GPU_RULES
    assert set(content["set-threads"]) == GPU_RULES


class Resources(dict[str, Any]):
    """Resources as a job of Snakemake shows them: by key and by attribute."""

    __getattr__ = dict.get


def planned(folder: Path, *options: str) -> dict[str, SimpleNamespace]:
    """Return a job for each rule of a dry run, with the threads and resources it shows."""
    for rules in (folder / "workflow/rules").glob("*.smk"):  # a message would hide them
        rules.write_text(re.sub(r"    message:\n.*\n", "", rules.read_text()))
    done = run(folder, "snakemake", "-n", "--cores", "99", *options)
    assert done.returncode == 0, done.stderr + done.stdout
    found = {}
    for block in re.split(r"\n(?=rule )", done.stdout + done.stderr)[1:]:
        threads = re.search(r"\n    threads: (\d+)", block)
        listed = re.search(r"\n    resources: ([^\n]*)", block)
        assert listed is not None
        pairs = (pair.split("=", 1) for pair in listed[1].split(", "))
        resources = {key: int(text) if text.isdecimal() else text for key, text in pairs}
        found[block.split(":")[0].removeprefix("rule ")] = SimpleNamespace(
            threads=int(threads[1]) if threads else 1,
            resources=Resources(resources),
            command=block.split("Shell command: ")[-1].splitlines()[0],
        )
    return found


def submitted(job: SimpleNamespace) -> str:
    """Return the call by which the plugin hands a job to Slurm."""
    validate_slurm_extra(job)
    params = {
        "run_uuid": "run",
        "slurm_logfile": "log",
        "comment_str": "rule",
        "account": "",
        "partition": f"-p {job.resources.slurm_partition}",
        "workdir": "here",
    }
    settings = ExecutorSettings(requeue=profile("slurm")["slurm-requeue"])
    call: str = get_submit_command(job, params, settings=settings)
    return call + set_gres_string(job)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_checkout(tmp_path_factory.mktemp("clusters"), "smoke")


def test_every_job_asks_slurm_for_what_it_needs(checkout: Path) -> None:
    """Training on four GPUs, as somebody would write it into the profile."""
    settings = checkout / "workflow/profiles/slurm/profile.yaml"
    wanted = settings.read_text().replace(
        "retrain_zoo: {slurm_partition: gpu, gpu: 1,", "retrain_zoo: {slurm_partition: gpu, gpu: 4,"
    )
    settings.write_text(wanted)
    found = planned(checkout, *SLURM)
    found.pop("all")
    assert set(found) == {stage.name for stage in STAGES}
    for rule, job in found.items():
        call = submitted(job)
        gpu = rule in GPU_RULES
        gpus = 4 if rule == "retrain_zoo" else 1
        assert f" -p {'gpu' if gpu else 'cpu'} " in call
        assert f" --mem {16000 if gpu else 4000} " in call
        assert f" --cpus-per-task={4 if gpu else 1} " in call
        assert re.search(r" -t [1-9]\d+ ", call)
        assert call.endswith(f" --gpus={gpus}") == gpu
        assert (f"ARNAS_GPUS={gpus} " in job.command) == gpu
        assert " --requeue " in call


def wait_for_state(folder: Path, stage: str, seconds: float = 240) -> None:
    """Wait until a run of a stage has saved its state."""
    end = time.monotonic() + seconds
    while not list((folder / ".arnas/state" / stage).rglob("state.*.safetensors")):
        assert time.monotonic() < end, f"{stage} has saved nothing"
        time.sleep(0.1)


@pytest.mark.long
def test_jobs_that_slurm_takes_away_go_on(run_by_snakemake: Path, tmp_path: Path) -> None:
    """Preempted and out of time, a search ends with the bytes of one that nobody disturbed."""
    target = "results/smoke/search/dsara/0/multiobjective/state.safetensors"
    taken = copy_checkout(tmp_path / "taken", "smoke")
    environment = os.environ | fake_slurm.install(tmp_path / "slurm") | {"ARNAS_SAVE_SECONDS": "0"}
    root = Path(environment["FAKE_SLURM"])
    options = ("--slurm-init-seconds-before-status-checks", "1", "--latency-wait", "5")
    with (tmp_path / "said").open("w") as said:
        engine = subprocess.Popen(
            ["snakemake", *SLURM, *options, target],
            cwd=taken,
            env=environment,
            stdout=said,
            stderr=said,
        )
        try:
            for number, stage, end in (
                (2, "adversarial", "PREEMPTED"),
                (3, "multiobjective", "TIMEOUT"),
            ):
                wait_for_state(taken, f"search_{stage}")
                fake_slurm.take_away(root / str(number), end)
            assert engine.wait(timeout=600) == 0, (tmp_path / "said").read_text()[-3000:]
        finally:
            engine.kill()
    assert (taken / target).read_bytes() == (run_by_snakemake / target).read_bytes()
    assert not list((taken / ".arnas/state").rglob("state.*.safetensors")), (
        "it went on from another"
    )
    calls = [fake_slurm.asked(job) for job in fake_slurm.jobs(root)]
    assert [call.comment.split("_wildcards")[0] for call in calls] == [
        "rule_data",
        "rule_search_adversarial",
        "rule_search_multiobjective",
        "rule_search_multiobjective",
    ]
    assert [call.partition for call in calls] == ["cpu", "gpu", "gpu", "gpu"]
    assert [call.gpus for call in calls] == [None, "1", "1", "1"]
    assert (root / "2/requeued").read_text() == "again\n"
    assert list((taken / ".snakemake/slurm_logs").rglob("*.log"))


def test_every_job_asks_kubernetes_for_what_it_needs(checkout: Path) -> None:
    found = planned(checkout, *KUBERNETES)
    found.pop("all")
    assert set(found) == {stage.name for stage in STAGES}
    for rule, job in found.items():
        assert job.resources.get("gpu") == (1 if rule in GPU_RULES else None)
        assert job.resources.mem_mb == (16000 if rule in GPU_RULES else 4000)
        assert job.threads == (4 if rule in GPU_RULES else 1)


def manifests() -> dict[str, list[dict[str, Any]]]:
    """Return the objects of each file for Kubernetes, by kind."""
    found: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(MANIFESTS.glob("*.yaml")):
        for content in yaml.safe_load_all(path.read_text()):
            found.setdefault(content["kind"], []).append(content)
    return found


def test_manifests_fit_together() -> None:
    """What one object names, another one is."""
    found = manifests()
    claims = {claim["metadata"]["name"] for claim in found["PersistentVolumeClaim"]}
    accounts = {account["metadata"]["name"] for account in found["ServiceAccount"]}
    assert len(found["Job"]) == 3
    images = set()
    for job in found["Job"]:
        pod = job["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        images.add(container["image"])
        mounted = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert set(mounted) == {volume["name"] for volume in pod["volumes"]}
        assert container.get("workingDir", "/shared/arnas").startswith(mounted["shared"])
        used = {
            volume["persistentVolumeClaim"]["claimName"]
            for volume in pod["volumes"]
            if "persistentVolumeClaim" in volume
        }
        assert used == claims
        assert pod.get("serviceAccountName", "arnas") in accounts
        assert pod["restartPolicy"] == "Never"
        assert pod["securityContext"]["runAsUser"] != 0
    assert len(images) == 1
    assert found["PersistentVolumeClaim"][0]["spec"]["accessModes"] == ["ReadWriteMany"]
    (rule,) = found["Role"][0]["rules"]
    assert set(rule["verbs"]) == {"create", "get", "delete"}
    (binding,) = found["RoleBinding"]
    assert binding["roleRef"]["name"] == found["Role"][0]["metadata"]["name"]
    assert {subject["name"] for subject in binding["subjects"]} == accounts


@pytest.mark.long
def test_commands_of_the_manifests_are_commands(tmp_path: Path) -> None:
    """As a dry run, in a checkout that a killed Snakemake has left locked."""
    folder = copy_checkout(tmp_path, "smoke")
    (folder / ".snakemake/locks").mkdir(parents=True)
    (folder / ".snakemake/locks/0.output.lock").write_text(f"{folder}/results/smoke/x\n")
    commands = []
    for job in manifests()["Job"]:
        container = job["spec"]["template"]["spec"]["containers"][0]
        if "args" in container:
            (script,) = container["args"]
            commands.append([*container["command"], f"{script} --dry-run"])
    assert len(commands) == 2
    for command in commands:
        done = run(folder, *command)
        assert done.returncode == 0, done.stderr
        assert "search_multiobjective" in done.stdout + done.stderr
    assert not list((folder / ".snakemake/locks").iterdir())


@pytest.mark.long
def test_jobs_that_kubernetes_takes_away_go_on(run_by_snakemake: Path, tmp_path: Path) -> None:
    """Through the API, on a pod's eviction, and with a Job that was never there."""
    target = "results/smoke/retrain/digits/arnas/0/selected.safetensors"
    taken = copy_checkout(tmp_path / "taken", "smoke")
    environment = os.environ | {
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "ARNAS_SAVE_SECONDS": "0",
    }
    cluster = Cluster(environment)
    with serving(cluster) as address, (tmp_path / "said").open("w") as said:
        there = environment | {"KUBERNETES_API": address}
        engine = subprocess.Popen(
            ["snakemake", *KUBERNETES, "--seconds-between-status-checks", "1", target],
            cwd=taken,
            env=there,
            stdout=said,
            stderr=said,
        )
        try:
            wait_for_state(taken, "retrain")
            cluster.evict("arnas-1")
            assert engine.wait(timeout=600) == 0, (tmp_path / "said").read_text()[-3000:]
        finally:
            engine.kill()
        jobs_py = ["python", "workflow/kubernetes/jobs.py", "status"]
        gone = run(taken, *jobs_py, "arnas-9", KUBERNETES_API=address)
        unreachable = run(taken, *jobs_py, "arnas-1", KUBERNETES_API="http://127.0.0.1:1")
        cancelled = run(taken, "workflow/kubernetes/cancel", "x", "arnas-1", KUBERNETES_API=address)
    assert (taken / target).read_bytes() == (run_by_snakemake / target).read_bytes()
    assert not list((taken / ".arnas/state").rglob("state.*.safetensors")), (
        "it went on from another"
    )
    assert cluster.evictions == 1
    assert (gone.stdout, unreachable.stdout) == ("failed\n", "running\n")
    assert cancelled.returncode == 0, cancelled.stderr
    assert list(cluster.jobs) == ["arnas-0"]
