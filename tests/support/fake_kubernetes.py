"""The part of Kubernetes' API that jobs.py calls; the command of a Job runs for real, but here."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PATH = "/apis/batch/v1/namespaces/default/jobs"


class Cluster:
    """Jobs by name, with what they asked for and how they are."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.jobs: dict[str, dict[str, Any]] = {}
        self.evictions = 0
        self._environment = environment
        self._pods: dict[str, subprocess.Popen[bytes]] = {}
        self._evicted: set[str] = set()

    def create(self, job: dict[str, Any]) -> dict[str, Any]:
        name = f"{job['metadata']['generateName']}{len(self.jobs)}"
        self.jobs[name] = {"spec": job, "status": {}}
        threading.Thread(target=self._run, args=(name,), daemon=True).start()
        return {"metadata": {"name": name}}

    def _run(self, name: str) -> None:
        """Run a Job's pod, again if it was evicted, which does not count as a failure."""
        container = self.jobs[name]["spec"]["spec"]["template"]["spec"]["containers"][0]
        while True:
            self._pods[name] = subprocess.Popen(
                container["command"],
                env=self._environment,
                start_new_session=True,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            code = self._pods[name].wait()
            if name not in self._evicted:
                break
            self._evicted.remove(name)
            self.evictions += 1
        kind = "Failed" if code else "Complete"
        self.jobs[name]["status"] = {"conditions": [{"type": kind, "status": "True"}]}

    def evict(self, name: str) -> None:
        """Take a Job's pod away."""
        self._evicted.add(name)
        os.killpg(self._pods[name].pid, signal.SIGKILL)


@contextmanager
def serving(cluster: Cluster) -> Iterator[str]:
    """Yield the address of a cluster's API."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self, content: Any) -> None:
            self.send_response(200 if content is not None else 404)
            self.end_headers()
            self.wfile.write(json.dumps(content).encode())

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self.answer(cluster.create(body) if self.path == PATH else None)

        def do_GET(self) -> None:
            self.answer(cluster.jobs.get(self.path.removeprefix(f"{PATH}/")))

        def do_DELETE(self) -> None:
            self.answer(cluster.jobs.pop(self.path.removeprefix(f"{PATH}/"), None))

        def log_message(self, format: str, *arguments: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
