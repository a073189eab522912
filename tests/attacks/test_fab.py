"""FAB: what it may touch, what it costs, and models that are no good."""

import pytest
import torch
from attack_cases import TOLERANCE, distance, images, is_broken, rugged_net, small_net, state_of
from fab_cases import (
    CLASSES,
    for_all_norms,
    for_targets,
    grey_images,
    labels_of,
    linear_net,
    run,
)
from torch import Tensor, nn

from arnas.attacks.eval_mode import frozen_eval
from arnas.attacks.fab import fab, fab_batch
from arnas.attacks.oracle import AttackOutput, Oracle
from arnas.attacks.threat import Threat

BUDGETS = {"linf": 0.0022, "l2": 0.0095, "l1": 0.023}
"""At which about half of the images of `rugged_net` fall."""


# What must not matter


@for_all_norms
@for_targets
def test_neither_order_nor_batches_matter(norm: str, targeted: bool) -> None:
    net, x = rugged_net(), images(24, torch.float64)
    labels = labels_of(net, x, targeted)
    threat = Threat(norm, BUDGETS[norm])
    found, oracle = run(net, x, labels, threat, steps=15)
    assert 5 <= found.broken.sum() <= 19, found.broken.sum()
    order = torch.randperm(24, generator=torch.Generator().manual_seed(0))
    variants = {
        "order": run(net, x[order], labels[order], threat, steps=15),
        "batch_size": run(net, x, labels, threat, batch_size=5, steps=15),
    }
    parts = [
        run(net, x[part], labels[part], threat, steps=15) for part in torch.arange(24).split(7)
    ]
    joined = AttackOutput(
        *(torch.cat(values) for values in zip(*(f for f, _ in parts), strict=True))
    )
    for name, (other, _) in {**variants, "parts": (joined, None)}.items():
        here = order if name == "order" else torch.arange(24)
        assert torch.equal(other.broken, found.broken[here]), name
        assert torch.allclose(other.x_adv, found.x_adv[here], rtol=0, atol=1e-9), name
    for other in (*(o for _, o in variants.values()),):
        assert (other.forwards, other.backwards) == (oracle.forwards, oracle.backwards)
    assert sum(o.forwards for _, o in parts) == oracle.forwards


@for_all_norms
@for_targets
def test_the_model_is_left_alone(norm: str, targeted: bool) -> None:
    net, x = small_net().train(), images(6)
    net[3][0].eval()
    y = labels_of(net, x, False)
    before, given = state_of(net), x.clone()
    target = (y + 1) % 3 if targeted else None
    x_adv = fab(net, x, y, Threat(norm, 0.3), steps=5, targets=target, restarts=2)
    assert state_of(net) == before
    assert torch.equal(x, given)
    assert not x_adv.requires_grad


@for_all_norms
@for_targets
def test_ball_and_box_hold_and_what_stands_comes_back(norm: str, targeted: bool) -> None:
    net, x = rugged_net().float(), images(60)
    labels = labels_of(net, x, targeted)
    y = labels[:, 0] if targeted else labels
    threat = Threat(norm, BUDGETS[norm])
    x_adv = fab(net, x, y, threat, steps=10, targets=labels[:, 1] if targeted else None, restarts=2)
    assert x_adv.dtype == x.dtype
    assert x_adv.shape == x.shape
    broken = is_broken(net, x_adv, y)
    assert 10 <= broken.sum() <= 55
    assert torch.equal(x_adv[~broken], x[~broken])
    assert distance(x_adv, x, norm).max() <= threat.epsilon + TOLERANCE
    assert x_adv.min() >= -TOLERANCE
    assert x_adv.max() <= 1 + TOLERANCE


@for_all_norms
def test_epsilon_zero_changes_nothing(norm: str) -> None:
    net, x = small_net(), images()
    y = torch.arange(6) % 3
    x_adv = fab(net, x, y, Threat(norm, 0))
    assert torch.equal(x_adv, x)
    assert x_adv.data_ptr() != x.data_ptr()
    found, _ = run(net, x, y, Threat(norm, 0), steps=3)
    assert torch.equal(found.broken, is_broken(net.eval(), x, y))
    assert torch.equal(found.x_adv, x)


@for_targets
def test_what_is_wrong_already_comes_back_after_one_look(targeted: bool) -> None:
    net, x = rugged_net(), images(12, torch.float64)
    labels = labels_of(net, x, targeted)
    labels = labels.flip(1) if targeted else (labels + 1) % 10
    found, oracle = run(net, x, labels, Threat("linf", 0.1))
    assert found.broken.all()
    assert torch.equal(found.x_adv, x)
    assert oracle.forwards == 12


# Restarts


class Plateau(nn.Module):
    """Flat around grey; the other class is likelier where the mean is larger by 0.02."""

    def forward(self, x: Tensor) -> Tensor:
        rise = (x.flatten(1).mean(1) - 0.5).abs()
        return torch.stack([torch.zeros_like(rise), 50 * (rise - 0.01).relu() - 0.5], 1)


@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 0.04), ("l2", 0.1), ("l1", 0.2)])
def test_restarts_find_what_the_image_itself_does_not_show(norm: str, epsilon: float) -> None:
    """At the image there is no gradient, but there is at some of the random starts."""
    net, x = Plateau(), torch.full((40, 1, 2, 2), 0.5, dtype=torch.float64)
    y, threat = torch.zeros(40, dtype=torch.int64), Threat(norm, epsilon)

    def attack(restarts: int, seed: int | None = None) -> Tensor:
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        return fab(net, x, y, threat, steps=10, restarts=restarts, generator=generator)

    assert torch.equal(attack(1), x)
    few, many = attack(2), attack(4)
    fallen, later = is_broken(net, few, y), is_broken(net, many, y)
    assert 5 <= fallen.sum() < later.sum()
    assert torch.equal(many[fallen], few[fallen]), "later restarts attack what still stands"
    assert torch.equal(attack(2), few), "without a generator the seed is fixed"
    assert torch.equal(attack(2, seed=1), attack(2, seed=1))
    assert not torch.equal(attack(2, seed=1), attack(2, seed=2))


# What it costs


class Masked(nn.Module):
    """The second of two classes never wins, whatever the gradient promises."""

    def __init__(self, floor: float) -> None:
        super().__init__()
        self.floor = floor

    def forward(self, x: Tensor) -> Tensor:
        rise = x.flatten(1).mean(1)
        second = rise - rise.detach() + self.floor
        return torch.stack([torch.zeros_like(rise), second], 1)


def test_a_point_that_is_not_sent_back_is_looked_at_once() -> None:
    """The first step learns it; the last one needs no gradient."""
    x, threat = grey_images(3), Threat("linf", 1.0)
    labels = torch.tensor([[0, 1]] * 3)
    found, oracle = run(Masked(-0.01), x, labels, threat, steps=20)
    assert not found.broken.any()
    assert (oracle.forwards, oracle.backwards) == (3 * 22, 3 * 20)


@for_targets
def test_a_point_that_is_sent_back_is_looked_at_and_left_without_a_gradient(targeted: bool) -> None:
    """On a linear model every point crosses the boundary."""
    net, x = linear_net(), grey_images(8)
    labels = labels_of(net, x, targeted)
    found, oracle = run(net, x, labels, Threat("l2", 1e-9), steps=20)
    assert not found.broken.any()
    gradients = 1 if targeted else CLASSES - 1
    assert (oracle.forwards, oracle.backwards) == (8 * 40, 8 * 20 * gradients)


@for_targets
def test_a_model_without_random_numbers_has_one_answer_to_several_passes(targeted: bool) -> None:
    net, x = rugged_net(), images(12, torch.float64)
    labels, threat = labels_of(net, x, targeted), Threat("l2", BUDGETS["l2"])
    found, oracle = run(net, x, labels, threat, steps=5)
    with frozen_eval(net):
        thrice = Oracle(net, 64, expectation=3)
        other = fab_batch(thrice, x, labels, threat, steps=5)
    assert torch.equal(found.broken, other.broken)
    assert torch.allclose(found.x_adv, other.x_adv, rtol=0, atol=1e-12)
    assert thrice.backwards == 3 * oracle.backwards


# Models that are no good


class Constant(nn.Module):
    """Knows its answer beforehand; `attached` to the image or not."""

    def __init__(self, classes: int, attached: bool) -> None:
        super().__init__()
        self.classes = classes
        self.attached = attached

    def forward(self, x: Tensor) -> Tensor:
        logits = torch.arange(self.classes, 0, -1).to(x).expand(len(x), -1)
        return logits + 0 * x.flatten(1).sum(1, keepdim=True) if self.attached else logits


@for_all_norms
@for_targets
@pytest.mark.parametrize("attached", [False, True])
@pytest.mark.parametrize("classes", [2, 3])
def test_a_constant_model_gives_the_images_back(
    classes: int, attached: bool, targeted: bool, norm: str
) -> None:
    x, y = images(), torch.zeros(6, dtype=torch.int64)
    target = y + 1 if targeted else None
    x_adv = fab(Constant(classes, attached), x, y, Threat(norm, 0.5), targets=target, restarts=2)
    assert torch.equal(x_adv, x)
    labels = torch.stack([y, y + 1], 1) if targeted else y
    _, oracle = run(Constant(classes, attached), x, labels, Threat(norm, 0.5))
    assert oracle.forwards == 6, "where nothing moves, nothing will"


@for_all_norms
def test_one_class_is_nothing_to_attack(norm: str) -> None:
    x, y = images(), torch.zeros(6, dtype=torch.int64)
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 1))
    assert torch.equal(fab(net, x, y, Threat(norm, 0.5), restarts=2), x)


class Holes(nn.Module):
    """Linear logits of which one, or its gradient, is no number where a pixel is large."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.net = linear_net(3)

    def forward(self, x: Tensor) -> Tensor:
        logits = self.net(x)
        beyond = (x.flatten(1)[:, 0] > 0.55).to(x)
        if self.kind == "logits":
            hole = torch.zeros_like(beyond).masked_fill(beyond > 0, torch.nan)
        elif self.kind == "infinite":
            hole = torch.zeros_like(beyond).masked_fill(beyond > 0, -torch.inf)
        else:  # the root's slope at zero times zero
            hole = (0 * x.flatten(1)[:, 0]).sqrt()
        return logits + torch.stack([torch.zeros_like(hole), hole, 0 * hole], 1).nan_to_num(
            torch.nan
        )


@for_all_norms
@for_targets
@pytest.mark.parametrize("kind", ["logits", "infinite", "gradient"])
def test_no_number_spreads_into_images(kind: str, targeted: bool, norm: str) -> None:
    """A logit that is none counts as misclassified, within the budget only."""
    net, x = Holes(kind), grey_images(30)
    with torch.no_grad():
        y = net.net(x).argmax(1)
    target = (y + 1) % 3 if targeted else None
    for epsilon in (0.02, 0.5):
        threat = Threat(norm, epsilon)
        x_adv = fab(net, x, y, threat, steps=20, targets=target, restarts=2)
        assert x_adv.isfinite().all()
        assert distance(x_adv, x, norm).max() <= epsilon + TOLERANCE
        changed = (x_adv != x).flatten(1).any(1)
        with torch.no_grad():
            logits = net(x_adv)
        wrong = (logits.argmax(1) != y) | logits.isnan().any(1)
        assert wrong[changed].all()


class Cliff(nn.Module):
    """Of two classes; beyond 0.55 its logits are no numbers, and so are its gradients."""

    def forward(self, x: Tensor) -> Tensor:
        rise = x.flatten(1).mean(1)
        hole = torch.zeros_like(rise).masked_fill(rise > 0.55, torch.nan)
        return torch.stack([0 * rise, rise - 0.9 + hole], 1)


@for_targets
def test_a_walk_comes_back_from_where_there_are_no_numbers(targeted: bool) -> None:
    """It is sent back again and again, until it has come near enough to count."""
    x, y = torch.full((1, 1, 1, 1), 0.5, dtype=torch.float64), torch.zeros(1, dtype=torch.int64)
    labels = torch.stack([y, y + 1], 1) if targeted else y
    found, _ = run(Cliff(), x, labels, Threat("linf", 0.06), steps=40)
    assert found.broken.all()
    assert 0.55 < found.x_adv.item() <= 0.56
