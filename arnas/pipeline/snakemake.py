"""Times of files, by which Snakemake judges results where manifests would do.

DVC writes the files that it checks out in any order. Snakemake would make those anew whose inputs
happen to be younger, so the times are put right before it looks, wherever the contents agree.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from arnas.config.load import check_params
from arnas.config.params import Params
from arnas.pipeline.freshness import why_stale
from arnas.pipeline.jobs import Instance, instances
from arnas.runtime.files import sha256_file
from arnas.runtime.manifest import manifest_or_empty


def put_in_order(config: Mapping[str, Any]) -> None:
    """Make current results no older than their inputs; contents stay as they are."""
    params = check_params(config, "settings")
    read = cache(manifest_or_empty)
    for instance in instances(params):
        with suppress(OSError):  # files are missing, or belong to somebody else
            times = _made_at(instance, params)
            younger = _younger(instance, min(times.values()))
            if not younger or why_stale(instance, params, read) is not None:
                continue
            if _altered(younger, read(instance.manifest)["inputs"]) is None:
                newest = max(younger.values())
                for path in [path for path, time in times.items() if time < newest]:
                    # Of a link itself: the file behind it is the cache's.
                    os.utime(path, ns=(newest, newest), follow_symlinks=False)


def altered_input(instance: Instance, params: Params, recorded: Mapping[str, str]) -> Path | None:
    """Return an input that was changed after its stage had written it, if there is one.

    Only inputs that are younger than the result are read.
    """
    try:
        return _altered(_younger(instance, min(_made_at(instance, params).values())), recorded)
    except OSError:
        return None


def _altered(younger: Mapping[Path, int], recorded: Mapping[str, str]) -> Path | None:
    """Return the first file whose bytes are not the recorded ones."""
    return next((path for path in younger if sha256_file(path) != recorded.get(str(path))), None)


def _made_at(instance: Instance, params: Params) -> dict[Path, int]:
    """Return when each file of a result was written (ns); a missing output is an `OSError`."""
    axes = "/".join([instance.stage.command, *instance.axes.values()])
    benchmark = Path(f"results/{params.name}/benchmarks/{axes}.tsv")
    made = [*instance.outputs.values(), instance.manifest]
    if benchmark.exists():  # Snakemake's, which it counts among the outputs
        made.append(benchmark)
    return {path: path.lstat().st_mtime_ns for path in made}


def _younger(instance: Instance, time: int) -> dict[Path, int]:
    """Return the inputs that were written after a time (ns), and when."""
    written = {
        path: max(path.stat().st_mtime_ns, path.lstat().st_mtime_ns)
        for path in instance.inputs.values()
    }
    return {path: stamp for path, stamp in written.items() if stamp > time}
