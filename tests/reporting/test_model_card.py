"""The model card's head is YAML, its text says what the evaluation says, its names stay names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import assessment_cases as cases
import pytest
import yaml

from arnas.evaluation.result import EvalResult
from arnas.evaluation.statistics import wilson
from arnas.reporting.model.card import CardMeta, plain, write_model_card
from arnas.runtime.errors import UserError

META = CardMeta(
    name="arnas-cifar10",
    license="apache-2.0",
    description="A **found** architecture.",
    training="PGD-10 adversarial training.",
    dataset="CIFAR-10",
    dataset_id="uoft-cs/cifar10",
    tags=["vision", "arnas"],
    limitations=["Small images only."],
    command="python -m arnas attack --model x",
    class_names=["airplane", "car", "bird"],
)


def written(tmp_path: Path, made: EvalResult, meta: CardMeta | None = META) -> tuple[Any, str]:
    write_model_card(tmp_path / "README.md", made, meta)
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    empty, head, body = re.split(r"^---$", text, maxsplit=2, flags=re.MULTILINE)
    assert not empty
    return yaml.safe_load(head), body


def test_the_head_is_what_the_hub_reads(tmp_path: Path) -> None:
    head, _ = written(tmp_path, cases.assessment(failed=False))
    assert head["license"] == "apache-2.0"
    assert head["tags"] == ["arnas", "adversarial-robustness", "vision"]
    assert head["datasets"] == ["uoft-cs/cifar10"]
    assert head["metrics"] == ["accuracy"]
    assert head["pipeline_tag"] == "image-classification"
    (model,) = head["model-index"]
    assert model["name"] == "arnas-cifar10"
    (result,) = model["results"]
    assert result["task"]["type"] == "image-classification"
    assert result["dataset"] == {"name": "CIFAR-10", "type": "uoft-cs/cifar10", "split": "test"}
    clean, robust = result["metrics"]
    assert (clean["type"], clean["value"]) == ("accuracy", 90.0)
    assert robust["value"] == 50.0
    assert "standard, 8/255 = 0.0313725 = 8 of 255, linf" in robust["name"]
    assert "unreliable" not in robust["name"]


def test_the_sections_and_their_figures(tmp_path: Path) -> None:
    _, body = written(tmp_path, cases.assessment(failed=False, curve={"1": wilson(0, 10)}))
    headings = re.findall(r"^## (.*)$", body, re.MULTILINE)
    assert headings == [
        "Intended use",
        "Training",
        "How it was evaluated",
        "Results",
        "Checks of the evaluation",
        "Limitations",
        "How to reproduce",
    ]
    assert body.lstrip().startswith("# arnas-cifar10\n\nA **found** architecture.")
    assert "| clean | 90.00 | 59.58 to 98.21 | 10 |" in body
    assert "| after apgd_t | 60.00 | 31.27 to 83.18 | 10 |" in body
    assert "| **robust** (all attacks) | 50.00 | 23.66 to 76.34 | 10 |" in body
    assert "| robust at epsilon 1 | 0.00 | 0.00 to 27.75 | 10 |" in body
    assert "Worst class: airplane, 33.33 % robust" in body
    assert "- Small images only." in body
    assert "```sh\npython -m arnas attack --model x\n```" in body
    assert "| versions.torch | 2.13 |" in body
    assert "10 images fix the accuracy only" in body


def test_what_failed_and_warned_is_listed(tmp_path: Path) -> None:
    made = cases.assessment()
    head, body = written(tmp_path, made)
    assert "> **Unreliable:** these checks of the evaluation failed: gradient." in body
    assert "30 checks ran: 10 passed, 9 warned, 1 failed, 10 had nothing to look at." in body
    assert "- **FAIL** gradient: 12 of 64 gradients are zero. Fix: find the" in body
    assert body.count("- **WARN** ") == 9
    assert "figure 3." not in body
    assert head["model-index"][0]["results"][0]["metrics"][1]["name"].endswith("unreliable")


def test_a_card_needs_no_meta(tmp_path: Path) -> None:
    provenance = {"model": "resnet18", "data": "digits", "suite_leaves_out": "fab_t"}
    head, body = written(tmp_path, cases.assessment(failed=False, provenance=provenance), None)
    assert "license" not in head
    assert head["datasets"] == ["digits"]
    assert head["model-index"][0]["name"] == "resnet18"
    assert "# resnet18" in body
    assert "Left out beside AutoAttack's standard: fab_t." in body
    assert "Unreliable" not in body
    head, _ = written(tmp_path, cases.assessment(provenance={}), None)
    assert head["datasets"] == []


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
    made = cases.assessment(names={"square": evil}, suite=evil, provenance={"model": evil, evil: 1})
    checks = tuple(check._replace(id=evil, evidence=evil, advice=evil) for check in made.checks)
    made = EvalResult(**{**vars(made), "checks": checks})
    meta = CardMeta(name=evil, license=evil, dataset=evil, tags=[evil], class_names=[evil] * 3)
    head, body = written(tmp_path, made, meta)
    safe = evil.encode("utf-8", "replace").decode()
    assert head["model-index"][0]["name"] == safe
    assert head["license"] == safe
    assert "<script" not in body
    assert len(re.findall(r"^## ", body, re.MULTILINE)) == 6
    for row in re.findall(r"^\|.*$", body, re.MULTILINE):
        cells = re.sub(r"\\.", "", row).count("|")
        assert cells in {3, 5}


def test_plain_text_has_no_meaning_to_markdown() -> None:
    assert plain("apgd_ce on 2 images") == "apgd_ce on 2 images"
    assert plain("_a_ *b*") == r"\_a\_ \*b\*"
    assert plain("a\nb\tc") == "a b c"
    assert plain("<b>") == r"&lt;b\>"
    assert plain("[a](b)|`") == r"\[a\](b)\|\`"


def test_backticks_in_a_command_do_not_end_it(tmp_path: Path) -> None:
    _, body = written(tmp_path, cases.assessment(), CardMeta(command="echo ```x```"))
    assert "````sh\necho ```x```\n````" in body


def test_the_same_evaluation_gives_the_same_card(tmp_path: Path) -> None:
    found = []
    for _ in range(2):
        written(tmp_path, cases.assessment())
        found.append((tmp_path / "README.md").read_bytes())
    assert found[0] == found[1]


def test_an_unwritable_folder_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        write_model_card(tmp_path / "file" / "README.md", cases.assessment())
