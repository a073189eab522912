"""What others read of an evaluation, read back with their own readers."""

from __future__ import annotations

import io
import re
from pathlib import Path
from xml.etree import ElementTree as ET

import assessment_cases as cases
import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from torch import Tensor, nn

from arnas.evaluation.predict import predict
from arnas.evaluation.record import from_record, to_record
from arnas.evaluation.result import Check, EvalResult
from arnas.reporting.model.files import (
    as_table,
    export_examples,
    gate,
    recount_rounded,
    write_junit,
)
from arnas.runtime.errors import UserError

ALLOWED = {
    "testsuites": ({"name", "tests", "failures", "errors", "time", "disabled"}, {"testsuite"}),
    "testsuite": (
        {"name", "tests", "failures", "errors", "skipped", "time", "timestamp", "hostname", "id"},
        {"properties", "testcase", "system-out", "system-err"},
    ),
    "properties": (set(), {"property"}),
    "property": ({"name", "value"}, set()),
    "testcase": (
        {"name", "classname", "assertions", "time", "status"},
        {"skipped", "error", "failure", "system-out", "system-err"},
    ),
    "failure": ({"type", "message"}, set()),
    "skipped": ({"message"}, set()),
    "system-out": (set(), set()),
}
"""Element to its attributes and children in the schema of Jenkins."""


def junit(path: Path) -> ET.Element:
    root = ET.fromstring(path.read_bytes())
    for element in root.iter():
        attributes, children = ALLOWED[element.tag]
        assert set(element.attrib) <= attributes
        assert {child.tag for child in element} <= children
    return root


@pytest.mark.parametrize(
    ("failed", "fail_under", "allowed", "expected"),
    [
        (False, None, False, None),
        (False, 50, False, None),
        (False, 0, False, None),
        (False, 50.01, False, r"50.00 % \(5 of 10 images\), which is below 50.01 %"),
        (False, 100, False, "below 100 %"),
        (True, None, False, "unreliable, because these checks failed: gradient"),
        (True, 10, False, "unreliable"),
        (True, 10, True, None),
        (True, 60, True, "below 60 %"),
    ],
)
def test_the_gate(failed: bool, fail_under: float | None, allowed: bool, expected: str) -> None:
    made = cases.assessment(failed=failed)
    found = gate(made, fail_under, allow_flagged=allowed)
    if expected is None:
        assert found is None
    else:
        assert found is not None
        assert re.search(expected, found)


@pytest.mark.parametrize("value", [-1, 101, float("nan"), float("inf"), 0.4])
def test_the_gate_takes_a_percentage(value: float) -> None:
    with pytest.raises(UserError, match="1 to 100 percent") as caught:
        gate(cases.assessment(), value)
    assert ("write 40 if a share is meant" in str(caught.value)) == (value == 0.4)


def test_junit_counts_what_it_holds(tmp_path: Path) -> None:
    made = cases.assessment()
    write_junit(tmp_path / "j.xml", made, 40)
    root = junit(tmp_path / "j.xml")
    suite = root[0]
    cases_found = suite.findall("testcase")
    assert len(cases_found) == 31 == int(suite.attrib["tests"]) == int(root.attrib["tests"])
    assert len(suite.findall("testcase/failure")) == 2 == int(suite.attrib["failures"])
    assert len(suite.findall("testcase/skipped")) == 10 == int(suite.attrib["skipped"])
    assert [case.attrib["name"] for case in cases_found[:-1]] == [c.id for c in made.checks]
    last = cases_found[-1]
    assert last.attrib == {
        "classname": "arnas.gate",
        "name": "no check failed and robust accuracy is at least 40 percent",
    }
    failure = last.find("failure")
    assert failure is not None
    assert "unreliable" in failure.attrib["message"]
    properties = {p.attrib["name"]: p.attrib["value"] for p in suite.iter("property")}
    assert properties["robust accuracy"] == "50.00 % [23.66, 76.34]"
    write_junit(tmp_path / "good.xml", cases.assessment(failed=False), 50)
    assert junit(tmp_path / "good.xml").attrib["failures"] == "0"


def test_a_warning_passes_and_says_so(tmp_path: Path) -> None:
    write_junit(tmp_path / "j.xml", cases.assessment())
    warned = junit(tmp_path / "j.xml").find(".//testcase[@name='check_1']")
    assert warned is not None
    assert [child.tag for child in warned] == ["system-out"]
    assert warned[0].text == "WARN: figure 1. Fix: advice 1."


def test_every_text_makes_valid_xml(tmp_path: Path) -> None:
    every = "".join(map(chr, [*range(0x300), 0xD800, 0xDFFF, 0xFFFE, 0xFFFF, 0x1F600]))
    check = Check(every, "FAIL", every, "]]>" + every)
    made = cases.assessment(checks=(check, check._replace(status="SKIP")), suite=every)
    write_junit(tmp_path / "j.xml", made, 40)
    found = junit(tmp_path / "j.xml").find(".//testcase")
    assert found is not None
    assert "<&" not in found.attrib["name"]
    assert "\ufffd" in found.attrib["name"]
    assert "!\"#$%&'()" in found.attrib["name"]
    assert "\U0001f600" in found.attrib["name"]


def shown(made: EvalResult, title: str = "") -> str:
    console = Console(file=io.StringIO(), width=160, color_system=None)
    console.print(as_table(made, title))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    return str(text)


def test_the_table_for_a_terminal() -> None:
    text = shown(cases.assessment(), "ARNAS on digits")
    lines = text.splitlines()
    assert "ARNAS on digits" in lines[0]
    assert "standard, 8/255 = 0.0313725 = 8 of 255, linf, 10 images" in text
    square = next(line for line in lines if "square" in line)
    assert [cell.strip() for cell in square.split("│")[1:-1]] == [
        "square",
        "50.00 %",
        "23.66 to 76.34",
        "6",
        "1",
        "1,194",
    ]
    assert "robust, unreliable" in text
    assert "30 checks: 1 failed, 9 warned; UNRELIABLE, because these failed: gradient" in text
    assert "unreliable" not in shown(cases.assessment(failed=False)).lower()


def test_square_brackets_in_the_table_are_no_markup() -> None:
    text = shown(cases.assessment(names={"square": "[red]x[/nope]"}, suite="[bold]"), "[/x]")
    assert "[red]x[/nope]" in text
    assert "[bold]" in text
    assert "[/x]" in text


class Linear(nn.Module):
    """Class 1 if the mean pixel exceeds a threshold; exact in float64."""

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.threshold = nn.Parameter(torch.tensor([threshold], dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        score = x.double().mean((1, 2, 3)) - self.threshold
        return torch.stack([-score, score], dim=1)


def rounding_case(epsilon: float, norm: str = "linf") -> tuple[EvalResult, Tensor]:
    """Return four grey images of 100 levels of class 0, which attacks have pushed up."""
    x = torch.full((4, 1, 2, 2), 100 / 255)
    # Above the threshold of 104.2 levels; rounded: 104, below, and 105, above; 3 is robust.
    levels = [104.4, 104.6, 107.9, 100.0]
    x_adv = torch.stack([torch.full((1, 2, 2), level / 255) for level in levels])
    made = cases.assessment(
        {"clean": "1111", "square": "0001"},
        labels=torch.zeros(4, dtype=torch.int64),
        x_adv=x_adv,
        norm=norm,
        epsilon=epsilon,
    )
    return made, x


def test_rounded_examples_are_classified_again() -> None:
    made, x = rounding_case(7.95 / 255)
    model = Linear(104.2 / 255)
    found = recount_rounded(model, made, x, 3)
    # Image 3 is robust, and image 0 again, because 104.4 levels are rounded to 104.
    assert (found.accuracy.correct, found.accuracy.n) == (2, 4)
    assert found.outside == 1
    assert found.farthest == pytest.approx(8 / 255, abs=1e-6)
    assert recount_rounded(model, made, x, 100) == found


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_the_distance_is_in_the_norm_of_the_threat(norm: str) -> None:
    made, x = rounding_case(0.05, norm)
    found = recount_rounded(Linear(104.2 / 255), made, x, 4)
    lengths = [level * (2 if norm == "l2" else 4) / 255 for level in (4, 5, 8)]
    assert found.farthest == pytest.approx(lengths[-1], rel=1e-5)
    assert found.outside == sum(value > 0.05 for value in lengths)


def test_the_recount_leaves_the_model_alone_and_is_in_evaluation_mode() -> None:
    made, x = rounding_case(8 / 255)
    model = nn.Sequential(nn.Dropout(0.99), Linear(104.2 / 255)).train()
    first = recount_rounded(model, made, x, 2)
    assert first.accuracy.correct == 2
    assert model.training and model[0].training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert predict(model, made.x_adv, 2).tolist() == [1, 1, 1, 0]


def test_nan_is_no_correct_answer() -> None:
    made, x = rounding_case(8 / 255)
    assert recount_rounded(Linear(float("nan")), made, x, 4).accuracy.correct == 0


def test_a_set_without_broken_images_is_counted() -> None:
    made = cases.assessment({"clean": "1" * 10, "square": "1" * 10})
    found = recount_rounded(Linear(2.0), made, cases.images(), 10)
    assert (found.outside, found.farthest) == (0, 0.0)
    assert found.accuracy.correct == int((made.labels == 0).sum())


def test_exported_examples_are_read_back(tmp_path: Path) -> None:
    made, x = cases.assessment(channels=3), cases.images(3)
    predicted = torch.tensor([1, 1, 2, 2, 0, 2, 0, 1, 0, 1])
    written = export_examples(tmp_path / "out", made, x, predicted)
    names = ["examples.npz", "0_0_1.png", "3_0_2.png", "4_1_0.png", "8_2_0.png"]
    assert [path.name for path in written] == names
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(names)
    with np.load(written[0], allow_pickle=False) as arrays:
        assert set(arrays) == {"x_adv", "x", "y", "outcomes", "attacks"}
        assert arrays["x_adv"].dtype == np.float32
        assert (arrays["x_adv"] == made.x_adv.numpy()).all()
        assert (arrays["x"] == x.numpy()).all()
        assert arrays["y"].tolist() == list(cases.LABELS)
        assert arrays["attacks"].tolist() == list(cases.OUTCOMES)
        rows = ["".join(map(str, row)) for row in arrays["outcomes"]]
        assert rows == list(cases.OUTCOMES.values())
    levels = np.asarray(Image.open(written[3])).astype(float)
    exact = 255 * made.x_adv[4].permute(1, 2, 0).numpy()
    assert np.abs(levels - exact).max() < 0.501
    for name in ("7_1_2.png", "mine.png"):  # of an earlier evaluation, and of the user
        written[1].with_name(name).write_bytes(b"")
    export_examples(tmp_path / "out", made, x, predicted)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted([*names, "mine.png"])


def test_exported_bytes_are_the_same_each_time(tmp_path: Path) -> None:
    made, x = cases.assessment(), cases.images()
    for name in ("a.npz", "b.npz"):
        assert export_examples(tmp_path / name, made, x) == [tmp_path / name]
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert b"1980" not in (tmp_path / "a.npz").read_bytes()


def test_images_of_two_channels_are_exported_as_arrays_only(tmp_path: Path) -> None:
    written = export_examples(tmp_path, cases.assessment(channels=2), cases.images(2))
    assert [path.name for path in written] == ["examples.npz"]


def test_what_cannot_be_exported_is_refused(tmp_path: Path) -> None:
    made = cases.assessment()
    with pytest.raises(UserError, match="holds no examples"):
        export_examples(tmp_path, from_record(to_record(made)), cases.images())
    with pytest.raises(UserError, match="the examples have"):
        export_examples(tmp_path, made, cases.images(3))
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        export_examples(tmp_path / "file" / "out", made, cases.images())
