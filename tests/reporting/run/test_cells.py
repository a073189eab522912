"""Drawings of cells."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import matplotlib as mpl
import pytest

from arnas.reporting.run.cells import draw_cells
from arnas.spaces.genotype import Edge, Genotype
from arnas.spaces.published import ARNAS
from arnas.spaces.registry import OPERATIONS, PRIMITIVES

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def drawing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The published genotype, drawn."""
    path = tmp_path_factory.mktemp("drawing") / "genotype.svg"
    draw_cells(path, ARNAS.genotype)
    return path


def words(path: Path) -> Counter[str]:
    """Return the texts of a drawing, line by line."""
    return Counter("".join(text.itertext()) for text in ElementTree.parse(path).iter(f"{SVG}text"))


def one_cell(*edges: Edge) -> Genotype:
    """Return a genotype of one kind whose nodes all have the same two operations."""
    return Genotype({"reduction": (edges,) * 4}, "a test")


def test_the_same_genotype_gives_the_same_bytes(drawing: Path, tmp_path: Path) -> None:
    """Also after another drawing, which might have used up names, and with a user's own style."""
    draw_cells(tmp_path / "other.svg", one_cell(Edge("skip_connect", 0), Edge("skip_connect", 1)))
    with mpl.rc_context({"font.family": "monospace", "svg.fonttype": "path"}):
        draw_cells(tmp_path / "again.svg", ARNAS.genotype)
    assert (tmp_path / "again.svg").read_bytes() == drawing.read_bytes()


def test_a_drawing_is_an_svg_without_a_date(drawing: Path) -> None:
    assert ElementTree.parse(drawing).getroot().tag == f"{SVG}svg"
    text = drawing.read_text()
    assert "date" not in text.lower()
    assert not re.search(r"20\d\d-\d\d-\d\d", text)


def test_every_cell_shows_its_inputs_its_nodes_and_its_output(drawing: Path) -> None:
    found = words(drawing)
    for kind in ("Accurate cell", "Reduction cell", "Robust cell"):
        assert found[kind] == 1
    for name in ("older", "newer", "2", "3", "4", "5", "out"):
        assert found[name] == 3
    assert found["input"] == 6


def test_cells_stand_in_the_order_of_a_network(drawing: Path, tmp_path: Path) -> None:
    """However the genotype has them."""
    titles = [text for text in words(drawing) if text.endswith(" cell")]
    assert titles == ["Accurate cell", "Reduction cell", "Robust cell"]
    turned = Genotype(dict(reversed(ARNAS.genotype.cells.items())), "a test")
    draw_cells(tmp_path / "turned.svg", turned)
    assert (tmp_path / "turned.svg").read_bytes() == drawing.read_bytes()


def test_every_operation_is_labelled(drawing: Path) -> None:
    """The published cells: 3 skips, 2 and 3 separable, 3 pools, 3 and 10 dilated ones."""
    expected = {"skip": 3, "sep 3": 2, "sep 5": 3, "avg pool 3": 3, "dil 3": 3, "dil 5": 10}
    found = words(drawing)
    assert {entry.label: found[entry.label] for entry in OPERATIONS.values()} == {
        "max pool 3": 0,
        **expected,
    }


def coloured(path: Path) -> Counter[str]:
    """Return how many arrow shafts there are of each colour."""
    fill_none = re.compile(r"fill: none; stroke: (#[0-9a-f]{6}); stroke-width: 1\.4")
    return Counter(fill_none.findall(path.read_text()))


def test_every_operation_has_an_arrow_of_its_colour(drawing: Path) -> None:
    edges = [e.primitive for c in ARNAS.genotype.cells.values() for node in c for e in node]
    assert coloured(drawing) == Counter(OPERATIONS[primitive].colour for primitive in edges)


def test_every_primitive_can_be_drawn_and_told_apart(tmp_path: Path) -> None:
    for key in ("label", "colour"):
        assert len({getattr(entry, key) for entry in OPERATIONS.values()}) == len(PRIMITIVES)
    for primitive in PRIMITIVES:
        draw_cells(tmp_path / "it.svg", one_cell(Edge(primitive, 0), Edge(primitive, 1)))
        assert words(tmp_path / "it.svg")[OPERATIONS[primitive].label] == 8
