"""A run whose results are there at once: small files, with the manifests that they would have."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from arnas.config.params import Params
from arnas.pipeline.freshness import describe
from arnas.pipeline.jobs import Instance, instances
from arnas.runtime.files import sha256_file
from arnas.runtime.history import state_folder
from arnas.runtime.manifest import read_manifest, write_manifest


def described(instance: Instance, params: Params) -> dict[str, object]:
    """Return what the instance's manifest would say that it is made from, by its present inputs."""
    inputs = {str(path): sha256_file(path) for path in instance.inputs.values()}
    return describe(instance, params, inputs)


def make(instance: Instance, params: Params, content: str = "") -> None:
    """Write an instance's outputs, each with a text of its own, and its manifest."""
    made_from = described(instance, params)
    for path in instance.outputs.values():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{path}{content}")
    outputs = {str(path): sha256_file(path) for path in instance.outputs.values()}
    instance.manifest.parent.mkdir(parents=True, exist_ok=True)
    write_manifest(instance.manifest, {**made_from, "outputs": outputs, "device": "cpu"})


def make_all(params: Params, but: Iterable[str] = ()) -> None:
    """Make every instance of the run, and take away those with the titles `but`."""
    for instance in instances(params):
        make(instance, params)
    for instance in instances(params):
        if instance.title in but:
            for path in [*instance.outputs.values(), instance.manifest]:
                path.unlink()


def state_of(instance: Instance, params: Params) -> Path:
    """Return the folder of the instance's state."""
    return state_folder(instance.stage.command, str(described(instance, params)["fingerprint"]))


def record(instance: Instance, **changes: object) -> None:
    """Change what an instance's manifest says."""
    write_manifest(instance.manifest, {**read_manifest(instance.manifest), **changes})
