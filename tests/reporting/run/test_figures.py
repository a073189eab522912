"""Figures show what the tables hold, read back from what was drawn."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import report_cases as cases
import torch

from arnas.reporting.format import estimate
from arnas.reporting.run import figures, search_figures
from arnas.reporting.run.architecture import alpha_rows, gamma_rows, operation_rows
from arnas.reporting.run.cells import cells_figure
from arnas.reporting.style import styled, svg_bytes
from arnas.spaces.genotype import EDGES
from arnas.spaces.layout import plan_cells
from arnas.spaces.options import SpaceOptions
from arnas.spaces.published import GENOTYPES
from arnas.spaces.registry import OPERATIONS, PRIMITIVES

ARNAS = GENOTYPES["arnas"].genotype


def test_a_point_of_the_tradeoff_is_clean_and_union() -> None:
    figure = figures.tradeoff(cases.whitebox(), cases.models())
    drawn = [
        tuple(float(v) for v in points.get_offsets()[0])
        for axes in figure.axes
        for points in axes.collections
        if len(points.get_offsets()) == 1 and points.get_offsets()[0].any()
    ]
    expected = {(float(f["clean"]), float(f["union"])) for f in cases.EXPECTED.values()}
    assert set(drawn) == expected


def test_the_largest_marker_is_the_costliest_network() -> None:
    figure = figures.tradeoff(cases.whitebox(), cases.models())
    sizes = {
        points.get_label().split(":")[0]: float(points.get_sizes()[0])
        for points in figure.axes[0].collections
        if points.get_label().startswith(("arnas", "dsara", "small", "control"))
    }
    assert max(sizes, key=sizes.__getitem__) == "dsara"
    assert min(sizes, key=sizes.__getitem__) == "small"
    assert sizes["arnas"] == sizes["control"]


def test_accuracy_of_one_seed_has_its_interval_and_of_several_their_deviation() -> None:
    rows = cases.whitebox(seeds=2)
    key = (rows["model"] == "arnas") & (rows["attack"] == "union") & (rows["epoch"] == 7)
    one = rows[key & (rows["seed"] == 0)]
    assert estimate(one) == (88.0, one["ci_low"].iloc[0], one["ci_high"].iloc[0], 1)
    mean, low, high, _ = estimate(rows[key])
    assert mean == pytest.approx(87.5)
    assert (low, high) == pytest.approx((87.5 - 0.5**0.5, 87.5 + 0.5**0.5))


def test_the_curve_has_the_table_s_points() -> None:
    table = cases.curve()
    figure = figures.epsilon_curve(table)
    found = {
        (axes.get_title().split(",")[0], line.get_label()): line.get_xydata().tolist()
        for axes in figure.axes
        for line in axes.lines
    }
    assert len(found) == len(cases.EXPECTED)
    x = [0.0, 8 / 255, 0.1, 1.0]
    for (dataset, model), points in found.items():
        rows = table[(table["dataset"] == dataset) & (table["model"] == model)]
        assert np.allclose(points, list(zip(x, rows["accuracy"], strict=True)))


def test_the_heat_map_is_the_matrix() -> None:
    table = cases.blackbox()
    figure = figures.blackbox(table)
    drawn = figure.axes[0].images[0].get_array()
    names = ["arnas", "dsara", "small", "control"]
    here = table[table["dataset"] == "digits"].set_index(["model", "source"])["accuracy"]
    for row, target in enumerate(names):
        for column, source in enumerate([*names, "square"]):
            assert drawn[row, column] == here[target, source]
    bold = [text.get_text() for text in figure.axes[0].texts if text.get_fontweight() == "bold"]
    assert bold == [f"{drawn[i, i]:.1f}" for i in range(4)]


def test_every_network_has_its_learning_curves_and_its_selected_epoch() -> None:
    figure = figures.learning_curves(cases.training(), cases.whitebox())
    assert len(figure.axes) == len(cases.EXPECTED)
    for axes in figure.axes:
        curves = [line.get_ydata().tolist() for line in axes.lines[:4]]
        assert sorted(curves) == [[31, 32, 33], [41, 42, 43], [46, 47, 48], [51, 52, 53]]
        assert list(axes.lines[4].get_xdata()) == [7, 7]


def test_operations_of_a_cell_add_up() -> None:
    plans = plan_cells(5, 16, SpaceOptions())
    table = pd.DataFrame(operation_rows("arnas", 0, ARNAS, plans, 8))
    figure = search_figures.operations(table)
    widths = np.zeros(5)
    for number, bar in enumerate(figure.axes[0].patches):
        widths[number % 5] += bar.get_width()
    assert np.allclose(widths, 100)


def test_trajectories_are_drawn_in_the_colours_of_their_operations() -> None:
    tables = [{"accurate": torch.zeros(EDGES, 7)}, {"accurate": torch.eye(EDGES, 7)}]
    table = pd.DataFrame(alpha_rows({"search": "dsara", "seed": 0}, tables))
    drawn = search_figures.alphas(table).axes[0].lines
    names = {entry.colour: name for name, entry in OPERATIONS.items()}
    assert sorted(names[line.get_color()] for line in drawn) == sorted(PRIMITIVES)
    for line in drawn:
        rows = table[table["primitive"] == names[line.get_color()]]
        assert line.get_ydata().tolist() == rows["mean"].tolist()


def test_gamma_is_drawn_step_by_step() -> None:
    table = pd.DataFrame(
        gamma_rows({"search": "dsara", "seed": 0}, torch.tensor([torch.nan, 0.25, 0.5]))
    )
    figure = search_figures.gamma(table)
    assert figure.axes[0].lines[0].get_xydata().tolist() == [[2, 0.25], [3, 0.5]]


def test_an_image_that_is_said_wrong_is_named_in_red() -> None:
    table = pd.DataFrame(
        [
            {
                "dataset": "digits",
                "model": "arnas",
                "image": index,
                "label": 3,
                "adversarial_class": said,
                "adversarial_confidence": 71.4,
            }
            for index, said in enumerate((3, 5))
        ]
    )
    clean = np.full((2, 1, 4, 4), 0.5)
    x_adv = clean + 0.1 * np.array([1, -1]).reshape(2, 1, 1, 1)
    figure = figures.examples(
        table, {"digits": clean}, {("digits", "arnas"): x_adv}, {"digits": 0.1}
    )
    titles = {axes.get_title(): axes.title.get_color() for axes in figure.axes if axes.get_title()}
    assert titles == {"3": "black", "3 (71 %)": "black", "5 (71 %)": "#c00000"}
    added = [axes.images[0].get_array() for axes in figure.axes[2:4]]
    assert np.allclose(added[0], 1) and np.allclose(added[1], -1), "epsilon is full colour"


@pytest.mark.parametrize(
    "draw", [search_figures.gamma, search_figures.alphas, search_figures.operations]
)
def test_a_run_without_searches_says_so(draw: object) -> None:
    figure = draw(pd.DataFrame())  # type: ignore[operator]
    assert figure.axes[0].texts[0].get_text()


def test_equal_tables_give_equal_bytes() -> None:
    def drawn() -> list[bytes]:
        with styled():
            return [
                svg_bytes(figures.tradeoff(cases.whitebox(), cases.models())),
                svg_bytes(figures.blackbox(cases.blackbox())),
                svg_bytes(cells_figure(ARNAS)),
            ]

    assert drawn() == drawn()


def of_two_seeds(table: pd.DataFrame, lost: float) -> pd.DataFrame:
    """Return a table with a second seed that does worse by some points."""
    return pd.concat([table, table.assign(seed=1, accuracy=table["accuracy"] - lost)])


def test_several_seeds_are_counted_where_a_mean_is_drawn() -> None:
    drawn = [
        figures.tradeoff(cases.whitebox(seeds=2), cases.models()),
        figures.epsilon_curve(of_two_seeds(cases.curve(), 1.0)),
        figures.blackbox(of_two_seeds(cases.blackbox(), 2.0)),
    ]
    for figure in drawn:
        titles = [axes.get_title() for axes in figure.axes]
        assert titles
        assert all(title.endswith(", mean ± sd of 2 seeds") for title in titles)
    for figure in (
        figures.tradeoff(cases.whitebox(), cases.models()),
        figures.epsilon_curve(cases.curve()),
        figures.blackbox(cases.blackbox()),
    ):
        assert not any("seed" in axes.get_title() for axes in figure.axes)


def test_the_heat_map_of_several_seeds_has_mean_and_deviation() -> None:
    table = cases.blackbox()
    figure = figures.blackbox(of_two_seeds(table, 2.0))
    first = table.iloc[0]["accuracy"]
    assert figure.axes[0].texts[0].get_text() == f"{first - 1:.1f}\n±{2**0.5:.1f}"


@pytest.mark.parametrize(("seeds", "named"), [((3,), ""), ((3, 4), ", seed 3")])
def test_a_figure_of_one_seed_of_several_names_it(seeds: tuple[int, ...], named: str) -> None:
    trajectory = [{"accurate": torch.zeros(EDGES, len(PRIMITIVES))}] * 2
    origins = [{"search": "dsara", "seed": seed} for seed in seeds]
    rows = [row for origin in origins for row in alpha_rows(origin, trajectory)]
    figure = search_figures.alphas(pd.DataFrame(rows))
    assert figure.axes[0].get_title() == f"dsara: accurate cell{named}"
