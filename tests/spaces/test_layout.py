"""Which cell stands where, and how wide it is."""

from __future__ import annotations

from collections import Counter

import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arnas.runtime.errors import UserError
from arnas.spaces.layout import plan_cells
from arnas.spaces.options import SpaceOptions

KIND = st.sampled_from(["accurate", "robust", "normal"])
ARNAS = SpaceOptions()


@pytest.mark.parametrize(
    ("cells", "reductions", "accurate", "robust"),
    [(20, [6, 13], 12, 6), (14, [4, 9], 8, 4), (8, [2, 5], 4, 2), (5, [1, 3], 2, 1)],
)
def test_published_positions(cells: int, reductions: list[int], accurate: int, robust: int) -> None:
    plans = plan_cells(cells, 64, ARNAS)
    counts = Counter(plan.kind for plan in plans)
    assert counts == {"accurate": accurate, "robust": robust, "reduction": 2}
    assert [i for i, plan in enumerate(plans) if plan.reduction] == reductions
    assert [i for i, plan in enumerate(plans) if plan.after_reduction] == [
        i + 1 for i in reductions
    ]


@settings(max_examples=100, deadline=None)
@given(
    st.integers(3, 60),
    st.integers(1, 50).map(lambda half: 2 * half),
    st.lists(KIND, min_size=3, max_size=3),
    st.lists(st.integers(1, 8), min_size=3, max_size=3),
)
def test_any_layout(cells: int, channels: int, kinds: list[str], widths: list[int]) -> None:
    plans = plan_cells(cells, channels, SpaceOptions(kinds=kinds, widths=widths))
    first, second = cells // 3, (cells + cells) // 3
    assert len(plans) == cells
    for index, plan in enumerate(plans):
        stage = 0 if index < first else 1 if index < second else 2
        assert plan.reduction == (index in {first, second})
        assert plan.kind == ("reduction" if plan.reduction else kinds[stage])
        assert plan.channels == channels * widths[stage]
        assert plan.after_reduction == (index > 0 and plans[index - 1].reduction)
    assert sum(plan.reduction for plan in plans) == 2


@pytest.mark.parametrize("cells", [-1, 0, 1, 2])
def test_fewer_than_three_cells_are_refused(cells: int) -> None:
    with pytest.raises(UserError, match=f"cells is {cells}: allowed are 3 and more"):
        plan_cells(cells, 4, ARNAS)


@pytest.mark.parametrize("channels", [-2, 0, 1])
def test_too_few_channels_are_refused(channels: int) -> None:
    with pytest.raises(UserError, match=f"channels is {channels}: allowed are 2 and more"):
        plan_cells(5, channels, ARNAS)


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        (["accurate", "accurate", "robust"], ("accurate", "robust", "reduction")),
        (["robust", "robust", "accurate"], ("robust", "accurate", "reduction")),
        (["normal"] * 3, ("normal", "reduction")),
    ],
)
def test_searched_kinds(kinds: list[str], expected: tuple[str, ...]) -> None:
    assert SpaceOptions(kinds=kinds).searched_kinds() == expected


@pytest.mark.parametrize(
    "settings_",
    [
        {"kinds": ["accurate", "robust"]},
        {"kinds": ["accurate", "accurate", "reduction"]},
        {"widths": [1, 2, 2, 2]},
        {"widths": [1, 2, 0]},
        {"widths": [1, 2, 1.5]},
        {"width": [1, 2, 2]},
    ],
    ids=str,
)
def test_impossible_spaces_are_refused(settings_: dict[str, object]) -> None:
    with pytest.raises(pydantic.ValidationError):
        SpaceOptions(**settings_)
