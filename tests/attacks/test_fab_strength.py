"""The strength of FAB, against closed forms, general solvers and the reference package."""

import math

import pytest
import torch
from attack_cases import digits, is_broken
from fab_cases import (
    SIDE,
    for_all_norms,
    for_targets,
    grey_images,
    labels_of,
    linear_net,
    run,
    shortest,
)
from pyautoattack.fab_pt import FABAttack_PT
from torch import Tensor, nn

from arnas.attacks.eval_mode import frozen_eval
from arnas.attacks.fab import fab
from arnas.attacks.threat import Threat

DUALS = {"linf": 1.0, "l2": 2.0, "l1": math.inf}


@for_all_norms
@for_targets
def test_on_a_linear_model_images_fall_beyond_their_distance_only(
    norm: str, targeted: bool
) -> None:
    """The dual norm gives the distance; the points come within a hundredth of it."""
    net, x = linear_net(), grey_images(40)
    y = labels_of(net, x, False)
    weight, logits = net[1].weight.detach(), net(x).detach()
    gaps = (logits.gather(1, y[:, None]) - logits).scatter(1, y[:, None], torch.inf)
    steepness = torch.linalg.vector_norm(weight[y][:, None] - weight, DUALS[norm], dim=2)
    exact = (gaps / steepness.scatter(1, y[:, None], 1)).amin(1)
    nearest = (gaps / steepness.scatter(1, y[:, None], 1)).argmin(1)
    labels = torch.stack([y, nearest], 1) if targeted else y
    threat = Threat(norm, float(exact.median()) * 1.0001)
    found, _ = run(net, x, labels, threat)
    assert not (found.broken & (exact > threat.epsilon)).any()
    assert found.broken[exact < threat.epsilon / 1.01].all()
    assert 15 <= found.broken.sum() <= 25
    assert torch.equal(is_broken(net, found.x_adv, y), found.broken)


@for_all_norms
def test_at_the_faces_of_the_box_images_fall_beyond_their_distance_only(norm: str) -> None:
    """Half of the pixels are black or white, so that they can only move one way."""
    net = linear_net()
    draw = torch.Generator().manual_seed(2)
    x = (2 * torch.rand(14, 1, SIDE, SIDE, generator=draw, dtype=torch.float64) - 0.5).clamp(0, 1)
    labels, weight = labels_of(net, x, True), net[1].weight.detach()
    exact = torch.tensor(
        [
            shortest(image.flatten(), weight[r] - weight[y], float(logit[r] - logit[y]), norm)
            for image, logit, (y, r) in zip(x, net(x).detach(), labels, strict=True)
        ]
    )
    threat = Threat(norm, float(exact.median()) * 1.0001)
    # With two classes what is misclassified has crossed the boundary that was aimed at.
    for i in range(len(x)):
        pair = nn.Sequential(nn.Flatten(), nn.Linear(SIDE**2, 2)).double()
        with torch.no_grad():
            pair[1].weight.copy_(net[1].weight[labels[i]])
            pair[1].bias.copy_(net[1].bias[labels[i]])
        found, _ = run(pair, x[i : i + 1], torch.tensor([[0, 1]]), threat, steps=30)
        if exact[i] > threat.epsilon:
            assert not found.broken
        elif exact[i] < threat.epsilon / 1.03:
            assert found.broken


def trained_net(seed: int) -> tuple[nn.Module, Tensor, Tensor]:
    """Return a small network that a few noisy passes over digits have trained, and other digits."""
    x, y = digits()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = nn.Sequential(
            nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU(), nn.Flatten()
        )
        net.append(nn.Linear(256, 10))
        optimizer = torch.optim.Adam(net.parameters(), 3e-3)
        for _ in range(200):
            place = torch.randint(1000, (64,))
            noisy = (x[place] + 0.3 * torch.randn_like(x[place])).clamp(0, 1)
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(noisy), y[place]).backward()
            optimizer.step()
    order = torch.randperm(len(x) - 1000, generator=torch.Generator().manual_seed(seed)) + 1000
    return net.eval(), x[order[:200]], y[order[:200]]


@pytest.mark.long
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 0.11), ("l2", 0.7), ("l1", 1.5)])
def test_at_most_one_image_in_two_hundred_withstands_more_than_the_package(
    norm: str, epsilon: float, seed: int
) -> None:
    net, x, y = trained_net(seed)
    targets = 4
    names = {"linf": "Linf", "l2": "L2", "l1": "L1"}
    with frozen_eval(net):
        package = FABAttack_PT(
            net, norm=names[norm], eps=epsilon, targeted=True, n_target_classes=targets
        )
        theirs = int((~is_broken(net, package.perturb(x, y), y)).sum())
        order = net(x).scatter(1, y[:, None], torch.inf).sort(dim=1).indices
    x_adv = x
    for place in range(targets):
        robust = ~is_broken(net, x_adv, y)
        x_adv = x_adv.clone()
        x_adv[robust] = fab(
            net,
            x[robust],
            y[robust],
            Threat(norm, epsilon),
            targets=order[robust, -2 - place],
        )
    ours = int((~is_broken(net, x_adv, y)).sum())
    assert 20 <= theirs <= 180
    assert ours <= theirs + 1
