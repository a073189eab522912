"""PGD with targets, restarts and momentum, in every norm; CW; the contract of each with each."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise

import pytest
import torch
from attack_cases import (
    TOLERANCE,
    images,
    is_broken,
    labels,
    plain_pgd,
    rugged_net,
    small_net,
    state_of,
)
from torch import Tensor
from torch.nn import functional as F

from arnas.attacks.objectives import (
    cross_entropy,
    margin,
)
from arnas.attacks.pgd import cw, fgsm, pgd
from arnas.attacks.projection import length, random_perturbation
from arnas.attacks.threat import Threat
from arnas.runtime.errors import UserError

Attack = Callable[..., Tensor]
NORMS = ("linf", "l2", "l1")
EPSILON = {"linf": 0.1, "l2": 0.5, "l1": 2.0}
for_every_norm = pytest.mark.parametrize("norm", NORMS)


def targets(count: int = 6) -> Tensor:
    """Return a class for each image that is not its own."""
    return (labels(count) + 1) % 3


WAYS: dict[str, Attack] = {
    "fgsm": fgsm,
    "plain": partial(pgd, steps=4),
    "targeted": partial(pgd, steps=4, targets=targets()),
    "restarts": partial(pgd, steps=2, restarts=3, stop_when_broken=True),
    "momentum": partial(pgd, steps=4, momentum=1.0),
    "everything": partial(pgd, steps=3, targets=targets(), restarts=2, momentum=0.9),
    "last": partial(pgd, steps=4, keep="last", targets=targets(), momentum=1.0),
    "cw": partial(cw, steps=4),
    "cw-targeted": partial(cw, steps=4, targets=targets(), confidence=1.0, restarts=2),
}
in_every_way = pytest.mark.parametrize("attack", WAYS.values(), ids=WAYS)


# The contract


@in_every_way
@for_every_norm
def test_the_ball_and_the_box_are_respected(attack: Attack, norm: str) -> None:
    x, threat = images(), Threat(norm, EPSILON[norm])
    x_adv = attack(small_net(), x, labels(), threat)
    assert x_adv.shape == x.shape
    assert x_adv.dtype == x.dtype
    assert x_adv.grad_fn is None
    distance = length(x_adv.double() - x.double(), norm)
    assert distance.max() <= threat.epsilon + TOLERANCE
    assert distance.max() > threat.epsilon / 4
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1


@in_every_way
@for_every_norm
def test_epsilon_zero_is_the_identity(attack: Attack, norm: str) -> None:
    assert torch.equal(attack(small_net(), images(), labels(), Threat(norm, 0.0)), images())


@pytest.mark.parametrize("name", [name for name in WAYS if name != "last"])
@for_every_norm
def test_an_empty_batch_gives_an_empty_batch(name: str, norm: str) -> None:
    attack, x = WAYS[name], torch.empty(0, 1, 6, 6)
    none = {"targets": labels(0)} if "targets" in getattr(attack, "keywords", {}) else {}
    assert attack(small_net(), x, labels(0), Threat(norm, 0.1), **none).shape == x.shape


@in_every_way
@for_every_norm
def test_model_inputs_and_random_numbers_are_untouched(attack: Attack, norm: str) -> None:
    net = small_net().train()
    net[1].eval()
    net[0].weight.requires_grad_(False)
    net[3][2].weight.grad = torch.full_like(net[3][2].weight, 0.5)
    x, before, random = images().requires_grad_(), state_of(net), torch.get_rng_state()
    attack(net, x, labels(), Threat(norm, 0.1))
    assert state_of(net) == before
    assert torch.equal(x, images())
    assert x.grad is None
    assert torch.equal(torch.get_rng_state(), random)


@pytest.mark.parametrize("name", ["plain", "targeted", "momentum", "everything", "last"])
@for_every_norm
def test_permutations_and_splits_leave_every_image_as_it_is(name: str, norm: str) -> None:
    """One restart of each image; the later ones draw from a generator, image after image."""
    net, x, y = small_net(torch.float64), images(dtype=torch.float64), labels()
    start = 0.05 * (images(dtype=torch.float64, seed=9) - x)
    threat, options = Threat(norm, EPSILON[norm]), {**WAYS[name].keywords, "restarts": 1}

    def run(places: Tensor) -> Tensor:
        chosen = dict(options)
        if "targets" in chosen:
            chosen["targets"] = chosen["targets"][places]
        return pgd(net, x[places], y[places], threat, start=start[places], **chosen)

    whole, order = run(torch.arange(6)), torch.tensor([3, 0, 5, 1, 4, 2])
    assert torch.allclose(run(order), whole[order], rtol=0, atol=1e-12)
    parts = [run(part) for part in order.split((1, 3, 2))]
    assert torch.allclose(torch.cat(parts), whole[order], rtol=0, atol=1e-12)


# More is never weaker


def broken_by(attack: Attack, count: int = 40, **options: object) -> Tensor:
    net, x = rugged_net(), images(count, torch.float64)
    y = net(x).argmax(1)
    return is_broken(net, attack(net, x, y, **options), y)


@for_every_norm
@pytest.mark.parametrize("momentum", [0.0, 1.0])
def test_more_steps_of_one_size_never_mend_an_image(norm: str, momentum: float) -> None:
    threat = Threat(norm, 0.05 * EPSILON[norm])
    attack = partial(broken_by, pgd, threat=threat, step_size=threat.epsilon / 3, momentum=momentum)
    broken = [attack(steps=steps) for steps in range(6)]
    assert all((less <= more).all() for less, more in pairwise(broken))
    assert broken[-1].sum() > broken[0].sum()


# Restarts


@for_every_norm
def test_restarts_keep_the_best_of_their_climbs(norm: str) -> None:
    """Climbs one at a time from the same draws say by hand which one is best."""
    net, x = rugged_net(), images(40, torch.float64)
    y, threat = net(x).argmax(1), Threat(norm, 0.04 * EPSILON[norm])
    generator, climbs = torch.Generator().manual_seed(5), []
    for _ in range(4):
        start = random_perturbation(torch.rand(x.shape, generator=generator).to(x), threat)
        climbs.append(pgd(net, x, y, threat, steps=2, start=start))
    values = torch.stack([margin(net(climb), y) > 0 for climb in climbs]).double() * 1e6
    values += torch.stack([cross_entropy(net(climb), y) for climb in climbs]).detach()
    place = values.argmax(0)
    assert len(place.unique()) == 4
    generator = torch.Generator().manual_seed(5)
    found = pgd(net, x, y, threat, steps=2, restarts=4, generator=generator)
    expected = torch.stack(climbs)[place, torch.arange(40)]
    assert torch.allclose(found, expected, rtol=0, atol=1e-12)


def test_later_restarts_are_spent_on_images_that_stand() -> None:
    net, x = rugged_net(), images(40, torch.float64)
    y, seen = net(x).argmax(1), []
    threat = Threat("linf", 0.004)
    once = pgd(net, x, y, threat, steps=2, stop_when_broken=True)
    robust = int((~is_broken(net, once, y)).sum())
    assert 0 < robust < 40
    net.register_forward_hook(lambda module, args, output: seen.append(len(output)))
    pgd(net, x, y, threat, steps=2, restarts=2, stop_when_broken=True)
    assert len(seen) == 6
    assert seen[3] == robust
    assert seen == sorted(seen, reverse=True)


# Momentum


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("decay", [0.5, 1.0])
def test_momentum_is_the_papers(norm: str, decay: float) -> None:
    net, x, y = rugged_net(), images(dtype=torch.float64), labels()
    threat, size = Threat(norm, 0.3 * EPSILON[norm]), 0.1 * EPSILON[norm]
    expected = plain_pgd(net, x, y, threat, 0 * x, 6, size, decay)
    how = {"steps": 6, "step_size": size, "random_start": False, "keep": "last"}
    found = pgd(net, x, y, threat, momentum=decay, **how)
    assert torch.allclose(found, expected, rtol=0, atol=1e-9)
    assert not torch.allclose(found, pgd(net, x, y, threat, **how), atol=1e-3)


@for_every_norm
def test_momentum_stays_with_its_image_when_others_leave(norm: str) -> None:
    net, x = rugged_net(), images(30, torch.float64)
    y, threat = net(x).argmax(1), Threat(norm, 0.02 * EPSILON[norm])
    attack = partial(pgd, net, threat=threat, steps=6, step_size=threat.epsilon / 4)
    attack = partial(attack, momentum=1.0, stop_when_broken=True, random_start=False)
    seen, hook = [], lambda module, args, output: seen.append(len(output))
    with net.register_forward_hook(hook):
        together = attack(x=x, y=y)
    assert len(set(seen)) > 3, "images should leave at different steps"
    alone = [attack(x=x[i : i + 1], y=y[i : i + 1]) for i in range(30)]
    assert torch.allclose(together, torch.cat(alone), rtol=0, atol=1e-12)


@for_every_norm
def test_momentum_does_not_care_for_the_scale_of_gradients(norm: str) -> None:
    """Gradients of 1e-30 times the size lead the same way, and none at all leads nowhere."""
    net, x, y = rugged_net(), images(dtype=torch.float64), labels()
    attack = partial(pgd, net, x, y, Threat(norm, EPSILON[norm]), steps=3, momentum=1.0)
    attack = partial(attack, keep="last", random_start=False)

    def tiny(logits: Tensor, labels: Tensor) -> Tensor:
        return 2.0**-100 * cross_entropy(logits, labels)

    def flat(logits: Tensor, labels: Tensor) -> Tensor:
        return 0 * cross_entropy(logits, labels)

    assert torch.allclose(attack(objective=tiny), attack(), rtol=0, atol=1e-12)
    assert torch.equal(attack(objective=flat), x)


# Mistakes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"targets": targets(5)}, r"targets has shape \(5,\): needed is one class for each of the"),
        ({"targets": F.one_hot(targets())}, r"targets has shape \(6, 3\)"),
        ({"targets": labels()}, "targets names some images' own class"),
        ({"restarts": 0}, "restarts is 0: allowed are 1 and more"),
        ({"restarts": 2, "keep": "last"}, 'restarts is 2: more than one needs keep="best"'),
        ({"restarts": 2, "random_start": False}, "restarts is 2: more than one needs random_start"),
        ({"momentum": -0.1}, "momentum is -0.1: allowed are 0 and more"),
        ({"momentum": float("nan")}, "momentum is nan"),
        ({"momentum": float("inf")}, "momentum is inf"),
    ],
)
def test_mistakes_are_named(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        pgd(small_net(), images(), labels(), Threat("linf", 0.1), **arguments)


@pytest.mark.parametrize("confidence", [-1.0, float("nan")])
def test_cw_refuses_a_confidence_below_zero(confidence: float) -> None:
    with pytest.raises(UserError, match="confidence is"):
        cw(small_net(), images(), labels(), Threat("linf", 0.1), confidence=confidence)
