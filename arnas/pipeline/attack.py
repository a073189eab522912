"""`python -m arnas attack`: one evaluation from a model's name to the files it leaves.

No stage of the pipeline: it reads no settings and writes where it is told. It shares with them how
a run holds its devices, keeps its state and shares its batches among ranks.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from arnas.attacks.threat import Threat, parse_threat
from arnas.config.references import referenced_files
from arnas.data.load import NamedImages, load_images
from arnas.evaluation.evaluate import BATCH_SIZE, evaluate
from arnas.evaluation.options import Tier
from arnas.evaluation.result import Combine, EvalResult
from arnas.models.loading.load import LoadedModel, load_model
from arnas.models.sharing import share_batches
from arnas.models.weights import answers_sha256
from arnas.pipeline.log import say
from arnas.pipeline.session import Session, session, worker_session
from arnas.runtime.errors import UserError, one_line
from arnas.runtime.files import digest, sha256_file
from arnas.runtime.history import state_folder
from arnas.runtime.ranks import rank_info

PREPARED = ("normalise", "resize", "image_size", "expect_clean", "expect_robust")
"""Of a config, what the record holds where it is set."""
VERSION = 3
"""Raised when an evaluation could come out differently; a state of before is not gone on from."""


@dataclass(frozen=True)
class EvalConfig:
    """What to evaluate."""

    model: str
    """See `arnas.models.loading.load.load_model`."""
    data: str
    """See `arnas.data.load.load_images`."""
    threat: str
    """As in ``linf:8/255``."""
    suite: str = "standard"
    combine: Combine = "union"
    """Whether an attack skips the images that earlier ones broke, or each attacks all."""
    checks: Tier = "all"
    weights: Path | None = None
    """A file for a model that has none of its own."""
    split: str = "test"
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
    resize: int | None = None
    """Of a folder of images: what the shorter side is resized to before the centre is cut out."""
    classes: tuple[str, ...] = ()
    """Of a folder of images: the names of the folders in the order of the classes."""
    normalise: str | None = None
    """See `arnas.models.loading.outside.normalisation`."""
    weights_key: str | None = None
    """See `arnas.models.loading.load.load_model`."""
    num_classes: int | None = None
    """Of a model of another library; by default those of the images."""
    expect_clean: float | None = None
    """Clean accuracy that the model is known for, in percent."""
    expect_robust: float | None = None
    """Robust accuracy that the model is known for, in percent."""
    corruptions: bool = False
    """Whether accuracy on corrupted images is measured too."""


@dataclass(frozen=True)
class EvalTarget:
    """What a config names, loaded."""

    config: EvalConfig
    threat: Threat
    model: LoadedModel
    images: NamedImages
    sources: dict[str, LoadedModel]

    @property
    def title(self) -> str:
        """Return what is evaluated, for the log."""
        return f"{self.model.name} on {self.images.name}, {self.config.threat}"

    @property
    def key(self) -> str:
        """Return what names the state of the evaluation: everything its outcomes depend on."""
        config = asdict(self.config) | {
            "weights": None,
            "model": None,
            "data": None,
            "sources": None,
        }
        content = {
            "version": VERSION,
            "config": config,
            "threat": asdict(self.threat),
            "model": self._told_apart(self.model),
            "data": [self.images.sha256, self.images.indices.tolist()],
            "sources": {name: self._told_apart(source) for name, source in self.sources.items()},
            "code": {str(path): sha256_file(path) for path in referenced_files(self._names())},
            "torch": torch.__version__,
        }
        return digest(content)

    def _names(self) -> list[str]:
        """Return what may refer to code of the user's own."""
        return [self.config.model, *self.sources, *self.config.suite.split(",")]

    def _told_apart(self, loaded: LoadedModel) -> list[str]:
        """Return what tells models apart: their weights, and what they answer.

        Constants and operations outside of the weights show in the answers only.
        """
        return [loaded.sha256, answers_sha256(loaded.model, self.images.x)]


def read_classes(path: Path | None) -> tuple[str, ...]:
    """Return the names in a file, one a line in the order of the classes; none without a file.

    Raises
    ------
    UserError
        When it cannot be read, or a name is there twice.
    """
    if path is None:
        return ()
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise UserError(
            f"classes is {one_line(path)}, which cannot be read ({one_line(error, 100)}): name a "
            "text file with the name of a folder in each line."
        ) from None
    names = tuple(filter(None, map(str.strip, lines)))
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"{path} has '{one_line(twice[0], 60)}' twice: name each class once.")
    return names


def load_target(config: EvalConfig) -> EvalTarget:
    """Load the model and the images that a config names, cheapest refusals first.

    Raises
    ------
    UserError
        For whatever is invalid.
    """
    threat = parse_threat(config.threat)
    for name in ("batch_size", "count", "expectation"):
        value = getattr(config, name)
        if value is not None and value < 1:
            raise UserError(f"{name} is {value}: it must be a whole number from 1 up.")
    images = load_images(
        config.data,
        split=config.split,
        count=config.count,
        image_size=config.image_size,
        grey=config.grey,
        resize=config.resize,
        classes=config.classes,
    )
    channels, height, width = images.x.shape[1:]

    def load(
        spec: str,
        weights: Path | None = None,
        num_classes: int | None = None,
        normalise: str | None = None,
        weights_key: str | None = None,
    ) -> LoadedModel:
        return load_model(
            spec,
            weights=weights,
            num_classes=images.num_classes if num_classes is None else num_classes,
            in_channels=channels,
            image_size=(height, width),
            normalise=normalise,
            weights_key=weights_key,
        )

    model = load(
        config.model, config.weights, config.num_classes, config.normalise, config.weights_key
    )
    return EvalTarget(config, threat, model, images, {spec: load(spec) for spec in config.sources})


@contextmanager
def assess(target: EvalTarget) -> Iterator[EvalResult | None]:
    """Evaluate a target on the devices of the environment, going on where a killed run was.

    Yields what came out, or None in a rank other than 0, which is done then. What earlier processes
    have found is kept until the block is over, so that results that cannot be written are not lost.
    """
    place = rank_info()
    if place is not None:
        with worker_session(place) as running:
            _evaluate(target, running)
        yield None
        return
    with session(
        f"attack {target.title}",
        ["-m", "arnas", *sys.argv[1:]],
        state_folder("attack", target.key),
        heading="attack",
        less_memory=f"lower --batch-size, which is {target.config.batch_size}",
    ) as running:
        say("attack", f"{target.title}: {target.images.words}")
        for warning in (*target.model.warnings, *target.images.warnings):
            say("attack", f"warning: {warning}")
        if target.images.classes:
            pairs = (f"{number} {name}" for number, name in enumerate(target.images.classes))
            say("attack", f"classes by folder: {one_line(', '.join(pairs))}")
        found = _evaluate(target, running)
        target.model.model.cpu()
        yield found


def _evaluate(target: EvalTarget, running: Session) -> EvalResult:
    """Evaluate on a device whose batches the ranks share."""
    images, config = target.images, target.config
    device = running.device
    model = _placed(target.model, device)
    known = {
        **target.model.info.to_json(),
        **running.record,
        "model": target.model.name,
        "model_source": target.model.source,
        "data": images.name,
        "images": images.words,
        "dataset_size": images.dataset_size,
        "warnings": [*target.model.warnings, *images.warnings],
        "epsilon_written": config.threat.partition(":")[2],
        **({"classes": list(images.classes)} if images.classes else {}),
        **{name: value for name in PREPARED if (value := getattr(config, name)) is not None},
    }
    if config.corruptions:
        from arnas.corruptions.accuracy import corruption_accuracy

        table = corruption_accuracy(
            model,
            images.x.to(device),
            images.y.to(device),
            batch_size=config.batch_size,
            seed=config.seed,
            indices=images.indices,
        )
        mean, side = table.mean.percent, images.x.shape[-1]
        known["corruptions"] = {"mean": mean, "size": side, "table": table.to_json()}
    return evaluate(
        model,
        images.x,
        images.y,
        target.threat,
        config.suite,
        combine=config.combine,
        checks=config.checks,
        seed=config.seed,
        batch_size=config.batch_size,
        expectation=config.expectation,
        indices=images.indices,
        known=known,
        sources={name: _placed(source, device) for name, source in target.sources.items()},
        curve=config.curve,
        checkpointer=running.checkpointer,
        report=running.report,
    )


def _placed(loaded: LoadedModel, device: torch.device) -> nn.Module:
    """Return a model on its device; ranks share the batches of a copy, which ends with them."""
    if not dist.is_initialized():
        return loaded.model.to(device)
    return share_batches(copy.deepcopy(loaded.model).to(device))


def default_stem(target: EvalTarget) -> Path:
    """Return where the results go unless it is said: a name made of what was evaluated."""
    stems = (Path(name).stem for name in (target.model.name, target.images.name))
    name = "_".join([*stems, target.config.threat, target.config.suite])
    safe = "".join(s if s.isascii() and (s.isalnum() or s in "._-") else "-" for s in name)
    # The key tells apart what is not in the name: weights, images, seed.
    return Path("results/attacks") / f"{safe[:120]}_{target.key[:8]}"
