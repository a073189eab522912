"""How strong Square is: closed forms, certificates, more effort, and the package's own draws."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from attack_cases import digits, linear_net
from square_cases import for_every_norm, hunted, images, mixed_case, one_by_one
from torch import Tensor, nn
from torch.nn import functional as F

from arnas.attacks.objectives import margin
from arnas.attacks.square import square
from arnas.attacks.threat import Threat


@for_every_norm
def test_more_queries_and_more_restarts_never_mend_an_image(norm: str) -> None:
    net, x, y, threat = mixed_case(norm)

    def broken(queries: int, restarts: int = 1) -> Tensor:
        x_adv = square(net, x, y, threat, queries=queries, restarts=restarts)
        return net(x_adv).argmax(1) != y

    by_queries = [broken(queries) for queries in (0, 5, 50, 110)]
    assert all((less <= more).all() for less, more in pairwise(by_queries))
    assert by_queries[-1].sum() > by_queries[0].sum()
    by_restarts = [broken(5, restarts) for restarts in (1, 2, 5)]
    assert all((less <= more).all() for less, more in pairwise(by_restarts))
    assert by_restarts[-1].sum() > by_restarts[0].sum()


@for_every_norm
def test_the_best_try_of_an_image_that_stands_has_the_highest_margin(
    norm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_by_one(monkeypatch)
    net, x, y, threat = mixed_case(norm)
    highest = torch.full((len(x),), -torch.inf, dtype=x.dtype)
    robust = torch.arange(len(x))

    class Watch(nn.Module):
        def forward(self, batch: Tensor) -> Tensor:
            nonlocal robust
            logits = net(batch)
            values = margin(logits, y[robust])
            highest[robust] = torch.maximum(highest[robust], values)
            robust = robust[values < 0]
            return logits

    found = hunted(Watch(), x, y, threat)
    values = margin(net(found.x_adv), y)
    assert torch.allclose(values, highest, rtol=0, atol=1e-9)
    assert torch.equal(values > 0, found.broken)


def test_the_worst_case_of_a_linear_model_is_reached_where_a_window_can_reach_it() -> None:
    """Two by two pixels whose weights agree in sign: the first windows cover the whole image."""
    net = linear_net(2, 4)
    weight = torch.tensor([[0.3, 1.1, 0.7, 0.2], [-0.5, -0.1, -0.9, -0.4]]).double()
    net[1].weight.data.copy_(weight)
    net[1].bias.data.copy_(-weight.sum(1) / 2)
    x = 0.2 + 0.6 * images(60, (1, 2, 2))
    y, threat = net(x).argmax(1), Threat("linf", 0.1)
    lead = -margin(net(x), y)
    reach = threat.epsilon * (weight[0] - weight[1]).abs().sum()
    found = hunted(net, x, y, threat, queries=60)
    assert torch.equal(found.broken, lead < reach)
    assert 5 < found.broken.sum() < 55
    stands = ~found.broken
    worst = -margin(net(found.x_adv), y)[stands]
    assert torch.allclose(worst, (lead - reach)[stands], rtol=0, atol=1e-12)


@for_every_norm
def test_square_never_beats_the_certificate_of_a_linear_model(norm: str) -> None:
    net, x = linear_net(5, 36, seed=2), 0.3 + 0.4 * images(100, (1, 6, 6))
    y, threat = net(x).argmax(1), Threat(norm, {"linf": 0.03, "l2": 0.15, "l1": 0.4}[norm])
    weight, dual = net[1].weight.detach(), {"linf": 1.0, "l2": 2.0, "l1": torch.inf}[norm]
    reach = threat.epsilon * (weight[y][:, None] - weight[None]).norm(p=dual, dim=2)
    logits = net(x).detach()
    lead = logits.gather(1, y[:, None]) - logits - reach
    safe = (lead.scatter(1, y[:, None], 1.0) > 0).all(1)
    found = hunted(net, x, y, threat, queries=150)
    assert not (found.broken & safe).any()
    assert 20 < safe.sum() < 80
    assert found.broken.sum() > 0.2 * (~safe).sum()


# Against the package


def digits_net() -> tuple[nn.Sequential, Tensor, Tensor]:
    """Return a small network trained on scikit-learn's digits, and 200 images it gets right."""
    x, y = digits()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(512, 10)
        )
        optimiser = torch.optim.Adam(net.parameters(), lr=0.005)
        for _ in range(60):
            optimiser.zero_grad()
            F.cross_entropy(net(x[:1000]), y[:1000]).backward()
            optimiser.step()
    net.eval()
    right = (net(x[1000:]).argmax(1) == y[1000:]).nonzero().flatten()[:200] + 1000
    return net, x[right], y[right]


@pytest.mark.long
@pytest.mark.parametrize(
    ("norm", "epsilon", "seeds"), [("linf", 0.08, 4), ("l2", 0.4, 4), ("l1", 2.0, 2)]
)
def test_free_draws_break_as_many_as_the_packages(norm: str, epsilon: float, seeds: int) -> None:
    package = pytest.importorskip("pyautoattack.square")
    net, x, y = digits_net()
    assert len(x) == 200
    stand: dict[str, list[int]] = {"ours": [], "theirs": []}
    for seed in range(seeds):
        adversary = package.SquareAttack(
            net,
            norm={"linf": "Linf", "l2": "L2", "l1": "L1"}[norm],
            eps=epsilon,
            n_queries=1000,
            resc_schedule=False,
            seed=seed,
        )
        with torch.random.fork_rng(), torch.no_grad():
            theirs = adversary.perturb(x, y)
        generator = torch.Generator().manual_seed(seed)
        ours = square(net, x, y, Threat(norm, epsilon), queries=1000, generator=generator)
        for name, x_adv in (("ours", ours), ("theirs", theirs)):
            with torch.no_grad():
                stand[name].append(int((net(x_adv).argmax(1) == y).sum()))
    assert 20 < sum(stand["theirs"]) / seeds < 180, stand
    assert sum(stand["ours"]) <= sum(stand["theirs"]) + seeds, stand
