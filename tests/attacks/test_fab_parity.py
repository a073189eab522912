"""FAB visits the points that the reference package visits, until an image is broken."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest
import torch
from attack_cases import images, rugged_net
from pyautoattack.fab_pt import FABAttack_PT
from torch import Tensor, nn

from arnas.attacks.eval_mode import frozen_eval
from arnas.attacks.fab import fab_batch, fab_from, random_start
from arnas.attacks.oracle import Oracle
from arnas.attacks.threat import Threat

PACKAGE_NORMS = {"linf": "Linf", "l2": "L2", "l1": "L1"}
MIDDLING = {
    None: {"linf": 0.0045, "l2": 0.018, "l1": 0.045},
    3: {"linf": 0.0075, "l2": 0.034, "l1": 0.1},
}
"""Budgets at which some of the images fall, after a few steps, and others do not."""
TINY = 1e-5
for_all_norms = pytest.mark.parametrize("norm", PACKAGE_NORMS)


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the package compute in double precision."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class Watched(nn.Module):
    """A network that notes the image of each pass."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.seen: list[Tensor] = []
        self.passes = 0

    def forward(self, x: Tensor) -> Tensor:
        # A second pass at the same point is what the package does for the gradient.
        if not (self.seen and torch.equal(x, self.seen[-1])):
            self.seen.append(x.detach().clone())
        self.passes += 1
        return self.net(x)


def smooth_net() -> nn.Sequential:
    """Return a convolutional network of five classes in double precision."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(64, 16), nn.Tanh()
        )
        net.append(nn.Linear(16, 5)).double()
    for value in net.parameters():
        value.data.mul_(3)
    return net


NETS: dict[str, Callable[[], nn.Module]] = {"smooth": smooth_net, "rugged": rugged_net}


class Case(NamedTuple):
    """One image under attack."""

    net: nn.Module
    x: Tensor
    y: Tensor
    labels: Tensor
    """As `fab_batch` takes them."""
    likely: int | None
    """Which of the sorted classes from the last is the target, as the package counts them."""
    noise: Tensor | None


def case(net: nn.Module, norm: str, place: int, likely: int | None, random: bool) -> Case:
    x = images(8, torch.float64)[place : place + 1]
    logits = net(x)
    y = logits.argmax(1)
    target = logits.sort(dim=1).indices[:, -likely] if likely else None
    labels = y if target is None else torch.stack([y, target], 1)
    draw = torch.rand if norm == "linf" else torch.randn
    noise = draw(x.shape, generator=torch.Generator().manual_seed(place), dtype=torch.float64)
    return Case(net, x, y, labels, likely, noise if random else None)


def theirs(
    this: Case, threat: Threat, steps: int, monkeypatch: pytest.MonkeyPatch
) -> tuple[Watched, Tensor]:
    """Return the package's passes after its looks at the clean image, and its example."""
    watched = Watched(this.net)
    package = FABAttack_PT(
        watched,
        norm=PACKAGE_NORMS[threat.norm],
        n_iter=steps,
        eps=threat.epsilon,
        targeted=this.likely is not None,
    )
    package.target_class = this.likely
    with monkeypatch.context() as patch:
        for draw in ("rand", "randn"):
            patch.setattr(torch, draw, lambda *_, **__: this.noise.clone())
        found = package.attack_single_run(
            this.x, this.y, use_rand_start=this.noise is not None, is_targeted=bool(this.likely)
        )
    if this.noise is not None:
        watched.seen = watched.seen[1:]
    return watched, found


def check(
    this: Case, threat: Threat, monkeypatch: pytest.MonkeyPatch, steps: int
) -> tuple[bool, Oracle]:
    """Attack one image on both sides, compare, and return whether it fell and what it cost."""
    watched = Watched(this.net)
    oracle = Oracle(watched, 8)
    with frozen_eval(this.net):
        start = this.x if this.noise is None else random_start(this.x, this.noise, threat)
        found = fab_from(oracle, this.x, this.labels, start, threat, steps)
        reference, example = theirs(this, threat, steps, monkeypatch)
        best = torch.linalg.vector_norm(
            (example - this.x).flatten(), {"linf": torch.inf, "l2": 2, "l1": 1}[threat.norm]
        )
        wrong = bool(this.net(example).argmax(1) != this.y)
    broken = bool(found.broken)
    assert broken >= (wrong and bool(best <= threat.epsilon))
    if not broken:
        assert len(watched.seen) == len(reference.seen)
        assert torch.equal(found.x_adv, this.x)
    else:
        assert len(watched.seen) <= len(reference.seen)
        assert torch.equal(found.x_adv, watched.seen[-1])
    apart = [(a - b).abs().max() for a, b in zip(watched.seen, reference.seen, strict=False)]
    assert max(apart) < 1e-8
    return broken, oracle


@for_all_norms
@pytest.mark.parametrize("likely", [None, 2, 4])
@pytest.mark.parametrize("random", [False, True])
@pytest.mark.parametrize("net", NETS)
def test_walks_pass_the_same_points(
    net: str,
    random: bool,
    likely: int | None,
    norm: str,
    double: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No point is within so small a budget."""
    place = 3 if net == "smooth" else 1
    steps = 100 if net == "smooth" and likely else 30
    this = case(NETS[net](), norm, place, likely, random)
    broken, _ = check(this, Threat(norm, TINY), monkeypatch, steps)
    assert not broken


@for_all_norms
@pytest.mark.parametrize("likely", MIDDLING)
@pytest.mark.parametrize("random", [False, True])
def test_images_fall_at_the_first_point_that_is_near_enough(
    random: bool, likely: int | None, norm: str, double: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    threat, fallen = Threat(norm, MIDDLING[likely][norm]), []
    for place in range(6):
        this = case(rugged_net(), norm, place, likely, random)
        broken, _ = check(this, threat, monkeypatch, 10)
        fallen.append(broken)
    assert 2 <= sum(fallen) <= 5


@for_all_norms
@pytest.mark.parametrize("likely", [None, 2, 4])
def test_a_walk_never_costs_much_more_passes_than_the_package(
    likely: int | None, norm: str, double: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of its own it looks at each point once, however the verdicts fall."""
    classes, steps = 5, 20
    for place in range(3):
        this = case(smooth_net(), norm, place, likely, False)
        _, oracle = check(this, Threat(norm, TINY), monkeypatch, steps)
        if likely is None:
            assert (oracle.forwards, oracle.backwards) == (2 * steps, (classes - 1) * steps)
        else:
            assert oracle.forwards <= 2 * steps
            assert steps <= oracle.backwards <= 1.2 * steps
            assert oracle.forwards + oracle.backwards <= 3 * steps + 2


def test_where_the_verdicts_alternate_looks_are_saved() -> None:
    """In L1 points are sent back in patterns; looking first always would cost 3 passes a step.

    Untargeted walks always look first, because their gradients cost more than what could be saved.
    """
    net, x, steps = smooth_net(), images(12, torch.float64), 40
    order = net(x).sort(dim=1).indices
    with frozen_eval(net):
        for labels in (order[:, [-1, -4]], order[:, -1]):
            oracle = Oracle(net, 12)
            assert not fab_batch(oracle, x, labels, Threat("l1", TINY), steps=steps).broken.any()
            walked = steps * len(x)
            if labels.ndim > 1:
                assert oracle.forwards + oracle.backwards < 0.97 * 3 * walked
            else:
                assert (oracle.forwards, oracle.backwards) == (2 * walked, 4 * walked)


@for_all_norms
@pytest.mark.parametrize("likely", [None, 2])
def test_where_there_is_no_gradient_walks_return_to_the_image(
    likely: int | None, norm: str, double: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 3)).double()
    net[1].weight.data.zero_()
    this = case(net, norm, 0, likely, True)
    assert not check(this, Threat(norm, 0.3), monkeypatch, 20)[0]
