"""APGD visits the points that its authors' code visits, in float64, until an image is broken."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest
import torch
from attack_cases import fixed, rugged_net
from torch import Tensor, nn

from arnas.attacks.apgd import CHANGED, apgd, apgd_batch
from arnas.attacks.objectives import Objective, cross_entropy, dlr, targeted_dlr
from arnas.attacks.oracle import Oracle, misclassified
from arnas.attacks.threat import Threat

base = pytest.importorskip("pyautoattack.autopgd_base")

NAMES = {"linf": "Linf", "l2": "L2", "l1": "L1"}
EPSILONS = {"linf": 0.05, "l2": 0.3, "l1": 0.8}
COUNT, SIDE, CLASSES = 24, 6, 6


class Recording(nn.Module):
    """A small network that remembers what it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x.detach().clone())
        return self.logits(x)

    def logits(self, x: Tensor) -> Tensor:
        raise NotImplementedError


class Rows(Recording):
    """A layer of leaky waves; sums row by row, so that a batch's size does not change a bit."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64)

        self.first = 1.5 * normal(24, SIDE**2) / SIDE
        self.shift = 0.3 * normal(24)
        self.second = 1.5 * normal(CLASSES, 24) / math.sqrt(24)

    def logits(self, x: Tensor) -> Tensor:
        hidden = ((x.flatten(1)[:, None] - 0.5) * self.first).sum(2) + self.shift
        hidden = torch.where(hidden > 0, hidden, 0.1 * hidden) + 0.3 * torch.sin(2 * hidden)
        return (hidden[:, None] * self.second).sum(2)


class Plateaus(Rows):
    """The same with logits rounded, through which gradients pass as if they were not."""

    def logits(self, x: Tensor) -> Tensor:
        smooth = super().logits(x)
        return smooth + ((20 * smooth).round() / 20 - smooth).detach()


class Convolutions(Recording):
    """Two layers of convolutions with kinks."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.layers = nn.Sequential(
                nn.Conv2d(1, 8, 3, padding=1),
                nn.ReLU(),
                nn.Conv2d(8, 8, 3, stride=2, padding=1),
                nn.ReLU(),
                nn.Flatten(),
                nn.Linear(72, CLASSES),
            ).double()
        for parameter in self.parameters():
            parameter.requires_grad_(False).mul_(2)

    def logits(self, x: Tensor) -> Tensor:
        found: Tensor = self.layers(x)
        return found


class Rugged(Recording):
    """A network whose objective rises and falls many times within a ball."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.layers = rugged_net()

    def logits(self, x: Tensor) -> Tensor:
        found: Tensor = self.layers(x)
        return found


class Case(NamedTuple):
    """Images that a network classifies correctly; many of their pixels lie on faces of the box."""

    model: Recording
    x: Tensor
    y: Tensor
    threat: Threat
    noises: list[Tensor]


def make_case(kind: type[Recording], norm: str, seed: int, starts: int = 1) -> Case:
    generator = torch.Generator().manual_seed(100 + seed)
    model = kind(seed)
    unit = torch.rand(COUNT, 1, SIDE, SIDE, generator=generator, dtype=torch.float64)
    x = (1.5 * unit - 0.25).clamp(0, 1)
    draw = torch.rand if norm == "linf" else torch.randn
    noises = [draw(x.shape, generator=generator, dtype=torch.float64) for _ in range(starts)]
    return Case(model, x, model.logits(x).argmax(1), Threat(norm, EPSILONS[norm]), noises)


@contextmanager
def in_double(attack: Any, draws: list[Tensor]) -> Iterator[None]:
    """Let the package compute in float64 and hand it our draws, in their order.

    Its count of moved pixels takes in what rounding left of pixels that it has put back: which
    they are is chance, and another order of the same additions gives others. Here they are left
    out, as in our count.
    """
    waiting = iter(draws)

    def draw(*args: object, **options: object) -> Tensor:
        return next(waiting).clone()

    def moved(delta: Tensor) -> Tensor:
        return (delta.abs() > CHANGED * attack.eps).flatten(1).sum(1)

    default = torch.get_default_dtype()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("rand", "randn", "randn_like"):
            patch.setattr(torch, name, draw)
        patch.setattr(torch.Tensor, "float", torch.Tensor.double)
        patch.setattr(base, "L0_norm", moved)
        torch.set_default_dtype(torch.float64)
        try:
            yield
        finally:
            torch.set_default_dtype(default)


def their_walk(case: Case, loss: str, steps: int, larger: bool) -> tuple[list[Tensor], Tensor]:
    """Return the points that the package visits with all images, and whom it breaks."""
    options = {"n_iter": steps, "eps": case.threat.epsilon, "use_largereps": larger}
    options["norm"] = NAMES[case.threat.norm]
    if loss == "dlr-targeted":
        attack = base.APGDAttack_targeted(case.model, n_target_classes=1, **options)
    else:
        attack = base.APGDAttack(case.model, loss=loss, **options)
    case.model.seen.clear()
    # The schedule of larger balls draws numbers for starts that it then overrides.
    with in_double(attack, 4 * case.noises):
        x_adv = attack.perturb(case.x, case.y)
    looks = 2 if loss == "dlr-targeted" else 1
    return case.model.seen[looks:], misclassified(case.model.logits(x_adv), case.y)


def our_aim(case: Case, loss: str) -> tuple[Tensor, Objective]:
    if loss == "dlr-targeted":
        second = case.model.logits(case.x).sort(dim=1).indices[:, -2]
        return torch.stack([case.y, second], 1), targeted_dlr
    return case.y, {"ce": cross_entropy, "dlr": dlr}[loss]


def compare(case: Case, loss: str, steps: int = 100, larger: bool = False) -> int:
    """Compare every point of both walks; return how many images were broken."""
    theirs, their_broken = their_walk(case, loss, steps, larger)
    labels, objective = our_aim(case, loss)
    case.model.seen = []
    found = apgd_batch(
        Oracle(case.model, 1000),
        case.x,
        labels,
        case.threat,
        fixed(case.noises[0]),
        steps=steps,
        objective=objective,
        larger_first=larger,
    )
    ours = case.model.seen
    robust = torch.ones(COUNT, dtype=torch.bool)
    # In the larger balls nobody can be broken.
    outside = 2 * (math.ceil(0.3 * steps) + 1) if larger else 0
    for place, (point, their_point) in enumerate(itertools.zip_longest(ours, theirs)):
        if not robust.any():
            assert point is None
            break
        torch.testing.assert_close(point, their_point[robust], rtol=0, atol=1e-9)
        if place >= outside:
            robust = robust & ~misclassified(case.model.logits(their_point), case.y)
    assert torch.equal(found.broken, ~robust)
    assert torch.equal(found.broken, their_broken)
    assert torch.equal(misclassified(case.model.logits(found.x_adv), case.y), found.broken), (
        "the point returned is the one that was looked at"
    )
    return int(found.broken.sum())


WAYS = [("linf", False), ("l2", False), ("l1", False), ("l1", True)]
in_every_norm = pytest.mark.parametrize(("norm", "larger"), WAYS)


@in_every_norm
@pytest.mark.parametrize("loss", ["ce", "dlr", "dlr-targeted"])
def test_a_hundred_moves_are_theirs(norm: str, larger: bool, loss: str) -> None:
    assert 0 < compare(make_case(Rows, norm, 0), loss, larger=larger) < COUNT


@in_every_norm
def test_convolutions_are_climbed_alike(norm: str, larger: bool) -> None:
    assert 0 < compare(make_case(Convolutions, norm, 0), "ce", larger=larger) < COUNT


@in_every_norm
def test_equal_objectives_are_no_progress(norm: str, larger: bool) -> None:
    """Among iterates as high as one another the first is the best."""
    compare(make_case(Plateaus, norm, 0), "ce", steps=40, larger=larger)


@in_every_norm
@pytest.mark.parametrize(("steps", "loss"), [(3, "ce"), (20, "ce"), (20, "dlr"), (47, "ce")])
def test_other_budgets_have_the_same_checkpoints(
    norm: str, larger: bool, steps: int, loss: str
) -> None:
    """Periods of 4 and 8 moves, of which three quarters are a whole number, among them."""
    compare(make_case(Rows, norm, 4), loss, steps=steps, larger=larger)


@pytest.mark.long
@in_every_norm
@pytest.mark.parametrize("kind", [Rows, Convolutions])
def test_many_walks_are_theirs(kind: type[Recording], norm: str, larger: bool) -> None:
    for loss, seed in itertools.product(("ce", "dlr", "dlr-targeted"), range(8)):
        compare(make_case(kind, norm, seed), loss, larger=larger)


def test_restarts_are_theirs() -> None:
    """Another start, with draws of its own, for those that stand after the one before."""
    case = make_case(Rugged, "linf", 0)
    threat, steps, starts = Threat("linf", 0.01), 2, 3
    generator = torch.Generator().manual_seed(7)
    x_adv = apgd(
        case.model, case.x, case.y, threat, steps=steps, restarts=starts, generator=generator
    )
    generator.manual_seed(7)
    robust, draws = torch.arange(COUNT), []
    for _ in range(starts):
        noise = torch.rand(case.x.shape, generator=generator).double()[robust]
        draws.append(noise)
        images, labels = case.x[robust], case.y[robust]
        part = apgd_batch(
            Oracle(case.model, 1000), images, labels, threat, fixed(noise), steps=steps
        )
        assert part.broken.any(), "a start that adds nothing shows nothing"
        robust = robust[~part.broken]
    attack = base.APGDAttack(case.model, n_iter=steps, n_restarts=starts, norm="Linf", eps=0.01)
    with in_double(attack, draws):
        their_x_adv = attack.perturb(case.x, case.y)
    ours, theirs = (
        misclassified(case.model.logits(points), case.y) for points in (x_adv, their_x_adv)
    )
    assert torch.equal(ours, theirs)
    assert (~ours).nonzero().squeeze(1).tolist() == robust.tolist()


def test_the_ratios_are_theirs() -> None:
    """Values and gradients of the difference of logits ratios, ties and large scales included."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(200, CLASSES, generator=generator, dtype=torch.float64)
    logits[50:100] = logits[50:100].round()
    logits[100:] *= 1e4
    y = torch.randint(CLASSES, (200,), generator=generator)
    target = (y + torch.randint(1, CLASSES, (200,), generator=generator)) % CLASSES
    attack = base.APGDAttack_targeted(None, norm="Linf", eps=0.1)
    attack.y_target = target
    pairs = torch.stack([y, target], 1)
    with in_double(attack, []):
        for ours, theirs, labels in (
            (dlr, attack.dlr_loss, y),
            (targeted_dlr, attack.dlr_loss_targeted, pairs),
        ):
            mine, other = (logits.clone().requires_grad_() for _ in range(2))
            value, reference = ours(mine, labels), theirs(other, y)
            torch.testing.assert_close(value, reference, rtol=1e-12, atol=0)
            value.sum().backward()
            reference.sum().backward()
            torch.testing.assert_close(mine.grad, other.grad, rtol=1e-12, atol=0)
