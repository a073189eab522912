"""Square: a random search over square windows that sees logits only (arXiv 1912.00049)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from arnas.attacks.eval_mode import BatchNorm, frozen_eval
from arnas.attacks.objectives import margin
from arnas.attacks.oracle import AttackOutput, Numbers, Oracle, RandomStreams, misclassified
from arnas.attacks.pgd import check_start
from arnas.attacks.projection import TINY, length, project, shaped
from arnas.attacks.threat import Threat
from arnas.attacks.windows import (
    Window,
    channel_lengths,
    covered,
    make_window,
    places,
    query_numbers,
    signs,
    start_numbers,
    stripes,
    tiles,
    window_side,
)
from arnas.runtime.errors import UserError
from arnas.runtime.seeds import per_image_uniform

BLOCK = 100
"""Queries whose random numbers are drawn together."""
INSIDE_L1 = 1 - 1e-6
"""Share of epsilon that L1 projects to, so that rounding does not leave the ball."""
CANCELLED = 1e-5
"""Stretch above 1 of tries in which a bump and what the window held have cancelled: the package
scales up the whole image, since the window does not use up the budget."""


def numbers_needed(shape: Sequence[int], norm: str, queries: int) -> int:
    """Return how many random numbers an image takes that stands to the end.

    Parameters
    ----------
    shape
        (C, H, W).
    norm
        ``linf``, ``l2`` or ``l1``.
    queries
        Windows tried.
    """
    return start_numbers(shape, norm) + queries * query_numbers(shape, norm)


def per_image_numbers(parts: Iterable[object], indices: Tensor) -> Numbers:
    """Return numbers that depend on `parts`, an image's index and the block only.

    5000 queries take 100 to 160 kB of numbers an image, 1.0 to 1.6 GB for 10 000 of CIFAR; drawn in
    blocks they take a fiftieth of it.

    Parameters
    ----------
    parts
        What the numbers are for, for example ``("square", seed)``.
    indices
        int64 of shape (N,): the images' places in their dataset.
    """
    purpose, indices = tuple(parts), indices.cpu()

    def draw(block: int, places: Tensor, count: int) -> Tensor:
        return per_image_uniform((*purpose, block), indices[places], (count,))

    return draw


def square(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    queries: int = 5000,
    restarts: int = 1,
    indices: Tensor | None = None,
    generator: torch.Generator | None = None,
    batch_norm: BatchNorm = "eval",
    batch_size: int = 250,
) -> Tensor:
    """Search for adversarial squares with the logits of the model alone.

    The attack of Andriushchenko et al. (ECCV 2020, arXiv 1912.00049) as AutoAttack runs it, on the
    margin of the logits. No gradient is taken.

    Parameters
    ----------
    model, batch_norm
        As for `arnas.attacks.pgd.pgd`.
    x
        float of shape (N, C, H, W) with values in [0, 1].
    y
        int64 of shape (N,): true labels.
    threat
        Norm and budget.
    queries
        Most windows tried for an image, from 0 up; the clean image and the start cost a forward
        pass each besides.
    restarts
        Searches with other random numbers, from 1 up; only images that still stand go on.
    indices
        int64 of shape (N,): the images' places in their dataset, which their random numbers depend
        on, so that batches do not matter; by default the places in `x`.
    generator
        Source of the seed, on any device; None uses a fixed seed.
    batch_size
        Images that go through the model together, from 1 up.

    Returns
    -------
    Tensor
        x_adv of x's shape and dtype, inside the ball and the box within 1e-6: the first
        misclassified try. Images that stand, and those misclassified already, are returned as they
        were.

    Raises
    ------
    UserError
        When x and y do not fit each other, x leaves [0, 1], or an argument is impossible.
    """
    check_start(x, y, 0, None)
    if x.ndim != 4:
        raise UserError(f"x has shape {tuple(x.shape)}: needed is (N, C, H, W).")
    indices = torch.arange(len(x)) if indices is None else indices.cpu()
    if indices.shape != y.shape:
        raise UserError(
            f"indices has shape {tuple(indices.shape)}: needed is one place for each of the "
            f"{len(x)} images."
        )
    for name, value, least in (
        ("queries", queries, 0),
        ("restarts", restarts, 1),
        ("batch_size", batch_size, 1),
    ):
        if value < least:
            raise UserError(f"{name} is {value}: allowed are {least} and more.")
    x = x.detach()
    result = x.clone()
    if not len(x) or threat.epsilon == 0:
        return result
    seed = 0
    if generator is not None:
        seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    with frozen_eval(model, batch_norm):
        oracle = Oracle(model, batch_size)
        standing = (~oracle.is_wrong(x, y)).nonzero().squeeze(1)
        for restart in range(restarts):
            numbers = per_image_numbers(("square", seed, restart), indices[standing.cpu()])
            found = _attack(oracle, x[standing], y[standing], threat, numbers, queries)
            result[standing[found.broken]] = found.x_adv[found.broken]
            standing = standing[~found.broken]
    return result


class _Case(NamedTuple):
    """What does not change during a search."""

    oracle: Oracle
    shape: torch.Size
    """(C, H, W)."""
    threat: Threat


@dataclass
class _Hunt:
    """Where each image that stands is; every field has the images first."""

    place: Tensor
    """int64: the image's position in the batch."""
    x: Tensor
    """Of shape (M, C * H * W)."""
    best: Tensor
    """The best try so far; while the model is asked, the next one. Of x's shape."""
    y: Tensor
    value: Tensor
    """Margin at `best`."""
    size: Tensor
    """Length of the perturbation at `best`; linf does not need it."""
    stretch: Tensor
    """By how much the perturbation of a try is too short for epsilon, about 1; in L2."""
    numbers: Tensor
    """Of shape (M, queries of the block, numbers of a query)."""

    def keep(self, index: Tensor) -> None:
        """Go on with some of the images only."""
        for name, value in vars(self).items():
            setattr(self, name, value[index])


class _Change(NamedTuple):
    """Values of the images that a try replaces, each of shape (M, count)."""

    place: Tensor
    """int64: which values of the image."""
    before: Tensor
    after: Tensor


def square_batch(
    oracle: Oracle,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    streams: RandomStreams,
    *,
    queries: int = 5000,
) -> AttackOutput:
    """Search for adversarial squares on many images in step.

    With the same numbers an image takes the path that it takes alone in the AutoAttack package,
    where the images of a batch share the places of their windows. It leaves as soon as it is
    misclassified and costs nothing from then on. Two things differ: the package also leaves an
    image alone whose two largest logits are equal, which need not be a misclassification, and in
    L1 it scales up the rounding errors of channels that a projection has just emptied.

    Parameters
    ----------
    oracle
        The model.
    x, y
        Images of shape (N, C, H, W) in [0, 1], and their labels.
    threat
        Norm and budget.
    streams
        Its blocks: block 0 is for the start, block k for the `BLOCK` queries from (k - 1) `BLOCK`
        on. A number of exactly one half stands for the sign -1.
    queries
        Most windows tried for an image; the start is asked about besides.
    """
    return _attack(oracle, x, y, threat, streams.blocks, queries)


def _attack(
    oracle: Oracle, x: Tensor, y: Tensor, threat: Threat, draw: Numbers, queries: int
) -> AttackOutput:
    """Do the same with the numbers of `draw`."""
    case, each = _Case(oracle, x.shape[1:], threat), query_numbers(x.shape[1:], threat.norm)
    result, broken = x.detach().clone(), torch.zeros(len(x), dtype=torch.bool, device=x.device)
    if not len(x):
        return AttackOutput(broken, result)
    hunt, classes, wrong = _begin(case, result.flatten(1), y, draw)
    _leave(hunt, result, broken, wrong)
    window = None
    for query in range(queries if classes > 1 and threat.epsilon > 0 else 0):
        if not len(hunt.place):
            break
        if query % BLOCK == 0:
            drawn = draw(1 + query // BLOCK, hunt.place.cpu(), BLOCK * each)
            hunt.numbers = drawn.to(x.device).view(len(hunt.place), -1, each)
        side = window_side(query, case.shape, threat.norm)
        if window is None or window.side != side:
            window = make_window(side, case.shape, threat.norm, hunt.x)
        wrong = _try(case, hunt, window, hunt.numbers[:, query % BLOCK])
        _leave(hunt, result, broken, wrong)
    result[hunt.place] = hunt.best.view(-1, *case.shape)
    return AttackOutput(broken, result)


def _begin(case: _Case, x: Tensor, y: Tensor, draw: Numbers) -> tuple[_Hunt, int, Tensor]:
    """Return the hunt at its start, the number of classes, and who is misclassified there."""
    place = torch.arange(len(x), device=x.device)
    drawn = draw(0, place.cpu(), start_numbers(case.shape, case.threat.norm)).to(x.device)
    if case.threat.norm == "linf":
        best = (x + case.threat.epsilon * stripes(drawn, case.shape, x)).clamp(0, 1)
    else:
        best = _finish(x, tiles(drawn, case.shape, case.threat.norm, x), case.threat)
    version = best._version
    logits = case.oracle.logits(best.view(-1, *case.shape))
    if best._version != version:
        raise UserError("the model changes its input in place: let it work on a copy.")
    size = length(best - x, case.threat.norm)
    hunt = _Hunt(place, x.clone(), best, y, margin(logits, y), size, torch.ones_like(size), drawn)
    return hunt, logits.shape[1], misclassified(logits, y)


def _leave(hunt: _Hunt, result: Tensor, broken: Tensor, wrong: Tensor) -> None:
    """Store the tries that are misclassified and go on without their images."""
    if wrong.any():
        gone = hunt.place[wrong]
        broken[gone] = True
        result[gone] = hunt.best[wrong].view(-1, *result.shape[1:])
        hunt.keep((~wrong).nonzero().squeeze(1))


def _try(case: _Case, hunt: _Hunt, window: Window, numbers: Tensor) -> Tensor:
    """Ask about one window for each image, keep what helps, and return who is misclassified.

    Only the window is written, and written back where it did not help: the rest of the image does
    not change.
    """
    changes = (_flip if case.threat.norm == "linf" else _bump)(case, hunt, window, numbers)
    for place, _, after in changes:
        hunt.best.scatter_(1, place, after)
    logits = case.oracle.logits(hunt.best.view(-1, *case.shape))
    value, wrong = margin(logits, hunt.y), misclassified(logits, hunt.y)
    better = (value > hunt.value) | wrong
    for place, before, after in changes:
        hunt.best.scatter_(1, place, torch.where(better[:, None], after, before))
    hunt.value = torch.where(better, value, hunt.value)
    if case.threat.norm != "linf":
        _measure(hunt, case.threat, (better & ~wrong).nonzero().squeeze(1))
    return wrong


def _flip(case: _Case, hunt: _Hunt, window: Window, numbers: Tensor) -> list[_Change]:
    """Return a window of each channel moved to one end of the linf ball."""
    place = places(window, case.shape, numbers)
    clean = hunt.x.gather(1, place).view(len(place), case.shape[0], -1)
    moved = (clean + case.threat.epsilon * signs(numbers[:, 2:], clean)).clamp(0, 1)
    return [_Change(place, hunt.best.gather(1, place), moved.flatten(1))]


def _bump(case: _Case, hunt: _Hunt, window: Window, numbers: Tensor) -> list[_Change]:
    """Return what one window of each channel loses and another one gains, in L2 or L1.

    The gaining window gets a bump on top of what it holds, rescaled to the length of both windows
    and a share of what is left of the budget (arXiv 1912.00049, algorithm 3).
    """
    norm, epsilon, channels = case.threat.norm, case.threat.epsilon, case.shape[0]
    power = 2 if norm == "l2" else 1
    gains, loses = (places(window, case.shape, numbers[:, i : i + 2]) for i in (0, 2))
    before = [hunt.best.gather(1, place) for place in (gains, loses)]
    clean = [hunt.x.gather(1, place) for place in (gains, loses)]
    held, lost = (
        (old - new).view(len(gains), channels, -1) for old, new in zip(before, clean, strict=True)
    )
    lost = lost * ~covered(window, case.shape, numbers[:, :2], numbers[:, 2:4])
    held_length = channel_lengths(held, norm)
    stock = held_length**power + channel_lengths(lost, norm) ** power
    left = shaped((epsilon**power - hunt.size**power).clamp_min(0), held) / channels
    # In L1 the package gives a channel the budget of all of them and projects afterwards.
    wanted = (left + stock).sqrt() if norm == "l2" else channels * (left + stock)
    turned = window.bumps[(numbers[:, 4] > 0.5).long()].unsqueeze(1)
    profile = turned * signs(numbers[:, 5:], held) + held / (TINY + held_length)
    spent = wanted / (TINY + channel_lengths(profile, norm))
    gained = profile * spent
    if norm == "l2":
        grown = (channel_lengths(gained, norm) ** 2 - stock).flatten(1).sum(1)
        hunt.stretch = epsilon / ((hunt.size**2 + grown).clamp_min(0).sqrt() + TINY)
        if (hunt.stretch < 1 + CANCELLED).all():
            moved = (clean[0] + gained.flatten(1)).clamp(0, 1)
            return [_Change(loses, before[1], clean[1]), _Change(gains, before[0], moved)]
    hunt.stretch = torch.ones_like(hunt.size)
    delta = (hunt.best - hunt.x).scatter(1, loses, 0.0).scatter(1, gains, gained.flatten(1))
    everything = torch.arange(delta.shape[1], device=delta.device).expand_as(delta)
    return [_Change(everything, hunt.best.clone(), _finish(hunt.x, delta, case.threat))]


def _finish(x: Tensor, delta: Tensor, threat: Threat) -> Tensor:
    """Return x + delta in the ball and the box: in L2 scaled to epsilon, in L1 projected."""
    if threat.norm == "l1":
        inner = Threat("l1", INSIDE_L1 * threat.epsilon)
        return (x + project(x, delta, inner)).clamp(0, 1)
    size = shaped(length(delta, "l2"), delta)
    return (x + delta * (threat.epsilon / (size + TINY))).clamp(0, 1)


def _measure(hunt: _Hunt, threat: Threat, changed: Tensor) -> None:
    """Bring tries that were kept into the ball to the last digit, and note their lengths."""
    if not len(changed):
        return
    delta = hunt.best[changed] - hunt.x[changed]
    size = length(delta, threat.norm)
    if threat.norm == "l2":
        # The package scales the whole image, with a tiny number added to its length. What that
        # leaves of the budget is all that a bump on an empty window can have.
        stretch = hunt.stretch[changed]
        delta, size = delta * shaped(stretch, delta), size * stretch
        hunt.best[changed] = (hunt.x[changed] + delta).clamp(0, 1)
    hunt.size[changed] = size
