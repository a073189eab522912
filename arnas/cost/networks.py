"""What training and attacking one network would cost; see `arnas.cost.estimate`."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from arnas.attacks.folding import attacked
from arnas.attacks.objectives import cross_entropy
from arnas.attacks.pgd import input_gradient
from arnas.attacks.registry import attack_entry
from arnas.config.params import Params
from arnas.cost.stopwatch import time_or_reason
from arnas.cost.table import Cost
from arnas.data.batches import batches_per_epoch
from arnas.data.sizes import DatasetSize
from arnas.evaluation.options import AUTOATTACK
from arnas.evaluation.predict import predict
from arnas.pipeline.network import NetworkPlan, plan_network
from arnas.runtime.progress import silent
from arnas.spaces.genotype import Genotype
from arnas.spaces.published import GENOTYPES
from arnas.training.loop import TrainingData, TrainingTask, train
from arnas.training.options import RetrainOptions
from arnas.training.registry import loss_entry

SQUARE_LOOKS = 2
"""Forward passes besides the queries of Square: of the start, and to classify the result."""
BYTES = 8
"""Of a label, of an index, and of what little is stored for an image besides."""
FEWER = 8
"""A batch is also timed with so many times fewer images, because small ones cost more an image."""
TINY = 1e-6
"""Learning rate while measuring: noise teaches nothing, and the loss must stay finite."""


@dataclass(frozen=True)
class Cell:
    """A network on a dataset, as often as there are seeds."""

    params: Params
    dataset: str
    network: str
    size: DatasetSize
    """Of the dataset."""
    device: torch.device

    @property
    def searched(self) -> bool:
        """Return whether a search of the run finds the network."""
        return self.network in self.params.searches

    def plan(self) -> NetworkPlan:
        """Return what the settings say of it."""
        return plan_network(self.params, self.dataset, self.network, self.size, _stand_in)

    @property
    def recipe(self) -> RetrainOptions:
        """Return the recipe of its training."""
        return self.params.recipe(self.dataset, self.network)

    def row(
        self,
        stage: str,
        steps: int,
        seconds: float | None,
        memory: int | None,
        disk: int,
        note: str,
    ) -> Cost:
        """Return a row of the table; `disk` is that of one seed."""
        runs = len(self.params.run.seeds)
        notes = "; ".join(filter(None, (note, "with ARNAS's cells" if self.searched else "")))
        names = self.dataset, self.network
        return Cost(stage, *names, runs, steps, seconds, memory, runs * disk, notes)


class Part(NamedTuple):
    """Passes of some images through a network, a batch at a time."""

    images: int
    batch_size: int
    both_ways: int
    """Passes forward and backward of each image."""
    forward: int
    """Passes forward only."""

    @property
    def batches(self) -> list[int]:
        """Return the images of each batch."""
        whole, rest = divmod(self.images, self.batch_size)
        return [self.batch_size] * whole + [rest] * bool(rest)

    @property
    def steps(self) -> int:
        """Return the passes of all batches."""
        return len(self.batches) * (self.both_ways + self.forward)


class Line(NamedTuple):
    """Seconds of a pass: so many for a batch, and so many more for each of its images."""

    batch: float
    image: float

    def seconds(self, images: int) -> float:
        """Return the seconds of a batch of so many images."""
        return self.batch + images * self.image


class Speed(NamedTuple):
    """What was measured of a network."""

    both_ways: Line
    forward: Line
    memory: int
    """Peak in bytes of a pass both ways."""
    batch: int
    """Images that it was measured with."""

    def seconds(self, parts: Iterable[Part]) -> float:
        """Return the seconds of some passes."""
        return sum(
            part.both_ways * self.both_ways.seconds(images)
            + part.forward * self.forward.seconds(images)
            for part in parts
            for images in part.batches
        )


def bytes_of(tensors: Iterable[Tensor]) -> int:
    """Return the bytes that tensors take."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def network_costs(cell: Cell) -> tuple[list[Cost], Speed | None]:
    """Measure a network.

    Returns
    -------
    rows, speed
        The costs of its training, of the attacks on it and of its examples; and how fast it is,
        None where the memory does not suffice for two images.

    Raises
    ------
    UserError
        When the network cannot be built for the dataset.
    """
    model = cell.plan().build(f"network {cell.network} on {cell.dataset}").to(cell.device)
    whole = min(cell.params.whitebox.batch_size, cell.size.test)
    noise, _ = cell.size.noise(2, cell.device)
    with attacked(model, noise.float() / 255) as copy:
        speed = _speed(cell, copy, max(whole, 2))
    note = "at most"
    if speed is not None and speed.batch < whole:
        note = f"{whole} images do not fit, measured with {speed.batch}"
    rows = [_training(cell, model, speed)]
    for stage, parts, disk in (
        ("whitebox", whitebox_parts(cell), whitebox_bytes(cell)),
        ("blackbox_examples", examples_parts(cell), examples_bytes(cell)),
    ):
        steps = sum(part.steps for part in parts)
        mean = speed.seconds(parts) / max(steps, 1) if speed else None
        memory = speed.memory if speed else None
        rows.append(cell.row(stage, steps, mean, memory, disk, note if speed else "out of memory"))
    return rows, speed


def _speed(cell: Cell, copy: nn.Module, batch: int) -> Speed | None:
    """Time passes of a batch, halved until it fits, and of an eighth of it."""
    images, labels = cell.size.noise(batch, cell.device)
    x = images.float() / 255
    few = max(batch // FEWER, 1)
    found = []
    for count in (batch, few):

        def apgd_batch(passes: int, count: int = count) -> None:
            for _ in range(passes):
                input_gradient(copy, x[:count], labels[:count], cross_entropy)

        def look(passes: int, count: int = count) -> None:
            for _ in range(passes):
                predict(copy, x[:count], count)

        found += [time_or_reason(work, cell.device)[0] for work in (apgd_batch, look)]
        if found[0] is None:
            return _speed(cell, copy, batch // 2) if batch > 2 else None
    both, look_whole, both_few, look_few = found
    assert both and look_whole and both_few and look_few  # what fits as a whole fits in part
    return Speed(
        _line(both.seconds, batch, both_few.seconds, few),
        _line(look_whole.seconds, batch, look_few.seconds, few),
        both.memory,
        batch,
    )


def _line(seconds: float, images: int, few_seconds: float, few: int) -> Line:
    """Return the line through two measurements; neither part of it is negative."""
    image = max((seconds - few_seconds) / (images - few), 0.0)
    image = min(image, seconds / images)
    return Line(seconds - images * image, image)


def _stand_in() -> Genotype:
    """Return ARNAS's cells, of whichever kinds a search has, for cells that are not found yet."""
    genotype = GENOTYPES["arnas"].genotype
    return replace(genotype, cells={**genotype.cells, "normal": genotype.cells["accurate"]})


def _training(cell: Cell, model: nn.Module, speed: Speed | None) -> Cost:
    """Return the cost of training, the selection after every epoch included."""
    recipe, size, device = cell.recipe, cell.size, cell.device
    chosen = recipe.selection.model_copy(
        update={"steps": 1, "train_images": 1, "first_epoch": 1, "last_epoch": None}
    )
    # `model_copy` checks nothing, and what it changes here takes no time.
    plain = {"epochs": 1, "milestones": [], "warmup_epochs": 0.0, "learning_rate": TINY}
    short = recipe.model_copy(update=plain | {"selection": chosen})
    images = size.train + size.search_val
    batch = min(recipe.batch_size, images)

    def work(steps: int) -> None:
        data = TrainingData(size.noise(steps * batch, device), size.noise(1, device), 255)
        threat = cell.params.threat[cell.dataset].threat()
        train(model, TrainingTask(cell.plan().loss, data, short, threat, ("cost",)), silent)

    found, note = time_or_reason(work, device)
    steps = batches_per_epoch(images, recipe.batch_size)
    seconds = None
    if found is not None:
        rule = recipe.selection
        looked = (size.val, min(rule.train_images, images))
        after = [Part(count, rule.batch_size, rule.steps, 2) for count in looked]
        seconds = found.seconds + (speed.seconds(after) / steps if speed else 0.0)
    stored = [v for k, v in model.state_dict().items() if not k.startswith("auxiliary.")]
    memory = found.memory if found else None
    return cell.row("retrain", recipe.epochs * steps, seconds, memory, 2 * bytes_of(stored), note)


def _whitebox_images(cell: Cell) -> list[tuple[str, int]]:
    """Return the attacks of the white-box evaluation, each with its number of images."""
    options, n = cell.params.whitebox, cell.size.test
    defended = loss_entry(cell.plan().loss.name).defended
    names = [
        name
        for wanted in (options.attacks, options.last_attacks)
        for name in options.chosen(wanted, cell.dataset, defended)
    ]
    limited = min(options.autoattack_images, n)
    found = [(name, limited if name == AUTOATTACK else n) for name in names]
    # Each budget of the curve is APGD on the cross-entropy and on the margin.
    return found + [("apgd_ce", min(options.curve_images, n))] * 2 * len(options.epsilon_curve)


def whitebox_parts(cell: Cell) -> list[Part]:
    """Return what the white-box evaluation needs at most, a look at every outcome included."""
    size, n = cell.params.whitebox.batch_size, cell.size.test
    threat = cell.params.threat[cell.dataset]
    parts = [Part(n, size, 0, 1)] * 2
    for name, images in _whitebox_images(cell):
        gradients, forwards = attack_entry(name).passes(threat.norm, cell.size.num_classes)
        parts.append(Part(images, size, gradients, forwards - gradients + 1))
    return parts


def whitebox_bytes(cell: Cell) -> int:
    """Return the bytes of the outcomes: one for each image, attack and checkpoint."""
    return 2 * cell.size.test + sum(images for _, images in _whitebox_images(cell))


def examples_parts(cell: Cell) -> list[Part]:
    """Return what making examples for other networks and Square need at most."""
    options, n = cell.params.blackbox, cell.size.test
    square = min(options.square_images, n)
    queries = options.square_queries + SQUARE_LOOKS + 1
    return [
        Part(n, options.batch_size, options.steps, 2),
        Part(square, options.batch_size, 0, queries),
    ]


def examples_bytes(cell: Cell) -> int:
    """Return the bytes of the examples and of what is said of them."""
    n = cell.size.test
    stored = n * (4 * math.prod(cell.size.shape) + 4 * BYTES)
    return stored + min(cell.params.blackbox.square_images, n)
