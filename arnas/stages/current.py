"""Whether a stage instance on disk is what the settings ask for, and telling Snakemake so.

Snakemake knows the settings of jobs that it ran itself. What DVC or a command typed by hand made is
judged by its manifest here, and the verdict becomes a small file, the token, that is an input of
the rule: old when the result is current, new when it is not.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from arnas.config.load import check_params
from arnas.config.params import Params
from arnas.runtime.files import sha256_file, write_json
from arnas.runtime.manifest import digest, manifest_or_empty
from arnas.stages.instances import Instance, find_instance, lookup
from arnas.stages.plan import stage_versions

TOKENS = Path(".arnas/tokens")
LONG_AGO = 1_000_000_000
"""Older than any result: seconds since 1970, in 2001."""


def expected(instance: Instance, params: Params) -> dict[str, Any]:
    """Return what the manifest of a current result says of its settings and version."""
    slices = settings(instance, params)
    return {"params": digest(slices), "version": stage_versions()[instance.stage.command]}


def settings(instance: Instance, params: Params) -> dict[str, Any]:
    """Return the settings that an instance reads, by their dotted paths."""
    return {path: lookup(params, path) for path in instance.params}


def why_stale(instance: Instance, params: Params) -> str | None:
    """Return in words why the result on disk is not current; None if it is.

    It is current if its manifest has the settings' digest and the stage's version, and if each
    input that it recorded still has the same sha256 in the manifest beside that input.
    """
    manifest = manifest_or_empty(instance.manifest)
    if not {"params", "version", "inputs"} <= manifest.keys():
        return "it has no manifest"
    recorded: dict[str, str] = manifest["inputs"]
    for key, value in expected(instance, params).items():
        if manifest[key] != value:
            return "its settings differ" if key == "params" else "the stage's version was raised"
    if set(recorded) != {str(path) for path in instance.inputs.values()}:
        return "its inputs are others"
    for path, sha256 in recorded.items():
        if _recorded_sha256(Path(path), sha256) != sha256:
            return f"{path} has changed"
    return None


def _recorded_sha256(path: Path, default: str) -> str:
    """Return the sha256 of a file: by the manifest beside it, else of the file itself.

    A file that is missing, as in a checkout without its heavy results, counts as `default`.
    """
    outputs: dict[str, str] = manifest_or_empty(path.with_name("manifest.json")).get("outputs", {})
    if str(path) in outputs:
        return outputs[str(path)]
    return sha256_file(path) if path.is_file() else default


def write_token(command: str, axes: Mapping[str, str], config: Mapping[str, Any]) -> str:
    """Write the token of an instance and return its path.

    Both its time and its content differ when the result is stale, because Snakemake compares
    contents where the time alone has changed.
    """
    params = check_params(config, "settings")
    instance = find_instance(command, axes, params)
    path = token_path(command, axes, params.name)
    content = expected(instance, params)
    stale = why_stale(instance, params)
    if stale is not None:
        # Unlike any earlier content: a job that ran from nothing has had a stale token before.
        content["stale"] = f"{stale} ({time.time_ns()})"
    write_json(path, content)
    if stale is None:
        os.utime(path, (LONG_AGO, LONG_AGO))
    return str(path)


def token_path(command: str, axes: Mapping[str, str], name: str) -> Path:
    """Return where the token of an instance lies."""
    return TOKENS.joinpath(name, command, *axes.values()).with_suffix(".json")
