"""Whether a stage job on disk is what the settings ask for, and telling Snakemake so.

Snakemake knows the settings of jobs that it ran itself. What DVC or a command typed by hand made is
judged by its manifest here, and the verdict becomes a small file, the token, that is an input of
the rule: old when the result is current, new when it is not.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from arnas.config.params import Params
from arnas.pipeline.jobs import Job, lookup, planned_jobs, sources, upstream
from arnas.pipeline.plan import stage_versions
from arnas.runtime.errors import UserError
from arnas.runtime.files import canonical_json, digest, sha256_file, write_json, write_sealed
from arnas.runtime.manifest import fingerprint, manifest_or_empty

TOKENS = Path(".arnas/tokens")
VERIFIED = Path(".arnas/verified")
"""What the inodes of a result's files were when their bytes were those of its manifest."""
LONG_AGO = 1_000_000_000
"""Older than any result: seconds since 1970, in 2001."""
ABSENT = object()

ReadManifest = Callable[[Path], Mapping[str, Any]]
"""How manifests are read: whoever judges many jobs remembers them."""


def expected(job: Job, params: Params) -> dict[str, Any]:
    """Return what the manifest of a current result says of its settings and version."""
    slices = settings(job, params)
    return {"params": digest(slices), "version": stage_versions()[job.stage.command]}


def settings(job: Job, params: Params, *, defaults: bool = False) -> dict[str, Any]:
    """Return the settings that a job reads, by their dotted paths; see `lookup`."""
    return {path: lookup(params, path, defaults=defaults) for path in job.params}


def describe(job: Job, params: Params, inputs: Mapping[str, str]) -> dict[str, Any]:
    """Return the part of a manifest that says what a result is made from.

    Parameters
    ----------
    inputs
        Path to sha256.
    """
    slices, current = settings(job, params), expected(job, params)
    seed = job.axes.get("seed")
    return {
        "stage": job.stage.command,
        "axes": dict(job.axes),
        **current,
        "settings": settings(job, params, defaults=True),
        "fingerprint": fingerprint(
            slices, inputs, None if seed is None else int(seed), current["version"]
        ),
        "inputs": dict(inputs),
    }


def why_stale(
    job: Job, params: Params, read: ReadManifest = manifest_or_empty, *, every: bool = False
) -> str | None:
    """Return in words why the result on disk is not current; None if it is.

    It is current if its manifest has the settings' digest and the stage's version, all of its files
    are there and as they were written, and each input that it recorded still has the same sha256 in
    the manifest beside that input. Whether `every` output is read: see `altered_output`.
    """
    manifest = read(job.manifest)
    if not {"params", "version", "inputs"} <= manifest.keys():
        return "it has no manifest"
    return next(_reasons(job, params, read, every), None)


def _reasons(job: Job, params: Params, read: ReadManifest, every: bool) -> Iterator[str]:
    """Yield why a result that has a manifest is not current, what costs least to find first."""
    manifest, wanted = read(job.manifest), expected(job, params)
    if manifest["params"] != wanted["params"]:
        yield "; ".join(_changes(job, params, manifest)) or "its settings differ"
    if manifest["version"] != wanted["version"]:
        yield f"the stage's version was {manifest['version']}, is {wanted['version']}"
    recorded: dict[str, str] = manifest["inputs"]
    now = {str(path) for path in job.inputs.values()}
    if now != set(recorded):
        more, fewer = _listed(now - set(recorded)), _listed(set(recorded) - now)
        yield (
            "its input files changed"
            + (more and f", now also {more}")
            + (fewer and f", no more {fewer}")
        )
    gone = missing_output(job)
    if gone is not None:
        yield f"{gone} is missing"
    altered = altered_output(job, manifest, every=every)
    if altered is not None:
        yield f"{altered} is not what the stage has written"
    for path, sha256 in recorded.items():
        if recorded_sha256(Path(path), read, sha256) != sha256:
            yield f"{path} has changed"


def missing_output(job: Job) -> Path | None:
    """Return the first output of a job that is not there."""
    return next((path for path in job.outputs.values() if not path.is_file()), None)


def altered_output(job: Job, manifest: Mapping[str, Any], *, every: bool = False) -> Path | None:
    """Return the first output of a job whose bytes are not those that its manifest records.

    Files that were found as recorded are not read again while their inodes stay the same, unless
    `every` output is to be read. An edit that keeps a file's date changes its inode.
    """
    recorded: Mapping[str, str] = manifest.get("outputs", {})
    verified = VERIFIED / job.manifest
    try:
        found = {str(path): _inode(path) for path in job.files}
        if not every and manifest_or_empty(verified) == found:
            return None
        for path in job.outputs.values():
            if _sha256_of(path.absolute(), *found[str(path)]) != recorded.get(str(path)):
                return path
    except OSError as error:  # gone since, or unreadable
        return Path(error.filename)
    with suppress(OSError, UserError):  # where nothing can be written, they are read again
        write_sealed(verified, found)
    return None


def _inode(path: Path) -> list[int]:
    """Return what every change of a file changes."""
    stat = path.stat()
    return [stat.st_ino, stat.st_ctime_ns, stat.st_size]


@lru_cache(maxsize=4096)
def _sha256_of(path: Path, *inode: int) -> str:
    """Return the sha256 of a file, which has such an inode."""
    return sha256_file(path)


def stale_sources(
    job: Job, params: Params, planned: Sequence[Job], read: ReadManifest = manifest_or_empty
) -> Iterator[tuple[Job, str]]:
    """Yield the jobs that one is made from, at whatever distance, that are not current, and why.

    Producers come before consumers, as in `planned`, the jobs of the run.
    """
    needed = upstream([job.title], sources([*planned, job])) - {job.title}
    for source in planned:
        if source.title in needed and (reason := why_stale(source, params, read)) is not None:
            yield source, reason


def recorded_sha256(path: Path, read: ReadManifest, default: str) -> str:
    """Return the sha256 of a file: by the manifest beside it, else of the file itself.

    A file that is missing, as in a checkout without its heavy results, counts as `default`.
    """
    outputs: dict[str, str] = read(path.with_name("manifest.json")).get("outputs", {})
    if str(path) in outputs:
        return outputs[str(path)]
    return sha256_file(path) if path.is_file() else default


def _listed(paths: set[str]) -> str:
    """Return the first of some paths and the number of others; nothing if there are none."""
    first = min(paths, default="")
    return f"{first} and {len(paths) - 1} more" if len(paths) > 1 else first


def _changes(job: Job, params: Params, manifest: Mapping[str, Any]) -> Iterator[str]:
    """Yield which settings differ from those of a manifest, if it has recorded them."""
    if "settings" not in manifest:
        return
    before, now = manifest["settings"], settings(job, params, defaults=True)
    said = settings(job, params)
    for path in dict.fromkeys([*now, *before]):
        old, new = before.get(path, ABSENT), now.get(path, ABSENT)
        yield from _differences(path, old, new, said.get(path, ABSENT))


def _differences(path: str, old: object, new: object, said: object) -> Iterator[str]:
    """Yield the dotted paths at which two blocks of settings differ, with both values.

    A setting that did not exist then and that nobody has `said` now is no difference.
    """
    if isinstance(old, dict) and isinstance(new, dict):
        inner = said if isinstance(said, dict) else {}
        for key in dict.fromkeys([*new, *old]):
            values = (block.get(key, ABSENT) for block in (old, new, inner))
            yield from _differences(f"{path}.{key}", *values)
    elif old != new and not (old is ABSENT and said is ABSENT):
        yield f"{path} was {_word(old)}, is {_word(new)}"


def _word(value: object) -> str:
    """Return a value of the settings in words."""
    return "not there" if value is ABSENT else canonical_json(value)


def write_token(job: Job, params: Params, planned: Sequence[Job] | None = None) -> Path:
    """Write the token of a job and return its path; `planned` are the jobs of the run, if known.

    Its time and its content differ when the result, or one that it is made from, is stale, because
    Snakemake compares contents where the time alone has changed.
    """
    path = token_path(job, params)
    content = expected(job, params)
    read: ReadManifest = cache(manifest_or_empty)
    stale = why_stale(job, params, read)
    if stale is None:
        planned = planned_jobs(params) if planned is None else planned
        found = stale_sources(job, params, planned, read)
        stale = next((f"{source.title}: {reason}" for source, reason in found), None)
    if stale is not None:
        # Unlike any earlier content: a job that ran from nothing has had a stale token before.
        content["stale"] = f"{stale} ({time.time_ns()})"
    write_json(path, content)
    if stale is None:
        os.utime(path, (LONG_AGO, LONG_AGO))
    return path


def token_path(job: Job, params: Params) -> Path:
    """Return where the token of a job lies."""
    names = (params.name, job.stage.command, *job.axes.values())
    return TOKENS.joinpath(*names).with_suffix(".json")
