"""The published cells, written out a second time."""

from __future__ import annotations

from arnas.spaces.published import ARNAS, GENOTYPES

EXPECTED = {
    "accurate": [
        [("skip_connect", 0), ("skip_connect", 1)],
        [("sep_conv_5x5", 0), ("sep_conv_3x3", 1)],
        [("sep_conv_5x5", 3), ("sep_conv_3x3", 1)],
        [("sep_conv_5x5", 4), ("skip_connect", 0)],
    ],
    "reduction": [
        [("avg_pool_3x3", 1), ("avg_pool_3x3", 0)],
        [("dil_conv_5x5", 2), ("avg_pool_3x3", 0)],
        [("dil_conv_5x5", 3), ("dil_conv_5x5", 2)],
        [("dil_conv_5x5", 4), ("dil_conv_5x5", 3)],
    ],
    "robust": [
        [("dil_conv_5x5", 0), ("dil_conv_5x5", 1)],
        [("dil_conv_5x5", 1), ("dil_conv_5x5", 2)],
        [("dil_conv_3x3", 3), ("dil_conv_5x5", 2)],
        [("dil_conv_3x3", 4), ("dil_conv_3x3", 3)],
    ],
}


def test_arnas_cells() -> None:
    found = {
        kind: [[tuple(edge) for edge in node] for node in cell]
        for kind, cell in ARNAS.genotype.cells.items()
    }
    assert found == EXPECTED


def test_arnas_layout_and_citation() -> None:
    assert ARNAS.space.kinds == ["accurate", "accurate", "robust"]
    assert ARNAS.space.widths == [1, 2, 2]
    assert (ARNAS.channels, ARNAS.cells) == (64, 20)
    assert "2405.05502" in ARNAS.genotype.origin


def test_every_entry_keeps_two_inputs_a_node_and_fits_its_space() -> None:
    assert GENOTYPES["arnas"] is ARNAS
    for entry in GENOTYPES.values():
        assert set(entry.space.searched_kinds()) <= set(entry.genotype.cells)
        for cell in entry.genotype.cells.values():
            for node in cell:
                assert len({edge.state for edge in node}) == len(node) == 2
