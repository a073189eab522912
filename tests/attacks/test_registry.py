"""The registry: names, suites, users' own attacks, and the passes that it states."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from attack_cases import fixed
from torch import Tensor, nn

from arnas.attacks.eval_mode import frozen_eval
from arnas.attacks.oracle import AttackOutput, Oracle
from arnas.attacks.registry import (
    ATTACKS,
    SUITES,
    attack_entry,
    attack_label,
    attack_names,
    known_attack,
)
from arnas.attacks.square import per_image_numbers
from arnas.attacks.suites import build_suite
from arnas.attacks.threat import Threat
from arnas.runtime.errors import UserError

COUNT, CLASSES = 4, 10


class Counting(nn.Module):
    """Linear logits; counts the images that pass forward and backward."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(CLASSES, 64, generator=generator))
        self.forwards = self.gradients = 0

    def forward(self, x: Tensor) -> Tensor:
        self.forwards += len(x)
        if x.requires_grad:
            x.register_hook(self._count)
        return x.flatten(1) @ self.weight.T

    def _count(self, gradient: Tensor) -> None:
        self.gradients += len(gradient)


def counted(name: str, norm: str = "linf") -> tuple[float, float]:
    """Return the backward and forward passes of an attack at an image that withstands it."""
    model = Counting()
    x = torch.rand(200, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        best = model(x).topk(2).values
        lead = best[:, 0] - best[:, 1]
        x = x[lead.argsort(descending=True)[:COUNT]]
        y = model(x).argmax(1)
        order = model(x).argsort(1, descending=True)
    part = build_suite(name, norm, CLASSES).components[name]
    total = [0, 0]
    for number in range(part.tries):
        model.forwards = model.gradients = 0
        labels = torch.stack([y, order[:, 1 + number]], 1) if part.targeted else y
        blocks = per_image_numbers(("test", number), torch.arange(COUNT))
        streams = fixed(torch.rand(x.shape), blocks)
        with frozen_eval(model):
            found = part.run(Oracle(model, COUNT), x, labels, Threat(norm, 1e-4), streams)
        assert not found.broken.any(), "a broken image would cost less"
        total = [total[0] + model.gradients, total[1] + model.forwards]
    return total[0] / COUNT, total[1] / COUNT


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.long] if name == "reference" else [])
        for name, entry in ATTACKS.items()
        if not entry.parts
    ],
)
def test_an_image_that_withstands_costs_what_the_registry_says(name: str) -> None:
    # Square takes a pass an image for the outcome. The package looks once at a whole batch.
    assert counted(name) == pytest.approx(ATTACKS[name].passes(), abs=1 + ATTACKS[name].tries)


def test_names_labels_and_steps() -> None:
    assert attack_label("pgd7") == "PGD-7"
    assert attack_label("mine:attack") == "mine:attack"
    assert attack_label("transfer from wrn") == "transfer from wrn"
    assert ATTACKS["pgd20"] == attack_entry("pgd20")
    assert (attack_entry("pgd7").steps, attack_entry("pgd7").step_size_over_epsilon) == (7, 0.25)
    assert (ATTACKS["apgd_t"].steps, ATTACKS["apgd_t"].step_size_over_epsilon) == (100, None)
    assert ATTACKS["square"].steps is None
    assert ATTACKS["apgd_t"].tries_for("linf", 4) == 3
    assert ATTACKS["apgd_ce"].tries_for("l1", 4) == 5
    assert len({entry.label for entry in ATTACKS.values()}) == len(ATTACKS)


def test_autoattack_in_a_list_stands_for_its_parts_once() -> None:
    assert attack_names("standard") == attack_names("autoattack") == SUITES["standard"]
    names = attack_names("pgd20, autoattack, apgd_ce")
    assert names == ("pgd20", "apgd_ce", "apgd_t", "fab_t", "square")


@pytest.mark.parametrize("name", ["pgd", "pgd0", "pgd020", "magic", "", "a b:c", "pgd20,magic"])
def test_unknown_attacks_are_refused(name: str) -> None:
    assert not known_attack(name)
    with pytest.raises(UserError, match="allowed are standard, fast, rand, reference, or a list"):
        attack_names(name)


def test_few_classes_change_the_suite() -> None:
    suite = build_suite("apgd_dlr,apgd_t,fab_t", "linf", 2)
    assert set(suite.replaced) == {"apgd_dlr", "apgd_t"}
    assert [part.tries for part in suite.components.values()] == [1, 1, 1]
    assert "margin" in suite.components["apgd_t"].settings
    assert build_suite("standard", "linf", 1).components == {}
    with pytest.raises(UserError, match="needs 4 classes, the model has 3"):
        build_suite("reference", "linf", 3)


OWN = """
import torch

def add(model, x, y, threat, *, generator=None):
    assert not model.training
    return x + threat.epsilon * torch.rand(x.shape, generator=generator)

def shape(model, x, y, threat, *, generator=None):
    return x[:1]

number = 3
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "own_attack.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    yield
    sys.modules.pop("own_attack", None)


@pytest.mark.usefixtures("own")
def test_a_users_own_attack_runs_and_repeats() -> None:
    """Batch by batch; its random numbers follow from those of the images."""
    generator = torch.Generator().manual_seed(0)
    model, x = Counting(), 0.5 * torch.rand(5, 1, 8, 8, generator=generator)
    with torch.no_grad():
        y = model(x).argmax(1)
    part = build_suite("own_attack:add", "linf", CLASSES).components["own_attack:add"]
    numbers = torch.rand(5, 2, generator=generator)

    def run(threat: Threat, noise: Tensor) -> AttackOutput:
        with frozen_eval(model):
            return part.run(Oracle(model, 2), x, y, threat, fixed(noise))

    first, again = (run(Threat("linf", 0.1), numbers) for _ in range(2))
    assert torch.equal(first.x_adv, again.x_adv)
    assert not torch.equal(first.x_adv, run(Threat("linf", 0.1), numbers.flip(0)).x_adv)
    assert not torch.equal((first.x_adv - x)[0], (first.x_adv - x)[2])
    with torch.no_grad():
        assert torch.equal(first.broken, model(first.x_adv).argmax(1) != y)
    assert part.settings == "the user's own attack own_attack:add"


@pytest.mark.usefixtures("own")
def test_mistakes_in_a_users_own_attack_are_named() -> None:
    for name, message in {
        "own_attack:number": "is a int: an attack is a function",
        "own_attack:absent": "has no 'absent'",
        "no_such_module:attack": "there is no module 'no_such_module'",
    }.items():
        with pytest.raises(UserError, match=message):
            build_suite(name, "linf", CLASSES)
    part = build_suite("own_attack:shape", "linf", CLASSES).components["own_attack:shape"]
    x, y = torch.rand(4, 1, 8, 8), torch.zeros(4, dtype=torch.int64)
    with pytest.raises(UserError, match=r"returned \(1, 1, 8, 8\) for images of shape \(4, 1"):
        part.run(Oracle(Counting(), 4), x, y, Threat("linf", 0.1), fixed(torch.rand(4, 2)))
