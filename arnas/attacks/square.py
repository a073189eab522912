"""Square: a random search over square windows that sees logits only (arXiv 1912.00049)."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor, nn

from arnas.attacks.eval_mode import BatchNorm
from arnas.attacks.folding import attacked
from arnas.attacks.objectives import margin
from arnas.attacks.oracle import (
    ActiveImages,
    AttackOutput,
    Numbers,
    Oracle,
    RandomStreams,
)
from arnas.attacks.pgd import check_at_least, check_attack
from arnas.attacks.projection import ORDERS, TINY, length, project, shaped
from arnas.attacks.threat import Threat
from arnas.runtime.errors import UserError
from arnas.runtime.seeds import per_image_uniform

BLOCK = 100
"""Queries whose random numbers are drawn together."""
AHEAD = 0.25
"""Queries to look ahead, in units of an image's mean gap between two improvements so far. About an
eighth of them are wasted, fewer as improvements become rarer."""
TOGETHER = 2**15
"""Most values of images in a batch that looking ahead fills on a CPU: 10 of 3x32x32. Larger batches
are hardly faster an image there, and slower where they leave the cache."""
INSIDE_L1 = 1 - 1e-6
"""Share of epsilon that L1 projects to, so that rounding does not leave the ball."""
CANCELLED = 1e-5
"""Stretch above 1 of candidates in which a bump and the window's content have cancelled: the
package scales up the whole image, since the window does not use up the budget."""
SCHEDULE = 10_000
"""Queries that the schedule of window sizes is written for."""
FIRST_SHARE = 0.8
"""Share of the image that the first windows cover."""
HALVED_AFTER = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""Queries after which the share halves, as in AutoAttack, which does not rescale them."""
DECAY = {"l2": 2, "l1": 4}
"""Power of the distance with which a bump falls off."""
TILES = 5
"""Bumps side by side at the start, in L2 and L1."""


def per_image_numbers(parts: Iterable[object], indices: Tensor) -> Numbers:
    """Return random numbers that depend on `parts`, an image's index and the block only.

    5000 queries take 100 to 160 kB of them an image, 1.0 to 1.6 GB for 10 000 of CIFAR; drawn in
    blocks they take a fiftieth of it. `parts` say what they are for, for example ``("square",
    seed)``; `indices` are the images' in their dataset, int64 of shape (N,).
    """
    purpose, indices = tuple(parts), indices.cpu()

    def draw(block: int, rows: Tensor, count: int) -> Tensor:
        return per_image_uniform((*purpose, block), indices[rows], (count,))

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
    model, x, y, threat, batch_norm, batch_size
        As for `arnas.attacks.apgd.apgd`.
    queries
        Most windows tried for an image, from 0 up; the clean image and the start cost a forward
        pass each besides, and so does what `square_batch` tries in vain by looking ahead.
    restarts
        Searches with other random numbers, from 1 up; only images that are still robust go on.
    indices
        int64 of shape (N,): the images' indices in their dataset, which their random numbers depend
        on, so that batches do not matter; by default the positions in `x`.
    generator
        Source of the seed, on any device; None uses a fixed seed.

    Returns
    -------
    Tensor
        x_adv of x's shape and dtype, inside the ball and the box within 1e-6: the first
        misclassified candidate. Robust images, and those misclassified already, are returned
        unchanged.

    Raises
    ------
    UserError
        As for `arnas.attacks.pgd.pgd`.
    """
    check_attack(x, y, restarts=restarts, batch_size=batch_size)
    if x.ndim != 4:
        raise UserError(f"x has shape {tuple(x.shape)}: needed is (N, C, H, W).")
    indices = torch.arange(len(x)) if indices is None else indices.cpu()
    if indices.shape != y.shape:
        raise UserError(
            f"indices has shape {tuple(indices.shape)}: needed is one for each of the {len(x)} "
            "images."
        )
    check_at_least(0, queries=queries)
    x = x.detach()
    result = x.clone()
    if not len(x) or threat.epsilon == 0:
        return result
    seed = 0
    if generator is not None:
        seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    with attacked(model, x, batch_norm) as network:
        oracle = Oracle(network, batch_size)
        robust = (~oracle.is_wrong(x, y)).nonzero().squeeze(1)
        for restart in range(restarts):
            numbers = per_image_numbers(("square", seed, restart), indices[robust.cpu()])
            found = _attack(oracle, x[robust], y[robust], threat, numbers, queries)
            result[robust[found.broken]] = found.x_adv[found.broken]
            robust = robust[~found.broken]
    return result


def square_batch(
    oracle: Oracle,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    streams: RandomStreams,
    *,
    queries: int = 5000,
    rescale_schedule: bool = False,
) -> AttackOutput:
    """Search for adversarial squares on many images in step.

    With the same numbers an image's candidates are those that it has alone in the AutoAttack
    package, where the images of a batch share the positions of their windows. It drops out as soon
    as it is misclassified and costs nothing from then on. Two things differ: the package also drops
    an image whose two largest logits are equal, which need not be a misclassification, and in L1 it
    scales up the rounding errors of channels that a projection has just emptied.

    `rescale_schedule` makes the windows shrink as fast as the budget asks, as the paper does: all
    sizes of the 10,000 queries that its schedule is written for are passed through. AutoAttack does
    not, and a small budget would then end while the windows are still large.

    Where few images are left, several queries of each go through the model together, made from the
    same candidate. Those behind one that helps are dropped and made again, so that the search is
    the one query by query, and no image has more than `queries` of them; the dropped ones are
    passes all the same, 2 to 10 % more where they were counted. A model that draws random numbers
    is queried one by one.

    Of the random numbers block 0 is for the start, block k for the `BLOCK` queries from (k - 1)
    `BLOCK` on. The start costs a query besides.
    """
    return _attack(oracle, x, y, threat, streams.blocks, queries, rescale_schedule)


def _attack(
    oracle: Oracle,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    draw: Numbers,
    queries: int,
    rescale_schedule: bool = False,
) -> AttackOutput:
    """Do the same with random numbers from `draw`."""
    problem, each = _Problem(oracle, x.shape[1:], threat), query_numbers(x.shape[1:], threat.norm)
    result, broken = x.detach().clone(), torch.zeros(len(x), dtype=torch.bool, device=x.device)
    if not len(x):
        return AttackOutput(broken, result)
    state, classes, wrong = _begin(problem, result.flatten(1), y, draw)
    _drop_broken(state, result, broken, wrong)

    def phase(query: int) -> tuple[int, int]:
        """Return the block of a query and the side of its window."""
        step = int(query / queries * SCHEDULE) if rescale_schedule else query
        return query // BLOCK, window_side(step, problem.shape, threat.norm)

    budget = queries if classes > 1 and threat.epsilon > 0 else 0
    for (block, side), members in groupby(range(budget), phase):
        if not len(state.index):
            break
        span = [*members]
        if span[0] % BLOCK == 0:
            drawn = draw(1 + block, state.index.cpu(), BLOCK * each)
            state.numbers = drawn.to(x.device).view(len(state.index), -1, each)
        window = make_window(side, problem.shape, threat.norm, state.x)
        while (state.done <= span[-1]).any():
            fallen = _query(problem, state, window, span[-1] + 1)
            _drop_broken(state, result, broken, fallen)
    result[state.index] = state.best.view(-1, *problem.shape)
    return AttackOutput(broken, result)


class _Problem(NamedTuple):
    """What does not change during a search."""

    oracle: Oracle
    shape: torch.Size
    """(C, H, W)."""
    threat: Threat


@dataclass
class _State(ActiveImages):
    """The state of a search."""

    index: Tensor
    """int64: the image's position in the batch."""
    x: Tensor
    """Of shape (M, C * H * W)."""
    best: Tensor
    """The best candidate so far. Of x's shape."""
    y: Tensor
    value: Tensor
    """Margin at `best`."""
    size: Tensor
    """Length of the perturbation at `best`; linf does not need it."""
    numbers: Tensor
    """Of shape (M, queries of the block, numbers of a query)."""
    done: Tensor
    """int64: queries done."""
    improved: Tensor
    """int64: those of them that were better than all before."""


def _begin(problem: _Problem, x: Tensor, y: Tensor, draw: Numbers) -> tuple[_State, int, Tensor]:
    """Return the state at the start, the number of classes, and what is misclassified there."""
    index = torch.arange(len(x), device=x.device)
    drawn = draw(0, index.cpu(), start_numbers(problem.shape, problem.threat.norm)).to(x.device)
    if problem.threat.norm == "linf":
        best = (x + problem.threat.epsilon * stripes(drawn, problem.shape, x)).clamp(0, 1)
    else:
        best = _to_ball(x, tiles(drawn, problem.shape, problem.threat.norm, x), problem.threat)
    version = best._version
    logits = problem.oracle.logits(best.view(-1, *problem.shape))
    if best._version != version:
        raise UserError("the model changes its input in place: let it work on a copy.")
    size = length(best - x, problem.threat.norm)
    none = torch.zeros_like(index)
    state = _State(index, x.clone(), best, y, margin(logits, y), size, drawn, none, none.clone())
    return state, logits.shape[1], problem.oracle.misclassified(logits, y)


def _drop_broken(state: _State, result: Tensor, broken: Tensor, wrong: Tensor) -> None:
    """Store the candidates that are misclassified and go on without their images."""
    if wrong.any():
        index = state.index[wrong]
        broken[index] = True
        result[index] = state.best[wrong].view(-1, *result.shape[1:])
        state.select((~wrong).nonzero().squeeze(1))


def _ahead(problem: _Problem, state: _State, end: int) -> Tensor:
    """Return how many queries of each image before query `end` to make at once, int64 (M,).

    Late in a search hardly a query helps. Where few images are left, more of their queries are made
    from the present candidates, in one batch.
    """
    oracle, room = problem.oracle, problem.oracle.batch_size
    if state.x.device.type == "cpu":
        room = min(room, TOGETHER // problem.shape.numel())
    most, left = room // len(state.index), end - state.done
    if most <= 1 or oracle.expectation > 1:
        return left.clamp_(max=1)
    gap = (state.done + 1) / (state.improved + 1)
    return (AHEAD * gap).long().clamp_(1, most).minimum(left)


def _query(problem: _Problem, state: _State, window: Window, end: int) -> Tensor:
    """Make queries before `end`, keep what helps, and return which images have fallen.

    Of the queries of an image the first that helps counts. Those behind it were made from a
    candidate that is no longer the best, so they are made again.
    """
    ahead, norm = _ahead(problem, state, end), problem.threat.norm
    row = torch.repeat_interleave(ahead)
    state.done += ahead
    query = torch.arange(len(row), device=row.device) + (state.done - ahead.cumsum(0))[row]
    best, y, numbers = state.best[row], state.y[row], state.numbers[row, query % BLOCK]
    propose = _propose_linf if norm == "linf" else _propose_lp
    stretch = propose(problem, state, row, best, window, numbers)
    logits = problem.oracle.logits(best.view(-1, *problem.shape))
    value, wrong = margin(logits, y), problem.oracle.misclassified(logits, y)
    helps = ((value > state.value[row]) | wrong).nonzero().squeeze(1)
    fallen = torch.zeros_like(state.y, dtype=torch.bool)
    if not len(helps):
        return fallen
    first = helps[row[helps].diff(prepend=row.new_tensor([-1])) > 0]
    changed = row[first]
    state.done[changed] = query[first] + 1
    state.improved[changed] += 1
    state.value[changed], state.best[changed] = value[first], best[first]
    fallen[changed] = wrong[first]
    if norm != "linf":
        stands = first[~wrong[first]]
        _rescale(state, problem.threat, row[stands], stretch[stands])
    return fallen


def _clean(state: _State, row: Tensor, pixels: Tensor) -> Tensor:
    """Return values of the images at some rows, of the shape of `pixels`, (K, count)."""
    return state.x.take(pixels + row[:, None] * state.x.shape[1])


def _propose_linf(
    problem: _Problem, state: _State, row: Tensor, best: Tensor, window: Window, numbers: Tensor
) -> Tensor:
    """Move a window of each channel of `best`, the best of some rows, to one end of the linf ball.

    Returned is by how much to stretch what helps: by nothing.
    """
    pixels = window_pixels(window, problem.shape, numbers)
    clean = _clean(state, row, pixels).view(len(pixels), problem.shape[0], -1)
    moved = (clean + problem.threat.epsilon * signs(numbers[:, 2:], clean)).clamp_(0, 1)
    best.scatter_(1, pixels, moved.flatten(1))
    return torch.ones_like(state.value)


def _propose_lp(
    problem: _Problem, state: _State, row: Tensor, best: Tensor, window: Window, numbers: Tensor
) -> Tensor:
    """Let one window of each channel of `best` lose and another one gain, in L2 or L1.

    The gaining window gets a bump on top of what it holds, rescaled to the length of both windows
    and a share of what is left of the budget (arXiv 1912.00049, algorithm 3). Returned is, in L2,
    by how much the perturbation is then too short for epsilon, about 1.
    """
    norm, epsilon, channels = problem.threat.norm, problem.threat.epsilon, problem.shape[0]
    size = state.size[row]
    power = 2 if norm == "l2" else 1
    gains, loses = (window_pixels(window, problem.shape, numbers[:, i : i + 2]) for i in (0, 2))
    clean = [_clean(state, row, pixels) for pixels in (gains, loses)]
    held, lost = (
        (best.gather(1, pixels) - values).view(len(gains), channels, -1)
        for pixels, values in zip((gains, loses), clean, strict=True)
    )
    lost = lost * ~covered(window, problem.shape, numbers[:, :2], numbers[:, 2:4])
    held_length = channel_lengths(held, norm)
    stock = held_length**power + channel_lengths(lost, norm) ** power
    left = shaped((epsilon**power - size**power).clamp_min(0), held) / channels
    # In L1 the package gives a channel the budget of all of them and projects afterwards.
    wanted = (left + stock).sqrt() if norm == "l2" else channels * (left + stock)
    turned = window.bumps[(numbers[:, 4] > 0.5).long()].unsqueeze(1)
    profile = turned * signs(numbers[:, 5:], held) + held / (TINY + held_length)
    spent = wanted / (TINY + channel_lengths(profile, norm))
    gained = profile * spent
    stretch, far = torch.ones_like(size), torch.arange(len(size), device=size.device)
    if norm == "l2":
        grown = (channel_lengths(gained, norm) ** 2 - stock).flatten(1).sum(1)
        stretch = epsilon / ((size**2 + grown).clamp_min(0).sqrt() + TINY)
        far = (stretch >= 1 + CANCELLED).nonzero().squeeze(1)
    gained = gained.flatten(1)
    best.scatter_(1, loses, clean[1]).scatter_(1, gains, (clean[0] + gained).clamp_(0, 1))
    if len(far):
        x = state.x[row[far]]
        delta = (best[far] - x).scatter_(1, gains[far], gained[far])
        best[far] = _to_ball(x, delta, problem.threat)
        stretch[far] = 1
    return stretch


def _to_ball(x: Tensor, delta: Tensor, threat: Threat) -> Tensor:
    """Return x + delta in the ball and the box: in L2 scaled to epsilon, in L1 projected."""
    if threat.norm == "l1":
        inner = Threat("l1", INSIDE_L1 * threat.epsilon)
        return (x + project(x, delta, inner)).clamp(0, 1)
    size = shaped(length(delta, "l2"), delta)
    return (x + delta * (threat.epsilon / (size + TINY))).clamp(0, 1)


def _rescale(state: _State, threat: Threat, changed: Tensor, stretch: Tensor) -> None:
    """Bring new best candidates into the ball to the last digit, and record their lengths."""
    delta = state.best[changed] - state.x[changed]
    size = length(delta, threat.norm)
    if threat.norm == "l2":
        # The package scales the whole image, with a tiny number added to its length. What that
        # leaves of the budget is all that a bump on an empty window can have.
        delta, size = delta * shaped(stretch, delta), size * stretch
        state.best[changed] = (state.x[changed] + delta).clamp(0, 1)
    state.size[changed] = size


class Window(NamedTuple):
    """What all windows of one side have in common."""

    side: int
    offsets: Tensor
    """int64 of shape (C * side * side,): from the window's first pixel to each of its values, in
    an image of C * H * W values."""
    bumps: Tensor
    """A bump upright and lying, of shape (2, side * side); empty for linf."""


def window_side(query: int, shape: Sequence[int], norm: str) -> int:
    """Return the side of the window of a query, from 0, in pixels of an image (C, H, W).

    In L2 and L1 sides are odd and from 3 up, unless the image is smaller.
    """
    channels, height, width = shape
    share = FIRST_SHARE / 2 ** bisect_left(HALVED_AFTER, query)
    # In the package's order of rounding, because the root can lie halfway between two sides.
    side = round(math.sqrt(share * (channels * height * width) / channels))
    if norm != "linf":
        side = max(side, 3) | 1
    return min(max(side, 1), height, width)


def make_window(side: int, shape: Sequence[int], norm: str, like: Tensor) -> Window:
    """Return what windows of one side have in common, on the device and in the dtype of `like`."""
    channels, height, width = shape
    channel = torch.arange(channels).view(-1, 1, 1) * height * width
    offsets = channel + torch.arange(side).view(-1, 1) * width + torch.arange(side)
    bumps = torch.empty(0)
    if norm != "linf":
        upright = bump(side, norm)
        bumps = torch.stack([upright, upright.T]).flatten(1).to(like)
    return Window(side, offsets.flatten().to(like.device), bumps)


def bump(side: int, norm: str) -> Tensor:
    """Return a hill above a hollow, float64 of shape (side, side) and length 1 in `norm`.

    Each half sums concentric rectangles (section 3.3, figure 3), so that its height depends on the
    Chebyshev distance from its middle only. The AutoAttack package has the same halves in L1, with
    a steeper fall.
    """
    upper = side // 2
    both = torch.cat([_hill(upper, side, norm), -_hill(side - upper, side, norm)])
    unit: Tensor = both / torch.linalg.vector_norm(both, ORDERS[norm])
    return unit


def _hill(height: int, width: int, norm: str) -> Tensor:
    """Return the upper half of a bump, of length 1."""
    levels = torch.arange(1, max(height, width) // 2 + 2, dtype=torch.float64) ** -DECAY[norm]
    heights = levels.flip(0).cumsum(0).flip(0)
    row = (torch.arange(height) - height // 2).abs()
    column = (torch.arange(width) - width // 2).abs()
    hill = heights[torch.maximum(row[:, None], column[None])]
    unit: Tensor = hill / torch.linalg.vector_norm(hill, ORDERS[norm])
    return unit


def start_numbers(shape: Sequence[int], norm: str) -> int:
    """Return how many random numbers the start of an image takes."""
    channels, height, width = shape
    if norm == "linf":
        return channels * width
    side = max(height // TILES, 1)
    return (height // side) * (width // side) * (1 + channels)


def query_numbers(shape: Sequence[int], norm: str) -> int:
    """Return how many random numbers a query takes: positions, turn, a sign per channel."""
    return shape[0] + (2 if norm == "linf" else 5)


def signs(numbers: Tensor, like: Tensor) -> Tensor:
    """Return 1 for numbers above one half and -1 for others, with one dimension more."""
    return (2 * (numbers > 0.5).to(like) - 1).unsqueeze(-1)


def corners(numbers: Tensor, shape: Sequence[int], side: int) -> tuple[Tensor, Tensor]:
    """Return the rows and the columns of windows, int64 of shape (M,), from numbers (M, 2).

    The last position of either is not taken unless it is the only one, as in the package.
    """
    row, column = ((numbers[:, i] * (shape[1 + i] - side)).long() for i in range(2))
    return row, column


def window_pixels(window: Window, shape: Sequence[int], numbers: Tensor) -> Tensor:
    """Return the values that windows cover, int64 of shape (M, C * side * side), as `corners`."""
    row, column = corners(numbers, shape, window.side)
    return (row * shape[2] + column)[:, None] + window.offsets


def covered(window: Window, shape: Sequence[int], first: Tensor, second: Tensor) -> Tensor:
    """Return where second windows lie on first ones, bool of shape (M, 1, side * side).

    `first` and `second` are the numbers of their corners.
    """
    steps = torch.arange(window.side, device=first.device)
    ends = (corners(numbers, shape, window.side) for numbers in (first, second))
    apart = ((b - a)[:, None] + steps for a, b in zip(*ends, strict=True))
    rows, columns = ((line >= 0) & (line < window.side) for line in apart)
    on_both: Tensor = rows[:, :, None] & columns[:, None]
    return on_both.flatten(1)[:, None]


def channel_lengths(values: Tensor, norm: str) -> Tensor:
    """Return the length of each channel's window, (M, C, 1), from values (M, C, side * side)."""
    lengths: Tensor = torch.linalg.vector_norm(values, ORDERS[norm], dim=2, keepdim=True)
    return lengths


def stripes(numbers: Tensor, shape: Sequence[int], like: Tensor) -> Tensor:
    """Return random signs, one for each column of each channel, of shape (M, C * H * W)."""
    channels, height, width = shape
    columns = signs(numbers, like).view(-1, channels, 1, width)
    return columns.expand(-1, -1, height, -1).flatten(1)


def tiles(numbers: Tensor, shape: Sequence[int], norm: str, like: Tensor) -> Tensor:
    """Return bumps side by side, turned at random, with random signs, of shape (M, C * H * W).

    Tiles are a fifth of the height and cut where the image ends; the package cannot do without
    whole ones, nor with fewer than five rows.
    """
    channels, height, width = shape
    side = max(height // TILES, 1)
    edge = max((height - TILES * side) // 2, 0)
    bumps = make_window(side, shape, norm, like).bumps.view(2, 1, side, side)
    delta = like.new_zeros(len(numbers), *shape)
    numbers = numbers.view(len(numbers), height // side, width // side, 1 + channels)
    for i in range(numbers.shape[1]):
        for j in range(numbers.shape[2]):
            turn, sign = (numbers[:, i, j, 0] > 0.5).long(), signs(numbers[:, i, j, 1:], like)
            top, left = edge + i * side, edge + j * side
            part = delta[:, :, top : top + side, left : left + side]
            part += (bumps[turn] * sign.unsqueeze(-1))[:, :, : part.shape[2], : part.shape[3]]
    return delta.flatten(1)
