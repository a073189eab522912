"""The page of an evaluation loads nothing, escapes everything and shows what the outcomes say."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from typing import Any

import assessment_cases as cases
import numpy as np
import pytest
import torch
from html_page import FORBIDDEN, Page, assert_self_contained
from PIL import Image

from arnas.evaluation.record import from_record, to_record
from arnas.evaluation.result import Check, EvalResult
from arnas.evaluation.statistics import wilson
from arnas.reporting.model.page import (
    CLASSES,
    curve_points,
    flat,
    outcome_map,
    pixels,
    png_bytes,
    render,
    write_page,
)
from arnas.reporting.style import PALETTE
from arnas.runtime.errors import UserError

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&{{ 7*7 }}"
CURVE = {"0": wilson(9, 10), "8/255": wilson(5, 10), "1": wilson(0, 10)}
PREDICTED = torch.tensor([1, 1, 2, 2, 0, 2, 0, 1, 0, 1])


def full(**changed: Any) -> tuple[str, Page]:
    made = cases.assessment(curve=CURVE, channels=3, **changed)
    html = render(made, "ARNAS", cases.images(3), PREDICTED)
    return html, Page(html)


def test_the_page_loads_nothing_and_can_be_read_aloud() -> None:
    _, page = full()
    assert_self_contained(page)
    assert all(page.alts)
    assert not page.headless
    assert set(page.labelled) <= set(page.ids)
    assert page.tags.count("svg") == 3
    assert len(page.labelled) == 6


def test_the_headline_says_that_a_check_failed() -> None:
    _, page = full()
    assert "UNRELIABLE" in page.text
    assert "Do not quote this robust accuracy: 1 check failed" in page.text
    assert "12 of 64 gradients are zero. Fix: find the detached part." in page.text
    _, page = full(failed=False)
    assert "UNRELIABLE" not in page.text
    assert "Do not quote" not in page.text


def test_figures_are_those_of_the_evaluation() -> None:
    _, page = full()
    assert "90.00 % 9 of 10 images 95 % interval 59.6 to 98.2" in page.text
    assert "50.00 % 5 of 10 images 95 % interval 23.7 to 76.3" in page.text
    assert "8/255 = 0.0313725 = 8 of 255, linf" in page.text
    rows = [[" ".join(cell.split()) for cell in row] for row in page.rows]
    found = {row[0]: row[1:6] for row in rows if len(row) == 7}
    assert found["apgd_ce"] == ["70.00 %39.7 to 89.2", "9", "2", "900", "891"]
    assert found["square"] == ["50.00 %23.7 to 76.3", "6", "1", "600", "594"]
    assert found["noneclean"][0] == "90.00 %59.6 to 98.2"


def test_every_check_is_there_grouped_by_status() -> None:
    made = cases.assessment()
    page = Page(render(made, "x"))
    for check in made.checks:
        assert check.id in page.text
        assert check.evidence in page.text
        assert (check.advice in page.text) == (check.status != "PASS")
    ids = [check.id for check in made.checks]
    order = [cell for row in page.rows for cell in row[:1] if re.sub(r"^\d+", "", cell) in ids]
    statuses = {f"{n}{check.id}": check.status for n, check in enumerate(made.checks, 1)}
    rank = ["FAIL", "WARN", "SKIP", "PASS"]
    assert len(order) == 30
    assert [statuses[cell] for cell in order] == sorted(statuses.values(), key=rank.index)


def test_the_worst_class_is_marked() -> None:
    html, page = full()
    assert html.count('<rect class="bar worst"') == 1
    assert "The worst class is 0 ." in page.text
    assert "0: 33.3 %, 100.0 % clean, the worst class." in page.text


def test_of_many_classes_the_lowest_are_drawn_and_all_are_in_the_table() -> None:
    count = 60
    outcomes = {"clean": "1" * count, "square": "1" * 35 + "0" + "1" * 24}
    made = cases.assessment(
        outcomes, labels=torch.arange(count) % 30, x_adv=torch.empty((0, 0, 0, 0))
    )
    html = render(made, "many")
    page = Page(html)
    assert html.count('<rect class="bar') == CLASSES + 2
    assert f"Shown are the {CLASSES} lowest of 30 classes." in page.text
    table = [row for row in page.rows if len(row) == 4]
    assert len(table) == 31
    assert [row[0] for row in table if "worst" in row[0]] == ["5worst"]


def test_the_curve_is_drawn_to_scale() -> None:
    made = cases.assessment(curve=CURVE | {"2/255": wilson(7, 10)})
    points = curve_points(made)
    assert [point.epsilon for point in points] == ["0", "2/255", "8/255", "1"]
    assert [point.place for point in points] == pytest.approx(
        [0, (2 / 255) ** 0.5, (8 / 255) ** 0.5, 1]
    )
    html = render(made, "curve")
    assert 'class="curve" points="34.00,24.00' in html
    assert "410.00,168.00" in html
    bare = render(cases.assessment(), "no curve")
    assert 'class="curve"' not in bare
    assert 'href="#curve"' not in bare


def decoded(url: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))))


def test_the_map_has_the_colour_of_the_first_attack_that_broke_an_image() -> None:
    found = outcome_map(cases.assessment())
    # Image by image: apgd_ce, -, -, apgd_t, apgd_ce, -, -, -, square, wrong.
    expected = ["#0072b2", "#d9e2e8", "#d9e2e8", "#d55e00", "#0072b2"]
    expected += ["#d9e2e8"] * 3 + ["#009e73", "#3a3f45"]
    strip = decoded(found.url)
    assert strip.shape == (1, 10, 3)
    assert ["#" + bytes(colour).hex() for colour in strip[0]] == expected
    assert [(name, images) for name, _, images in found.legend] == [
        ("robust under every attack", 5),
        ("misclassified without an attack", 1),
        ("apgd_ce", 2),
        ("apgd_t", 1),
        ("square", 1),
    ]
    assert PALETTE[2] == found.legend[4][1]


def test_the_images_shown_are_those_that_were_broken() -> None:
    _, page = full()
    made = cases.assessment(channels=3)
    shown = page.loaded[1:]
    assert len(shown) == 3 * 4
    x = cases.images(3)
    for number, place in enumerate((0, 3, 4, 8)):
        image, example, changed = (decoded(url) for url in shown[3 * number : 3 * number + 3])
        assert (image == (x[place] * 255).round().permute(1, 2, 0).numpy()).all()
        exact = (made.x_adv[place] * 255).permute(1, 2, 0).numpy()
        assert np.abs(example - exact).max() <= 0.5 + 1e-4
        assert set(np.unique(changed)) == {0, 255}
    assert "0 → 1" in page.text
    assert "image 8, square" in page.text
    assert "15.9 times as strong" in page.text
    assert "Adversarial example of image 3, classified as 2" in page.alts


def test_a_record_without_examples_has_a_page_without_them() -> None:
    made = from_record(to_record(cases.assessment()))
    assert len(Page(render(made, "x")).loaded) == 1
    page = Page(render(cases.assessment(channels=3), "x"))
    assert len(page.loaded) == 1 + 4 and "were not available" in page.text
    assert len(Page(render(cases.assessment(channels=2), "x")).loaded) == 1


def test_pixels_are_rounded_and_not_truncated() -> None:
    image = torch.tensor([[[0.0, 0.4999 / 255, 0.5001 / 255, 254.6 / 255, 1.2, -0.3]]])
    assert pixels(image).tolist() == [[0, 0, 1, 255, 255, 0]]
    assert pixels(torch.zeros(3, 2, 4)).shape == (2, 4, 3)
    stored = Image.open(io.BytesIO(png_bytes(pixels(image))))
    assert np.asarray(stored).tolist() == [[0, 0, 1, 255, 255, 0]]


@pytest.mark.parametrize("evil", [HOSTILE, "]]>--><svg/onload=alert(1)>", "\x00\x1b[31m\u202e"])
def test_hostile_text_stays_text(evil: str) -> None:
    names = {"square": evil, "apgd_ce": evil + "2"}
    provenance = {"model": evil, evil: evil, "nested": {evil: [evil]}, "suite_leaves_out": evil}
    made = cases.assessment(
        names=names, provenance=provenance, suite=evil, curve={"1": wilson(1, 2)}, channels=3
    )
    checks = tuple(Check(evil, check.status, evil, evil) for check in made.checks)
    made = EvalResult(**{**vars(made), "checks": checks})
    html = render(made, evil, cases.images(3), PREDICTED)
    page = Page(html)
    assert not FORBIDDEN & set(page.tags)
    assert page.tags.count("svg") == 3
    assert all(url.startswith("data:image/png;base64,") for url in page.loaded)
    for raw in ("<script", "<img src=x", "<svg/onload"):
        assert raw not in html
    assert ("{{ 7*7 }}" in page.text) == ("{{" in evil)


def test_names_that_are_no_text_do_not_stop_the_page(tmp_path: Path) -> None:
    write_page(tmp_path / "p.html", cases.assessment(), "caf\udce9")
    assert "caf?" in (tmp_path / "p.html").read_text(encoding="utf-8")


def test_the_same_evaluation_gives_the_same_page(tmp_path: Path) -> None:
    made = cases.assessment(curve=CURVE)
    write_page(tmp_path / "a.html", made, "x")
    write_page(tmp_path / "b.html", from_record(to_record(made)), "x")
    write_page(tmp_path / "c.html", made, "x")
    first, second, third = ((tmp_path / f"{name}.html").read_text() for name in "abc")
    assert first == third
    # But for the examples, which a record does not hold.
    before, between, after = re.split('<h3 style="margin-top|(?=<h2 id="checks">)', first)
    assert "The first images that were broken" in between
    assert (before + after).split() == second.split()


def test_other_images_are_refused() -> None:
    with pytest.raises(UserError, match="the examples have"):
        render(cases.assessment(), "x", cases.images(3))
    with pytest.raises(UserError, match="one class for each of the 10 images"):
        render(cases.assessment(), "x", None, PREDICTED[:3])


def test_what_a_suite_leaves_out_or_replaces_is_said() -> None:
    provenance = {"suite_leaves_out": "fab_t, square", "replaced": {"apgd_t": "the margin"}}
    page = Page(render(cases.assessment(provenance=provenance), "x"))
    assert "Left out beside AutoAttack's standard composition: fab_t, square." in page.text
    assert "Replaced: apgd_t uses the margin." in page.text


def test_provenance_is_flattened_and_sorted() -> None:
    found = flat({"b": {"z": 1, "a": None}, "a": [1, "x"], "c": {}, "d": "text"})
    assert found == [("a", '[1, "x"]'), ("b.a", "null"), ("b.z", "1"), ("c", "{}"), ("d", "text")]
