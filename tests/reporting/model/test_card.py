"""The model card's head is YAML, its text says what the evaluation says, its names stay names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import assessment_cases as cases
import pytest
import yaml

from arnas.evaluation.result import Check, EvalResult
from arnas.evaluation.statistics import wilson
from arnas.reporting.model.card import plain, write_model_card

KNOWN = {"model": "resnet18", "data": "digits", "suite_leaves_out": "fab_t", "seed": 0}


def written(tmp_path: Path, made: EvalResult, command: str = "x") -> tuple[Any, str]:
    write_model_card(tmp_path / "README.md", made, command)
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    empty, head, body = re.split(r"^---$", text, maxsplit=2, flags=re.MULTILINE)
    assert not empty
    return yaml.safe_load(head), body


def test_the_head_is_what_the_hub_reads(tmp_path: Path) -> None:
    head, _ = written(tmp_path, cases.assessment(failed=False, provenance=KNOWN))
    assert head["tags"] == ["arnas", "adversarial-robustness"]
    assert head["datasets"] == ["digits"]
    assert head["metrics"] == ["accuracy"]
    assert head["pipeline_tag"] == "image-classification"
    (model,) = head["model-index"]
    assert model["name"] == "resnet18"
    (result,) = model["results"]
    assert result["task"]["type"] == "image-classification"
    assert result["dataset"] == {"name": "digits", "type": "digits"}
    clean, robust = result["metrics"]
    assert (clean["type"], clean["value"]) == ("accuracy", 90.0)
    assert robust["value"] == 50.0
    assert "standard, 8/255 = 0.0313725 = 8 of 255, linf" in robust["name"]
    assert "unreliable" not in robust["name"]
    head, _ = written(tmp_path, cases.assessment(provenance={}))
    assert head["datasets"] == []


def test_the_sections_and_their_numbers(tmp_path: Path) -> None:
    made = cases.assessment(failed=False, curve={"1": wilson(0, 10)}, provenance=KNOWN)
    _, body = written(tmp_path, made, "python -m arnas attack --model x")
    assert re.findall(r"^## (.*)$", body, re.MULTILINE) == [
        "Intended use",
        "How it was evaluated",
        "Results",
        "Checks of the evaluation",
        "Limitations",
        "How to reproduce",
    ]
    for line in (
        "# resnet18",
        "| clean | 90.00 | 59.58 to 98.21 | 10 |",
        "| after apgd_t | 60.00 | 31.27 to 83.18 | 10 |",
        "| **robust** (all attacks) | 50.00 | 23.66 to 76.34 | 10 |",
        "| robust at epsilon 1 | 0.00 | 0.00 to 27.75 | 10 |",
        "Worst class: 0, 33.33 % robust",
        "Left out of AutoAttack's standard suite: fab_t.",
        "```sh\npython -m arnas attack --model x\n```",
        "| seed | 0 |",
        "10 images give wide intervals",
    ):
        assert line in body
    assert "Unreliable" not in body


def test_what_failed_and_warned_is_listed(tmp_path: Path) -> None:
    head, body = written(tmp_path, cases.assessment())
    assert "> **Unreliable:** these checks of the evaluation failed: gradient." in body
    assert "30 checks: 1 FAIL, 9 WARN, 10 SKIP, 10 PASS." in body
    assert "- **FAIL** gradient: 12 of 64 gradients are zero. Fix: find the" in body
    assert body.count("- **WARN** ") == 9
    assert "figure 3." not in body
    assert head["model-index"][0]["results"][0]["metrics"][1]["name"].endswith("unreliable")


@pytest.mark.parametrize(
    "evil",
    [
        "x\n---\nlicense: mit\n",
        "a: b # c",
        "<script>alert(1)</script>",
        "|cell| `code` [link](x) **bold** $math$ ~~x~~",
        "- - !!python/object/apply:os.system [x]",
        "\x00\x85\u2028'\"",
        "caf\udce9",
    ],
)
def test_hostile_names_change_neither_head_nor_text(tmp_path: Path, evil: str) -> None:
    provenance = {"model": evil, "data": evil, evil: 1}
    made = cases.assessment(names={"square": evil}, suite=evil, provenance=provenance)
    checks = tuple(Check(evil, check.status, evil, evil) for check in made.checks)
    head, body = written(tmp_path, EvalResult(**{**vars(made), "checks": checks}))
    safe = evil.encode("utf-8", "replace").decode()
    assert head["model-index"][0]["name"] == safe
    assert head["datasets"] == [safe]
    assert "license" not in head
    assert "<script" not in body
    assert len(re.findall(r"^## ", body, re.MULTILINE)) == 6
    for row in re.findall(r"^\|.*$", body, re.MULTILINE):
        assert re.sub(r"\\.", "", row).count("|") in {3, 5}


def test_plain_text_has_no_meaning_to_markdown() -> None:
    assert plain("apgd_ce on 2 images") == "apgd_ce on 2 images"
    assert plain("_a_ *b*") == r"\_a\_ \*b\*"
    assert plain("a\nb\tc") == "a b c"
    assert plain("<b>") == r"&lt;b\>"
    assert plain("[a](b)|`") == r"\[a\](b)\|\`"


def test_backticks_in_a_command_do_not_end_it(tmp_path: Path) -> None:
    _, body = written(tmp_path, cases.assessment(), "echo ```x```")
    assert "````sh\necho ```x```\n````" in body


def test_the_same_evaluation_gives_the_same_card(tmp_path: Path) -> None:
    assert written(tmp_path, cases.assessment()) == written(tmp_path, cases.assessment())
