"""Running a stage instance: check its inputs, do the work, record what it was made from."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import nn

from arnas.config.load import load_params
from arnas.config.params import Params
from arnas.data.options import user_file
from arnas.models.sharing import share_batches, share_statistics
from arnas.pipeline.freshness import describe
from arnas.pipeline.jobs import USER_FILE, Instance, find_instance
from arnas.runtime.device import (
    Devices,
    configure_determinism,
    configure_threads,
    held_devices,
    memory_ran_out,
)
from arnas.runtime.errors import UserError
from arnas.runtime.files import check_recorded, sha256_file, unwritable
from arnas.runtime.history import state_folder
from arnas.runtime.manifest import environment, manifest_or_empty, write_manifest
from arnas.runtime.progress import Report, console_report, silent
from arnas.runtime.ranks import (
    RankInfo,
    ReadOnlyCheckpointer,
    join_as_worker,
    launch_workers,
    rank_info,
)
from arnas.runtime.resume import Checkpointer, checkpointing


@dataclass(frozen=True)
class Job:
    """What a stage's function works with."""

    params: Params
    instance: Instance
    device: torch.device
    report: Report
    state: Path
    """Where the run keeps what outlives a kill, outside every engine's outputs."""
    checkpointer: Checkpointer
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

    def placed(self, model: nn.Module, *, trained: bool = False) -> nn.Module:
        """Put a model on the device, where the ranks of the job share its batches.

        Parameters
        ----------
        model
            Changed in place.
        trained
            Whether batch statistics are taken, which then are those of the whole batch.
        """
        model.to(self.device)
        return share_batches(share_statistics(model) if trained else model)


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
    place = rank_info()
    if place is not None:
        _follow(place, params, instance, function)
        return
    inputs = {}
    for key, path in instance.inputs.items():
        found = user_file(path) if key == USER_FILE else path
        # The reader of a user's own file says better what is wrong with it.
        if key != USER_FILE or found.is_file():
            inputs[str(path)] = _hash_input(found, instance)
    made_from = describe(instance, params, inputs)
    state = state_folder(command, made_from["fingerprint"])
    following_line = _next_command(instance)
    with (
        _followed_by(following_line),
        checkpointing(state, instance.title, str(instance.manifest)) as checkpointer,
        _devices(instance) as devices,
    ):
        threads, start = configure_threads(), time.monotonic()
        record = environment(devices.text, threads, configure_determinism())
        _say(instance, f"on {devices.text}, threads {threads}")
        with (
            launch_workers(instance.command[1:], devices.all, checkpointer.folder, following_line),
            _withdrawn(instance),
            console_report(instance.title) as report,
        ):
            function(
                Job(params, instance, devices.all[0], report, checkpointer.folder, checkpointer)
            )
        outputs = {str(path): sha256_file(path) for path in instance.outputs.values()}
        write_manifest(
            instance.manifest,
            made_from
            | {"outputs": outputs}
            | record
            | {"wall_seconds": round(time.monotonic() - start, 2)},
        )


def _follow(place: RankInfo, params: Params, instance: Instance, function: StageFunction) -> None:
    """Do the work of an instance as a rank other than 0, which writes nothing of it."""
    configure_threads()
    configure_determinism()
    with join_as_worker(place) as device, TemporaryDirectory() as scratch:
        outputs = {key: Path(scratch, key, path.name) for key, path in instance.outputs.items()}
        checkpointer = ReadOnlyCheckpointer(Path(place.state))
        function(
            Job(
                params,
                replace(instance, outputs=outputs),
                device,
                silent,
                Path(scratch),
                checkpointer,
            )
        )


@contextmanager
def _devices(instance: Instance) -> Iterator[Devices]:
    """Hold the devices that an instance computes on; its memory running out is a mistake."""
    most = {"none": 0, "one": 1, "any": None}[instance.stage.gpus]
    with held_devices(lambda text: _say(instance, text), most) as devices:
        try:
            yield devices
        except (RuntimeError, MemoryError) as error:
            if memory_ran_out(error):
                reason = str(error).partition(". ")[0]
                raise UserError(
                    f"{instance.title} does not fit on {devices.text} ({reason}): lower the "
                    "batch_size that it reads, or give it more memory."
                ) from None
            if "does not have a deterministic implementation" not in str(error):
                raise
            operation = str(error).partition(" does not")[0]
            raise UserError(
                f"ARNAS_DETERMINISTIC is 1, but {operation} has no deterministic form on "
                f"{devices.text}: unset it, or set ARNAS_DEVICE=cpu."
            ) from None


def _say(instance: Instance, text: str) -> None:
    """Write a line of the log."""
    sys.stderr.write(f"[{instance.title}] {text}\n")
    sys.stderr.flush()


def _next_command(instance: Instance) -> str:
    """Return the line that names the command which goes on from here."""
    settings_file = os.environ.get("ARNAS_PARAMS")
    where = f"ARNAS_PARAMS={shlex.quote(settings_file)} " if settings_file else ""
    return f"next: {where}{shlex.join(instance.command)}"


@contextmanager
def _followed_by(line: str) -> Iterator[None]:
    """Let whatever ends the work early be followed by a line."""
    try:
        yield
    except Exception as error:
        error.add_note(line)
        raise


@contextmanager
def _withdrawn(instance: Instance) -> Iterator[None]:
    """Take the manifest away while the outputs change; after a failure it returns if none did."""
    manifest = instance.manifest
    aside = manifest.with_name(f".{manifest.name}.withdrawn")
    outputs = manifest_or_empty(manifest).get("outputs", {})
    try:
        # Before the work, not after hours of it.
        for path in (manifest, *instance.outputs.values()):
            path.parent.mkdir(parents=True, exist_ok=True)
        if manifest.is_file():
            manifest.replace(aside)  # which needs no room on the disk, neither way
    except OSError as error:
        raise unwritable(manifest, error) from None
    try:
        yield
    except BaseException:
        unchanged = all(
            path.is_file() and sha256_file(path) == outputs.get(str(path))
            for path in instance.outputs.values()
        )
        if aside.is_file() and unchanged:
            aside.replace(manifest)
        raise
    finally:
        aside.unlink(missing_ok=True)


def _hash_input(path: Path, instance: Instance) -> str:
    """Return the sha256 of an input, which its stage must have recorded if it did record any."""
    if not path.is_file():
        raise UserError(
            f"{path} is missing, which {instance.title} reads: run `snakemake --cores all "
            f"{instance.manifest}`, which makes it first."
        )
    sha256 = sha256_file(path)
    check_recorded(path, lambda: sha256)
    return sha256
