"""`python -m arnas attack`: one evaluation from a model's name to the files it leaves.

No stage of the pipeline: it reads no settings and writes where it is told. It shares with them how
a run holds its devices, keeps its state and shares its batches among ranks.
"""

from __future__ import annotations

import copy
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import nn

from arnas.attacks.threat import Threat, parse_threat
from arnas.data.load import NamedImages, load_images
from arnas.evaluation.evaluate import BATCH_SIZE, evaluate
from arnas.evaluation.result import Assessment
from arnas.corruptions.accuracy import corruption_accuracy
from arnas.models.loading.load import LoadedModel, load_model
from arnas.models.sharing import share_batches
from arnas.runtime.device import (
    Devices,
    configure_determinism,
    configure_threads,
    held_devices,
    memory_ran_out,
)
from arnas.runtime.errors import UserError
from arnas.runtime.history import state_folder
from arnas.runtime.manifest import digest, environment
from arnas.runtime.progress import Report, console_report, silent
from arnas.runtime.ranks import ReadingKeeper, following, leading, my_place
from arnas.runtime.resume import Keeper, kept

VERSION = 1
"""Raised when an evaluation could come out differently; a state of before is not gone on from."""


@dataclass(frozen=True)
class Order:
    """What to evaluate."""

    model: str
    """See `arnas.models.loading.load.load_model`."""
    data: str
    """See `arnas.data.load.load_images`."""
    threat: str
    """As in ``linf:8/255``."""
    suite: str = "standard"
    weights: Path | None = None
    """A file for a model that has none of its own."""
    part: str = "test"
    count: int | None = None
    """Images, from the first; all of them by default."""
    seed: int = 0
    batch_size: int = BATCH_SIZE
    expectation: int | None = None
    sources: tuple[str, ...] = ()
    """Models whose adversarial examples are shown to this one after the suite."""
    curve: tuple[str, ...] = ()
    """Budgets of the accuracy curve, in input units or as ``8/255``."""
    image_size: int | None = None
    """Of a folder of images: the side that they are brought to, in pixels."""
    grey: bool = False
    """Of a folder of images: whether one channel is read."""
    corruptions: bool = False
    """Whether accuracy on corrupted images is measured too."""


@dataclass(frozen=True)
class Subject:
    """What an order names, loaded."""

    order: Order
    threat: Threat
    model: LoadedModel
    images: NamedImages
    sources: dict[str, LoadedModel]

    @property
    def title(self) -> str:
        """Return what is evaluated, for the log."""
        return f"{self.model.name} on {self.images.name}, {self.order.threat}"

    @property
    def key(self) -> str:
        """Return what names the state of the evaluation: everything its outcomes depend on."""
        order = asdict(self.order) | {"weights": None, "model": None, "data": None, "sources": None}
        content = {
            "version": VERSION,
            "order": order,
            "threat": asdict(self.threat),
            "model": self.model.sha256,
            "data": [self.images.sha256, self.images.indices.tolist()],
            "sources": {name: source.sha256 for name, source in self.sources.items()},
            "torch": torch.__version__,
        }
        return digest(content)


def load_subject(order: Order) -> Subject:
    """Load the model and the images of an order, cheapest refusals first.

    Raises
    ------
    UserError
        For whatever cannot be meant.
    """
    threat = parse_threat(order.threat)
    for name in ("batch_size", "count", "expectation"):
        value = getattr(order, name)
        if value is not None and value < 1:
            raise UserError(f"{name} is {value}: it must be a whole number from 1 up.")
    images = load_images(
        order.data,
        part=order.part,
        count=order.count,
        image_size=order.image_size,
        grey=order.grey,
    )
    channels, height, width = images.x.shape[1:]

    def load(spec: str, weights: Path | None = None) -> LoadedModel:
        return load_model(
            spec,
            weights=weights,
            num_classes=images.num_classes,
            in_channels=channels,
            image_size=(height, width),
        )

    model = load(order.model, order.weights)
    return Subject(order, threat, model, images, {spec: load(spec) for spec in order.sources})


class Assessed(NamedTuple):
    """What an evaluation came to, and the seconds that this process spent on it."""

    assessment: Assessment
    seconds: float


@contextmanager
def assess(subject: Subject) -> Iterator[Assessed | None]:
    """Evaluate a subject on the devices of the environment, going on where a killed run was.

    Yields what came out, or None in a rank other than 0, which is done then. What earlier processes
    have found is kept until the block is over, so that results that cannot be written are not lost.
    """
    place = my_place()
    if place is not None:
        configure_threads()
        configure_determinism()
        with following(place) as device:
            _evaluate(subject, device, ReadingKeeper(Path(place.state)), silent, {})
        yield None
        return
    words = sys.argv[1:]
    next_line = f"next: python -m arnas {shlex.join(words)}"
    start = time.monotonic()
    state = state_folder("attack", subject.key)
    with kept(state, f"attack {subject.title}") as keeper:
        with _held(subject) as devices:
            record = environment(devices.text, configure_threads(), configure_determinism())
            _say(f"{subject.title}: {subject.images.words}; on {devices.text}")
            for warning in (*subject.model.warnings, *subject.images.warnings):
                _say(f"warning: {warning}")
            with (
                leading(["-m", "arnas", *words], devices.all, keeper.folder, next_line),
                console_report("attack") as report,
            ):
                found = _evaluate(subject, devices.all[0], keeper, report, record)
        subject.model.model.cpu()
        yield Assessed(found, time.monotonic() - start)


def _evaluate(
    subject: Subject,
    device: torch.device,
    keeper: Keeper,
    report: Report,
    record: Mapping[str, Any],
) -> Assessment:
    """Evaluate on a device whose batches the ranks share."""
    images, order = subject.images, subject.order
    model = _placed(subject.model, device)
    known = {
        **subject.model.known,
        **record,
        "model": subject.model.name,
        "model_source": subject.model.source,
        "data": images.name,
        "images": images.words,
        "dataset_size": images.dataset_size,
        "warnings": [*subject.model.warnings, *images.warnings],
        "epsilon_written": order.threat.partition(":")[2],
    }
    if order.corruptions:
        table = corruption_accuracy(
            model,
            images.x.to(device),
            images.y.to(device),
            batch_size=order.batch_size,
            seed=order.seed,
            indices=images.indices,
        )
        mean, side = table.mean.percent, images.x.shape[-1]
        known["corruptions"] = {"mean": mean, "size": side, "table": table.to_json()}
    return evaluate(
        model,
        images.x,
        images.y,
        subject.threat,
        order.suite,
        seed=order.seed,
        batch_size=order.batch_size,
        expectation=order.expectation,
        indices=images.indices,
        known=known,
        sources={name: _placed(source, device) for name, source in subject.sources.items()},
        curve=order.curve,
        keeper=keeper,
        report=report,
    )


def _placed(loaded: LoadedModel, device: torch.device) -> nn.Module:
    """Return a model on its device; ranks share the batches of a copy, which ends with them."""
    if not dist.is_initialized():
        return loaded.model.to(device)
    return share_batches(copy.deepcopy(loaded.model).to(device))


@contextmanager
def _held(subject: Subject) -> Iterator[Devices]:
    """Hold the devices; their memory running out is a mistake with a way out."""
    with held_devices(_say) as devices:
        try:
            yield devices
        except (RuntimeError, MemoryError) as error:
            if not memory_ran_out(error):
                raise
            raise UserError(
                f"{subject.title} does not fit on {devices.text} with --batch-size "
                f"{subject.order.batch_size}: lower it, or give it more memory."
            ) from None


def _say(text: str) -> None:
    """Write a line of the log."""
    sys.stderr.write(f"[attack] {text}\n")
    sys.stderr.flush()


def default_stem(subject: Subject) -> Path:
    """Return where the results go unless it is said: a name made of what was evaluated."""
    words: Sequence[str] = (
        Path(subject.model.name).stem,
        Path(subject.images.name).stem,
        subject.order.threat,
        subject.order.suite,
    )
    name = "_".join(words)
    safe = "".join(sign if sign.isalnum() or sign in "._-" else "-" for sign in name)
    return Path("results/attacks") / safe
