"""Runs each job of Snakemake as a Job of Kubernetes, in pods that share one volume.

Called by Snakemake's executor cluster-generic, in a pod of the cluster:

    jobs.py submit JOBSCRIPT   starts a Job and prints its name
    jobs.py status NAME        prints running, success or failed
    jobs.py cancel NAME...     removes Jobs and their pods

Snakemake's own executor for Kubernetes is of no use here: it takes for granted that nothing is
shared, whatever ``--shared-fs-usage`` says, and moves every file through an object store.

Outside of a pod KUBERNETES_API is the API's address (http://127.0.0.1:8001 under `kubectl proxy`)
and KUBERNETES_NAMESPACE the namespace.
"""

from __future__ import annotations

import json
import os
import ssl
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import yaml

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
TEMPLATE = Path(__file__).with_name("job.yaml")
PROPERTIES = "# properties = "
SECONDS = 30


def ask(method: str, name: str = "", body: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return what the API answers about the namespace's Jobs, or about one of them."""
    root = os.environ.get("KUBERNETES_API")
    headers = {"Content-Type": "application/json"}
    context = None
    if root:
        namespace = os.environ.get("KUBERNETES_NAMESPACE", "default")
    else:
        host, port = (os.environ[f"KUBERNETES_SERVICE_{part}"] for part in ("HOST", "PORT"))
        root = f"https://{f'[{host}]' if ':' in host else host}:{port}"
        namespace = (ACCOUNT / "namespace").read_text().strip()
        headers["Authorization"] = f"Bearer {(ACCOUNT / 'token').read_text().strip()}"
        context = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
    address = f"{root}/apis/batch/v1/namespaces/{namespace}/jobs{name and f'/{name}'}"
    data = None if body is None else json.dumps(body).encode()
    request = Request(address, data, headers, method=method)
    with urlopen(request, timeout=SECONDS, context=context) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


def filled(template: dict[str, Any], jobscript: Path) -> dict[str, Any]:
    """Put a job's command and what it needs into the template, and return it."""
    lines = jobscript.read_text().splitlines()
    line = next(line for line in lines if line.startswith(PROPERTIES))
    properties = json.loads(line.removeprefix(PROPERTIES))
    needs = properties["resources"]
    container = template["spec"]["template"]["spec"]["containers"][0]
    container["command"] = ["sh", str(jobscript.absolute())]
    container["resources"] = {
        "requests": {"cpu": str(properties["threads"]), "memory": f"{needs['mem_mb']}M"}
    }
    if needs.get("gpu"):
        container["resources"]["limits"] = {"nvidia.com/gpu": str(needs["gpu"])}
    template["metadata"]["annotations"] = {"arnas/rule": properties["rule"]}
    return template


def submit(jobscript: str) -> None:
    """Start a Job and print its name."""
    job = filled(yaml.safe_load(TEMPLATE.read_text()), Path(jobscript))
    print(ask("POST", body=job)["metadata"]["name"])


def status(name: str) -> None:
    """Print whether a Job runs; Snakemake would give up if it got no answer."""
    try:
        conditions = ask("GET", name).get("status", {}).get("conditions") or []
    except HTTPError as error:
        print("failed" if error.code == 404 else "running")
        return
    except (URLError, TimeoutError):
        print("running")
        return
    held = {each["type"] for each in conditions if each["status"] == "True"}
    print("success" if "Complete" in held else "failed" if "Failed" in held else "running")


def cancel(*names: str) -> None:
    """Remove Jobs and their pods."""
    for name in names:
        with suppress(HTTPError):  # the next one has to go, whatever happened to this one
            ask("DELETE", name, {"propagationPolicy": "Background"})


if __name__ == "__main__":
    {"submit": submit, "status": status, "cancel": cancel}[sys.argv[1]](*sys.argv[2:])
