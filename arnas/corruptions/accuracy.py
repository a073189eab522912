"""Accuracy on corrupted images: common corruptions at five severities.

The measure follows Hendrycks and Dietterich (ICLR 2019, arXiv 1903.12261, section 4). On images
that `corrupt` makes from formulas, without frost, it is called corruptions-14; on the fixed files
of CIFAR-10-C and CIFAR-100-C, see `arnas.corruptions.published`, it has their name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from arnas.attacks.eval_mode import frozen_eval
from arnas.attacks.oracle import Oracle
from arnas.corruptions.constants import SEVERITIES
from arnas.corruptions.corrupt import CORRUPTIONS, PAPER, check_images, constants_for, corrupt
from arnas.corruptions.published import PublishedCorruptions
from arnas.data.placement import on_device
from arnas.evaluation.statistics import QUANTILE, Accuracy, wilson
from arnas.runtime.errors import UserError
from arnas.runtime.progress import Report, silent

SUITE = "corruptions-14"
NO_REFERENCE = "mCE is relative to the errors of a reference network, and none were given"


class MeanAccuracy(NamedTuple):
    """An accuracy averaged over corruptions and severities, in percent."""

    percent: float
    low: float
    high: float
    """Ends of the interval at 95 % for the choice of images. It is Wilson's for n images, as if an
    image were right under all corruptions or under none, so it is too wide rather than too narrow;
    versions of one image are not counted as images."""
    n: int
    """Images; each has one version for each corruption and severity."""


@dataclass(frozen=True)
class CorruptionTable:
    """What a model got right on corrupted images."""

    accuracies: Mapping[str, Mapping[int, Accuracy]]
    """Corruption to severity to accuracy, in the order of the paper."""
    outcomes: Mapping[str, Tensor]
    """Corruption to uint8 of shape (severities, n), on the CPU: 1 where the image is right."""
    clean: Accuracy
    """On the same images, not corrupted."""
    mean: MeanAccuracy
    mce: float | None
    """Mean corruption error in percent over all corruptions: 100 for a model as good as the
    reference; None without one."""
    mce_absent: str | None
    """Why there is none."""
    seed: int
    constants: str
    """The published set whose constants the images got by their size, or whose files they are."""
    name: str = SUITE
    """What the complete suite is called."""
    every: tuple[str, ...] = tuple(CORRUPTIONS)
    """Its corruptions, in the order of the paper."""

    @property
    def severities(self) -> tuple[int, ...]:
        """Return the severities, ascending."""
        return tuple(next(iter(self.accuracies.values())))

    @property
    def complete(self) -> bool:
        """Return whether it holds all corruptions at all severities."""
        return set(self.accuracies) == set(self.every) and self.severities == SEVERITIES

    @property
    def suite(self) -> str:
        """Return what the table may be called."""
        if self.complete:
            return self.name
        some = f"{len(self.accuracies)} of {len(self.every)} corruptions"
        at = ", ".join(str(severity) for severity in self.severities)
        return f"part of {self.name}: {some}, severities {at}"

    def by_corruption(self) -> dict[str, float]:
        """Return each corruption's accuracy averaged over the severities, in percent."""
        return {
            name: sum(accuracy.percent for accuracy in row.values()) / len(row)
            for name, row in self.accuracies.items()
        }

    def to_json(self) -> dict[str, Any]:
        """Return the table as JSON values, without the outcomes of the images."""
        return {
            "suite": self.suite,
            "citation": PAPER,
            "constants": f"those of {self.constants}",
            "left_out": [] if "frost" in self.every else ["frost"],
            "seed": self.seed,
            "n": self.clean.n,
            "clean": self.clean._asdict(),
            "mean": self.mean._asdict(),
            "mce": self.mce,
            "mce_absent": self.mce_absent,
            "corruptions": {
                name: {str(severity): accuracy._asdict() for severity, accuracy in row.items()}
                for name, row in self.accuracies.items()
            },
        }


def corruption_accuracy(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    batch_size: int,
    seed: int,
    indices: Tensor | None = None,
    names: Sequence[str] | None = None,
    severities: Sequence[int] = SEVERITIES,
    reference: Mapping[str, float] | None = None,
    published: PublishedCorruptions | None = None,
    report: Report = silent,
) -> CorruptionTable:
    """Return what a model gets right on corrupted images.

    Images are corrupted batch by batch on the CPU and not kept. All seventy versions of an image
    of 32 x 32 take about 15 ms on one core, of 64 x 64 about 35 ms, of 224 x 224 about 0.7 s.

    Parameters
    ----------
    model
        Pixels in [0, 1] to logits; it is judged in evaluation mode and is afterwards what it was.
    x
        Of shape (n, C, H, W), n from 1 up, 1 or 3 channels, from 32 x 32 up; float in [0, 1] of
        the model's type, or uint8, of which the model gets float32 in [0, 1].
    y
        int64 of shape (n,): true labels, on the device of the model.
    batch_size
        Images that go through the model together; it changes no image.
    seed
        With corruption, severity and index all that an image's random numbers depend on.
    indices
        int64 of shape (n,): the images' places in their dataset; None for the first n.
    names
        Keys of `arnas.corruptions.corrupt.CORRUPTIONS`, of published files also ``frost``; None
        for all.
    severities
        Of 1 to 5.
    reference
        Corruption to the error, in percent and averaged over severities 1 to 5, of the network
        that mCE is relative to. Keys of other corruptions are not read.
    published
        Take the corrupted images from these files, in which `indices` are places in the official
        test set that `x` is of. By default they are made.
    report
        Called after every corruption at every severity.

    Raises
    ------
    UserError
        When images, labels, corruptions, severities or reference are invalid.
    """
    every = tuple(CORRUPTIONS) if published is None else published.names
    chosen, levels = _chosen(names, severities, every)
    if reference is not None:
        check_reference(reference, every)
    if y.ndim != 1 or len(x) != len(y) or not len(y):
        raise UserError(
            f"x has shape {tuple(x.shape)} and y {tuple(y.shape)}: needed is one label for each "
            "image, and at least one image."
        )
    check_images(x)
    indices = torch.arange(len(x)) if indices is None else indices.detach().cpu()
    if indices.shape != y.shape:
        raise UserError(
            f"indices has shape {tuple(indices.shape)}: needed is one index for each of the "
            f"{len(y)} images."
        )
    if published is not None:
        published.check(chosen, indices, y.cpu())
    batches = _Batches(x, y, indices, batch_size, published)
    outcomes = {}
    with frozen_eval(model):
        clean = _is_right(model, batches, None)
        for number, name in enumerate(chosen):
            rows = []
            for place, severity in enumerate(levels):
                rows.append(_is_right(model, batches, (name, severity, seed)))
                text = f"{name} {severity}: {100 * float(rows[-1].float().mean()):.1f} %"
                report(number * len(levels) + place + 1, len(chosen) * len(levels), text)
            outcomes[name] = torch.stack(rows)
    cells = {name: map(_accuracy, rows) for name, rows in outcomes.items()}
    table = CorruptionTable(
        {name: dict(zip(levels, row, strict=True)) for name, row in cells.items()},
        outcomes,
        _accuracy(clean),
        mean_accuracy(float(torch.stack(list(outcomes.values())).double().mean()), len(clean)),
        mce=None,
        mce_absent=NO_REFERENCE,
        seed=seed,
        constants=published.name if published else constants_for(*x.shape[2:])[0],
        name=published.name if published else SUITE,
        every=every,
    )
    return table if reference is None else _with_mce(table, reference)


def mean_corruption_error(errors: Mapping[str, float], reference: Mapping[str, float]) -> float:
    """Return mCE in percent (arXiv 1903.12261, section 4), over the corruptions of `errors`.

    The mean of each corruption's error relative to the reference's, which is above 0, both in
    percent and averaged over severities, as sums over the same severities are in the same ratio.
    """
    ratios = [error / reference[name] for name, error in errors.items()]
    return 100 * sum(ratios) / len(ratios)


def check_reference(
    reference: Mapping[str, float], every: Sequence[str] = tuple(CORRUPTIONS)
) -> None:
    """Raise unless a reference names an error in percent for every corruption.

    Raises
    ------
    UserError
        When one is missing or impossible, or all look like shares.
    """
    missing = [name for name in every if name not in reference]
    if missing:
        raise UserError(
            f"reference has no error for {', '.join(missing)}: mCE needs one for each of the "
            f"{len(every)} corruptions; give them all, or no reference."
        )
    errors = {name: float(reference[name]) for name in every}
    for name, error in errors.items():
        if not 0 < error <= 100:
            raise UserError(
                f"reference has an error of {error:g} for {name}: allowed are percentages above 0 "
                "and up to 100."
            )
    if max(errors.values()) <= 1:
        raise UserError(
            f"reference has no error above {max(errors.values()):g}: needed are percentages, and "
            "these look like shares; multiply them by 100."
        )


class _Batches(NamedTuple):
    """Images, labels and indices, and how many images go together."""

    x: Tensor
    y: Tensor
    indices: Tensor
    size: int
    published: PublishedCorruptions | None


def _is_right(model: nn.Module, batches: _Batches, how: tuple[str, int, int] | None) -> Tensor:
    """Return which images are classified correctly, uint8 of shape (n,) on the CPU.

    `how` is corruption, severity and seed; None for the images as they are.
    """
    oracle, right = Oracle(model, batches.size), []
    for place in torch.split(torch.arange(len(batches.x)), batches.size):
        x, y = batches.x[place.to(batches.x.device)], batches.y[place.to(batches.y.device)]
        if how is not None:
            name, severity, seed = how
            index = batches.indices[place]
            if batches.published is None:
                x = corrupt(x, name, severity, seed, index)
            else:
                x = batches.published.images(name, severity, index)
        x = on_device(x, y.device)
        if not x.is_floating_point():
            x = x.to(batches.x.dtype if batches.x.is_floating_point() else torch.float32) / 255
        right.append((~oracle.is_wrong(x, y)).to(torch.uint8).cpu())
    return torch.cat(right)


def _accuracy(right: Tensor) -> Accuracy:
    """Return the accuracy of outcomes."""
    return wilson(int(right.sum()), len(right))


def _with_mce(table: CorruptionTable, reference: Mapping[str, float]) -> CorruptionTable:
    """Return a table with its mCE, if it is complete."""
    if not table.complete:
        every = f"all {len(table.every)} corruptions at all {len(SEVERITIES)} severities"
        return replace(table, mce_absent=f"mCE needs {every}")
    errors = {name: 100 - percent for name, percent in table.by_corruption().items()}
    return replace(table, mce=mean_corruption_error(errors, reference), mce_absent=None)


def mean_accuracy(share: float, n: int) -> MeanAccuracy:
    """Return a mean over n images with its interval: Wilson's, which also takes parts of an image.

    `share` is that of the versions that are right, 0 to 1.
    """
    square = QUANTILE**2
    middle = (share + square / (2 * n)) / (1 + square / n)
    spread = (share * (1 - share) / n + square / (4 * n**2)) ** 0.5
    half = QUANTILE * spread / (1 + square / n)
    low, high = max(middle - half, 0.0), min(middle + half, 1.0)
    return MeanAccuracy(100 * share, 100 * low, 100 * high, n)


def _chosen(
    names: Sequence[str] | None, severities: Sequence[int], every: Sequence[str]
) -> tuple[list[str], tuple[int, ...]]:
    """Return corruptions in the order of the paper and severities ascending, each once."""
    names = every if names is None else names
    for name in names:
        if name not in every:
            made = "" if "frost" in every else "; frost needs photographs that cannot be shipped"
            raise UserError(f"names holds '{name}': allowed are {', '.join(every)}{made}.")
    for severity in severities:
        if severity not in SEVERITIES:
            raise UserError(f"severities holds {severity}: allowed are 1 to 5.")
    if not names or not severities:
        raise UserError(
            f"{'severities' if names else 'names'} is empty: name at least one, or leave it out "
            "for all of them."
        )
    return [name for name in every if name in names], tuple(sorted(set(severities)))
