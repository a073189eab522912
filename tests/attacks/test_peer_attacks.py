"""Attacks beside those of foolbox and of the adversarial robustness toolbox (ART).

Where both sides define an attack alike the examples must be the same; where they do not, no peer
may break images that `arnas.evaluate` leaves robust, but for one in a hundred.

Definitions that had to be brought together: foolbox projects onto the ball and then clips to the
box, as this package does. ART clips first and projects afterwards, which in L2 is something else at
the faces of the box; it is compared there without a box. ART computes in float32 only. Its APGD
starts with the step that it is given, where the paper has twice epsilon.
"""

from __future__ import annotations

import copy
import importlib
from collections.abc import Iterator
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

import arnas
from arnas.attacks.pgd import fgsm, pgd
from arnas.attacks.threat import Threat
from arnas.runtime.seeds import seeded

SAME = {"float32": 1e-6, "float64": 1e-9}
"""Largest difference of two pixels."""
COUNT = 128
"""A power of two, so that a mean over the images has the digits of their sum."""
BUDGETS = {"linf": 0.1, "l2": 0.5, "l1": 2.0}
ORDERS = {"linf": float("inf"), "l2": 2.0, "l1": 1.0}
IN_A_HUNDRED = 1


class Digits(NamedTuple):
    net: nn.Module
    """In float32, adversarially trained a little, so that no attack has it easy."""
    x: Tensor
    y: Tensor


@pytest.fixture(scope="module")
def digits() -> Digits:
    found = load_digits()
    x = torch.from_numpy(found.images).float()[:, None] / 16
    y = torch.from_numpy(found.target).long()
    with seeded("peers"):
        net = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(8, 16, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(256, 32),
            nn.ReLU(),
            nn.Linear(32, 10),
        )
        optimizer = torch.optim.Adam(net.parameters(), lr=4e-3)
        for _ in range(5):
            for part in torch.randperm(1400).split(50):
                threat = Threat("linf", 0.05)
                images = pgd(net, x[part], y[part], threat, steps=2, keep="last")
                optimizer.zero_grad()
                F.cross_entropy(net(images), y[part]).backward()
                optimizer.step()
    net.eval()
    return Digits(net, x[-COUNT:].clone(), y[-COUNT:].clone())


@pytest.fixture(scope="module")
def foolbox() -> ModuleType:
    return importlib.import_module("foolbox")


@pytest.fixture(scope="module")
def art() -> Iterator[Any]:
    """Import what is needed of ART, and undo what its import does to PyTorch."""
    threads = torch.get_num_threads()

    class Art:
        attacks = importlib.import_module("art.attacks.evasion")
        estimators = importlib.import_module("art.estimators.classification")

    yield Art
    torch.set_num_threads(threads)


def robust(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    with torch.no_grad():
        return net(x).argmax(1) == y


def in_dtype(digits: Digits, dtype: str) -> Digits:
    kind = getattr(torch, dtype)
    return Digits(copy.deepcopy(digits.net).to(kind), digits.x.to(kind), digits.y)


def furthest(ours: Tensor, theirs: Tensor) -> float:
    return float((ours.double() - theirs.double()).abs().max())


def assert_equal(case: Digits, ours: Tensor, theirs: Tensor, tolerance: float) -> None:
    """Compare examples, and who withstands them; some must, and some must not."""
    assert ours.dtype == theirs.dtype == case.x.dtype
    assert furthest(ours, theirs) <= tolerance
    assert furthest(ours, case.x) > 0.05
    stands = robust(case.net, ours, case.y)
    assert torch.equal(stands, robust(case.net, theirs, case.y))
    assert 10 < stands.sum() < robust(case.net, case.x, case.y).sum() - 10


def pgd_20(case: Digits, threat: Threat, **options: Any) -> Tensor:
    """Run PGD from the image to its last iterate."""
    return pgd(
        case.net,
        case.x,
        case.y,
        threat,
        steps=20,
        step_size=threat.epsilon / 4,
        random_start=False,
        keep="last",
        **options,
    )


# The same definitions in foolbox


def by_foolbox(foolbox: ModuleType, attack: Any, case: Digits, epsilon: float) -> Tensor:
    model = foolbox.PyTorchModel(case.net, bounds=(0, 1), device="cpu")
    _, clipped, _ = attack(
        model, case.x, foolbox.criteria.Misclassification(case.y), epsilons=epsilon
    )
    return torch.as_tensor(clipped)


@pytest.mark.parametrize("dtype", SAME)
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_fgsm_is_that_of_foolbox(
    digits: Digits, foolbox: ModuleType, norm: str, dtype: str
) -> None:
    case, epsilon = in_dtype(digits, dtype), BUDGETS[norm]
    kind = {"linf": "LinfFastGradientAttack", "l2": "L2FastGradientAttack"}[norm]
    theirs = by_foolbox(foolbox, getattr(foolbox.attacks, kind)(random_start=False), case, epsilon)
    ours = fgsm(case.net, case.x, case.y, Threat(norm, epsilon), keep="last")
    assert_equal(case, ours, theirs, SAME[dtype])


@pytest.mark.parametrize("dtype", SAME)
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_pgd_is_that_of_foolbox(digits: Digits, foolbox: ModuleType, norm: str, dtype: str) -> None:
    case, epsilon = in_dtype(digits, dtype), BUDGETS[norm]
    kind = getattr(foolbox.attacks, {"linf": "LinfPGD", "l2": "L2PGD"}[norm])
    theirs = by_foolbox(
        foolbox, kind(rel_stepsize=0.25, steps=20, random_start=False), case, epsilon
    )
    ours = pgd_20(case, Threat(norm, epsilon))
    # In float32 the steps of L2 carry rounding on, a digit in 20 steps.
    assert_equal(case, ours, theirs, SAME[dtype] * (10 if norm == "l2" else 1))


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_pgd_from_a_given_start_is_that_of_foolbox(
    digits: Digits, foolbox: ModuleType, norm: str
) -> None:
    """The start is drawn here and given to both."""
    case, epsilon = in_dtype(digits, "float64"), BUDGETS[norm]
    draws = torch.Generator().manual_seed(4)
    unit = 2 * torch.rand(case.x.shape, generator=draws, dtype=torch.float64) - 1
    size = unit.abs().amax() if norm == "linf" else unit.flatten(1).norm(dim=1).amax()
    start = epsilon * unit / size
    kind = getattr(foolbox.attacks, {"linf": "LinfPGD", "l2": "L2PGD"}[norm])

    class Started(kind):  # type: ignore[misc, valid-type]
        def get_random_start(self, x0: Any, epsilon: float) -> Any:
            return x0 + foolbox.attacks.base.ep.astensor(start)

    theirs = by_foolbox(
        foolbox, Started(rel_stepsize=0.1, steps=15, random_start=True), case, epsilon
    )
    ours = pgd(
        case.net,
        case.x,
        case.y,
        Threat(norm, epsilon),
        steps=15,
        step_size=0.1 * epsilon,
        start=start,
        keep="last",
    )
    assert_equal(case, ours, theirs, SAME["float64"])


# The same definitions in ART


def classifier(art: Any, net: nn.Module, box: bool = True) -> Any:
    return art.estimators.PyTorchClassifier(
        net,
        nn.CrossEntropyLoss(),
        (1, 8, 8),
        10,
        clip_values=(0, 1) if box else None,
        device_type="cpu",
    )


def by_art(
    art: Any, kind: str, case: Digits, norm: str, box: bool = True, **options: Any
) -> Tensor:
    attack = getattr(art.attacks, kind)(
        classifier(art, case.net, box),
        norm={"linf": np.inf, "l2": 2}[norm],
        eps=BUDGETS[norm],
        batch_size=COUNT,
        **options,
    )
    state = np.random.get_state()
    np.random.seed(0)
    try:
        return torch.from_numpy(attack.generate(case.x.numpy(), case.y.numpy()))
    finally:
        np.random.set_state(state)


@pytest.mark.long
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_fgsm_is_that_of_art(digits: Digits, art: Any, norm: str) -> None:
    epsilon, box = BUDGETS[norm], norm == "linf"
    theirs = by_art(art, "FastGradientMethod", digits, norm, box)
    ours = pgd(
        digits.net,
        digits.x,
        digits.y,
        Threat(norm, epsilon),
        steps=1,
        step_size=epsilon,
        random_start=False,
        keep="last",
        clip=box,
    )
    assert_equal(digits, ours, theirs, SAME["float32"])


@pytest.mark.long
@pytest.mark.parametrize("momentum", [0.0, 1.0])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_pgd_and_mi_fgsm_are_those_of_art(
    digits: Digits, art: Any, norm: str, momentum: float
) -> None:
    epsilon, box = BUDGETS[norm], norm == "linf"
    theirs = by_art(
        art,
        "ProjectedGradientDescentPyTorch",
        digits,
        norm,
        box,
        eps_step=epsilon / 4,
        max_iter=20,
        num_random_init=0,
        decay=momentum or None,
        verbose=False,
    )
    ours = pgd_20(digits, Threat(norm, epsilon), clip=box, momentum=momentum)
    assert_equal(digits, ours, theirs, SAME["float32"] * (10 if norm == "l2" else 1))


# Strength


def left_by_us(case: Digits, norm: str, suite: str = "fast") -> Tensor:
    threat = Threat(norm, BUDGETS[norm])
    found = arnas.evaluate(case.net, case.x, case.y, threat, suite, checks="none")
    return found.robust_flags


def only_theirs(case: Digits, norm: str, ours: Tensor, theirs: Tensor) -> int:
    """Count images that only a peer breaks, once its examples are seen to be in ball and box."""
    delta = (theirs.double() - case.x.double()).flatten(1)
    size = torch.linalg.vector_norm(delta, ORDERS[norm], dim=1)
    allowed = size <= BUDGETS[norm] + 1e-6
    assert allowed.all()
    assert theirs.min() >= 0
    assert theirs.max() <= 1
    broken = ~robust(case.net, theirs, case.y)
    return int((ours & broken).sum())


FOOLBOX = {
    "linf": ("LinfPGD", "LinfDeepFoolAttack", "LInfFMNAttack"),
    "l2": ("L2PGD", "L2DeepFoolAttack", "DDNAttack", "L2FMNAttack"),
    "l1": ("L1FMNAttack",),
}


@pytest.mark.long
@pytest.mark.parametrize("norm", FOOLBOX)
def test_foolbox_breaks_nothing_that_stands(digits: Digits, foolbox: ModuleType, norm: str) -> None:
    ours = left_by_us(digits, norm)
    left = []
    for kind in FOOLBOX[norm]:
        with seeded("foolbox", kind):
            theirs = by_foolbox(foolbox, getattr(foolbox.attacks, kind)(), digits, BUDGETS[norm])
        assert only_theirs(digits, norm, ours, theirs) <= IN_A_HUNDRED
        left.append(int(robust(digits.net, theirs, digits.y).sum()))
        assert left[-1] < int(robust(digits.net, digits.x, digits.y).sum()) - 10, "it is a rival"
    assert int(ours.sum()) <= min(left)


ART: dict[str, dict[str, Any]] = {
    "ProjectedGradientDescentPyTorch": {"max_iter": 40, "num_random_init": 1},
    "AutoProjectedGradientDescent": {"nb_random_init": 1},
    "SquareAttack": {"max_iter": 500},
}


@pytest.mark.long
@pytest.mark.parametrize("kind", ART)
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_art_breaks_nothing_that_stands(digits: Digits, art: Any, norm: str, kind: str) -> None:
    ours, options = left_by_us(digits, norm), {**ART[kind], "verbose": False}
    losses: list[dict[str, Any]] = [options]
    if kind.startswith("Auto"):
        options |= {"eps_step": 2 * BUDGETS[norm]}
        names = ("cross_entropy", "difference_logits_ratio")
        losses = [{**options, "loss_type": name} for name in names]
    elif kind.startswith("Proj"):
        options |= {"eps_step": BUDGETS[norm] / 4}
    for option in losses:
        theirs = by_art(art, kind, digits, norm, **option)
        assert only_theirs(digits, norm, ours, theirs) <= IN_A_HUNDRED
        stands = int(robust(digits.net, theirs, digits.y).sum())
        assert int(ours.sum()) <= stands
        assert stands < int(robust(digits.net, digits.x, digits.y).sum()) - 10, "it is a rival"


@pytest.mark.long
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_square_is_as_strong_as_that_of_art(digits: Digits, art: Any, norm: str) -> None:
    """ART runs through all window sizes in as many queries as it is given, AutoAttack in 10000."""
    theirs = by_art(art, "SquareAttack", digits, norm, max_iter=500, verbose=False)
    stands = int(robust(digits.net, theirs, digits.y).sum())
    assert int(left_by_us(digits, norm, "square").sum()) <= stands + IN_A_HUNDRED
