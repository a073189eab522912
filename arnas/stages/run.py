"""Running a stage instance: check its inputs, do the work, record what it was made from."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from arnas.config.load import load_params
from arnas.config.params import Params
from arnas.runtime.device import configure_threads, select_device
from arnas.runtime.errors import UserError
from arnas.runtime.files import sha256_file, write_bytes
from arnas.runtime.history import state_folder
from arnas.runtime.manifest import environment, fingerprint, manifest_or_empty, write_manifest
from arnas.runtime.progress import Report, console_report
from arnas.runtime.resume import Keeper, kept
from arnas.stages.current import expected, settings
from arnas.stages.instances import USER_FILE, Instance, find_instance


@dataclass(frozen=True)
class Job:
    """What a stage's function works with."""

    params: Params
    instance: Instance
    device: torch.device
    report: Report
    state: Path
    """Where the run keeps what outlives a kill, outside every engine's outputs."""
    keeper: Keeper
    """Keeps the state of a loop there."""

    @property
    def axes(self) -> Mapping[str, str]:
        """Return the axes of the instance."""
        return self.instance.axes

    @property
    def inputs(self) -> Mapping[str, Path]:
        """Return the input files by key."""
        return self.instance.inputs

    @property
    def outputs(self) -> Mapping[str, Path]:
        """Return the output files by key."""
        return self.instance.outputs

    @property
    def seed(self) -> int:
        """Return the replicate's seed."""
        return int(self.axes["seed"])


StageFunction = Callable[[Job], None]


def run_command(command: str, axes: Mapping[str, str], function: StageFunction) -> None:
    """Run the stage instance that a command line names.

    Settings come from the file that ``ARNAS_PARAMS`` names. The manifest appears last, so an
    instance that was cut short has none.

    Raises
    ------
    UserError
        For wrong settings, unknown axes or missing inputs.
    """
    params = load_params()
    instance = find_instance(command, axes, params)
    wanted = instance.inputs.items()
    # The reader of a user's own file says better what is wrong with it.
    made = [path for key, path in wanted if key != USER_FILE or path.is_file()]
    inputs = {str(path): _hash_input(path, instance) for path in made}
    threads = configure_threads()
    device = select_device()
    start = time.monotonic()
    made_from = describe(instance, params, inputs)
    state = state_folder(command, made_from["fingerprint"])
    with kept(state, instance.title) as keeper:
        with _withdrawn(instance), console_report(instance.title) as report:
            function(Job(params, instance, device, report, keeper.folder, keeper))
        write_manifest(
            instance.manifest,
            made_from
            | {"outputs": {str(path): sha256_file(path) for path in instance.outputs.values()}}
            | environment(str(device), threads)
            | {"wall_seconds": round(time.monotonic() - start, 2)},
        )


@contextmanager
def _withdrawn(instance: Instance) -> Iterator[None]:
    """Take the manifest away while the outputs change; after a mistake it returns if none did."""
    before = instance.manifest.read_bytes() if instance.manifest.is_file() else None
    outputs = manifest_or_empty(instance.manifest).get("outputs", {})
    instance.manifest.unlink(missing_ok=True)
    try:
        yield
    except UserError:
        unchanged = all(
            path.is_file() and sha256_file(path) == outputs.get(str(path))
            for path in instance.outputs.values()
        )
        if before is not None and unchanged:
            write_bytes(instance.manifest, before)
        raise


def _hash_input(path: Path, instance: Instance) -> str:
    """Return the sha256 of an input, or say which stage makes it."""
    if not path.is_file():
        raise UserError(
            f"{path} is missing, which {instance.title} reads: run `snakemake --cores all "
            f"{instance.manifest}`, which makes it first."
        )
    return sha256_file(path)


def describe(instance: Instance, params: Params, inputs: Mapping[str, str]) -> dict[str, Any]:
    """Return the part of a manifest that says what a result is made from."""
    slices, current = settings(instance, params), expected(instance, params)
    seed = instance.axes.get("seed")
    return {
        "stage": instance.stage.command,
        "axes": dict(instance.axes),
        **current,
        "fingerprint": fingerprint(
            slices, inputs, None if seed is None else int(seed), current["version"]
        ),
        "inputs": dict(inputs),
    }
