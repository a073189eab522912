"""Checks that attack repeat themselves, whatever was run before and in whatever batches."""

from __future__ import annotations

import pytest
from broken_models import BROKEN
from check_cases import STRENGTH, attacked_context, finish

from arnas.evaluation.checks import run_check
from arnas.evaluation.checks.base import NEEDED


@pytest.mark.usefixtures("quick")
def test_a_check_says_the_same_alone_and_after_the_others() -> None:
    together, again = (attacked_context("cnn", count=12) for _ in range(2))
    forward = {name: run_check(name, together) for name in STRENGTH}
    backward = {name: run_check(name, again) for name in reversed(STRENGTH)}
    assert forward == backward
    for name in ("blackbox", "unbounded_attack"):
        assert run_check(name, attacked_context("cnn", count=12)) == forward[name]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("batch_size", [1, 7])
def test_the_batch_size_does_not_matter(batch_size: int) -> None:
    usual = attacked_context("mlp", count=10)
    other = attacked_context("mlp", count=10, batch_size=batch_size)
    for context in (usual, other):
        context.model, context.x = context.model.double(), context.x.double()
    for name in STRENGTH:
        assert run_check(name, usual) == run_check(name, other)


def test_a_model_that_knows_nothing_is_skipped() -> None:
    context = attacked_context("cnn", count=20)
    context.y = (context.y + 1) % 10
    for name in STRENGTH:
        assert run_check(name, finish(context)).status in ("SKIP",)


@pytest.mark.usefixtures("quick")
@pytest.mark.long
def test_the_broken_models_of_the_house_raise_no_exception() -> None:
    """Whatever their status, which other tests look at."""
    for name in BROKEN:
        context = attacked_context(name, count=12)
        for check in STRENGTH:
            assert run_check(check, context).advice != NEEDED, (name, check)
