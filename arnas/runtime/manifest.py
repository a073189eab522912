"""The manifest of a stage instance: what it was made from, with what, where, in what time."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from arnas.runtime.errors import UserError
from arnas.runtime.files import digest, read_json

PACKAGES = ("arnas", "torch", "numpy", "scikit-learn", "pyautoattack")


def fingerprint(
    params: Mapping[str, Any], inputs: Mapping[str, str], seed: int | None, version: int
) -> str:
    """Return the identity of a result: sha256 of settings, input bytes, seed and stage version.

    Parameters
    ----------
    params
        Dotted path to the settings that the stage reads.
    inputs
        Path to sha256. No upstream fingerprint enters, so an upstream rerun with equal bytes
        changes nothing below it.
    seed
        The replicate's seed; None for a stage without one.
    version
        The stage's integer in ``arnas/pipeline/versions.yaml``.
    """
    return digest({"params": params, "inputs": inputs, "seed": seed, "version": version})


def environment(device: str, threads: int, deterministic: bool = False) -> dict[str, Any]:
    """Return versions, git revision and how it is computed, for the record only."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "packages": versions,
        "python": platform.python_version(),
        "git": _git_revision(),
        "device": device,
        "threads": threads,
        "deterministic": deterministic,
        "compiled": os.environ.get("ARNAS_COMPILE") == "1",
    }


def _git_revision() -> str | None:
    """Return the checkout's revision with ``+changes`` if it is dirty; None outside git."""
    command = ["git", "describe", "--always", "--dirty=+changes", "--abbrev=12"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def read_manifest(path: Path) -> dict[str, Any]:
    """Read a manifest; a missing or damaged one is a `UserError`."""
    content: dict[str, Any] = read_json(path, sealed=True)
    return content


def manifest_or_empty(path: Path) -> dict[str, Any]:
    """Return a manifest; an empty one where it is missing or damaged, which fits nothing."""
    try:
        return read_manifest(path)
    except UserError:
        return {}
