"""The published numbers: well-formed, of networks that can be built, each with its protocol."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from published_source import source

from arnas.attacks.registry import ATTACKS
from arnas.attacks.threat import parse_amount
from arnas.config.load import parse_yaml
from arnas.models.registry import MODELS
from arnas.pipeline.plan import stage_versions
from arnas.reporting.published.sources import (
    PUBLISHED,
    Entry,
    Published,
    Source,
    load_published,
    size,
)
from arnas.runtime.errors import UserError

ROOT = Path(__file__).parents[3]
TEXT = PUBLISHED.read_text()
ENTRIES = load_published().entries()
RECORDED = (4, "5319cb3ffc4eb7e6")
"""Version of the stage `tables`, and the digest of what it may show."""


def entry(**changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = source()["networks"][0]
    return values | changes


def load(tmp_path: Path, *sources: Any) -> Published:
    path = tmp_path / "numbers.yaml"
    path.write_text(yaml.safe_dump(list(sources)))
    return load_published(path)


@pytest.mark.parametrize(("found", "row"), ENTRIES, ids=lambda x: getattr(x, "tag", None))
def test_every_entry_is_sound(found: Source, row: Entry) -> None:
    assert row.model in MODELS
    assert set(row.accuracy) <= {"clean", *ATTACKS}
    under = [value for attack, value in row.accuracy.items() if attack != "clean"]
    assert all(value < row.accuracy.get("clean", 100) for value in under), "robust is below clean"
    assert found.epsilon is None or 0.02 < parse_amount(found.epsilon) < 0.04
    assert "nowhere" not in found.read_in


def test_stronger_attacks_of_an_entry_leave_less() -> None:
    """Two misprints would have to agree: each row falls from FGSM to PGD to AutoAttack."""
    order = ("clean", "fgsm", "pgd20", "pgd100", "apgd_ce", "autoattack")
    for _, row in ENTRIES:
        values = [row.accuracy[attack] for attack in order if attack in row.accuracy]  # type: ignore[index]
        assert values == sorted(values, reverse=True), row


def test_no_key_stands_twice() -> None:
    """Plain YAML would silently keep the last of two values."""
    assert len(parse_yaml(TEXT, "published.yaml")) == len(load_published().sources)


def test_the_papers_own_network_has_no_numbers() -> None:
    """Their tables could not be read, so whatever stood here would be invented."""
    assert "arnas" not in {row.model for _, row in ENTRIES}


def test_what_may_be_shown_changes_with_the_version_of_the_tables() -> None:
    """Raise `tables` in versions.yaml after a change, then record both here."""
    shown = [
        (s.model_dump(exclude={"networks", "title", "read_in"}), row.model_dump())
        for s, row in ENTRIES
    ]
    digest = hashlib.sha256(repr(shown).encode()).hexdigest()[:16]
    assert (stage_versions()["tables"], digest) == RECORDED


def test_sizes_are_filled_in_from_the_registry() -> None:
    assert size("resnet18", None, None) == ("resnet18", 64, None)
    assert size("advrush", None, None) == ("advrush", 36, 20)
    assert size("advrush", 96, 23) == ("advrush", 96, 23)


REFUSED: dict[str, tuple[list[dict[str, Any]], str]] = {
    "an unknown model": ([source(networks=[entry(model="vgg")])], "model is 'vgg'"),
    "an unknown dataset": ([source(networks=[entry(dataset="mnist")])], "tiny_imagenet"),
    "an unknown attack": ([source(networks=[entry(accuracy={"pgd7": 1.0})])], "pgd7"),
    "no percentage": ([source(networks=[entry(accuracy={"clean": 100.0})])], "clean is 100"),
    "a share": ([source(networks=[entry(accuracy={"clean": 0})])], "clean is 0"),
    "text for a number": ([source(networks=[entry(accuracy={"clean": "80"})])], "valid number"),
    "no values": ([source(networks=[entry(accuracy={})])], "at least 1 item"),
    "an old key": ([source(networks=[entry(memory={"clean": 80.0})])], "memory"),
    "a value twice": (
        [source(networks=[entry(), entry(accuracy={"clean": 81.0})])],
        "two values of",
    ),
    "a value twice, size spelt out": (
        [source(networks=[entry(), entry(channels=64)])],
        "two values of cifar10 pgd resnet18 64 None clean",
    ),
    "a tag twice": ([source(), source()], "two sources have the tag 'One'"),
    "an unreadable epsilon": ([source(epsilon="eight")], "'eight' is not a distance"),
    "an unreadable step": ([source(attacks={"pgd20": {"step": "x"}})], "'x' is not a distance"),
    "an unknown key": ([source(note="x")], "note"),
    "no protocol": ([{"tag": "One"}], "title"),
    "no list": ([source(networks={"a": 1})], "valid array"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_malformed_files_are_refused_in_one_sentence(name: str, tmp_path: Path) -> None:
    sources, words = REFUSED[name]
    with pytest.raises(UserError) as caught:
        load(tmp_path, *sources)
    assert words in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_yaml_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "numbers.yaml"
    path.write_text("- [")
    with pytest.raises(UserError, match="is not readable YAML"):
        load_published(path)


def test_the_example_of_the_documentation_is_read(tmp_path: Path) -> None:
    page = (ROOT / "docs/pages/explanation/published-numbers.md").read_text()
    block = re.search(r"^```\{ \.yaml \.notest \}\n(.*?)^```$", page, re.M | re.S)
    assert block is not None
    path = tmp_path / "numbers.yaml"
    path.write_text(block[1])
    (found,) = load_published(path).sources
    assert found.networks[0].accuracy == {"clean": 80.0, "pgd20": 50.0}
    assert set(yaml.safe_load(block[1])[0]) >= Source.model_fields.keys() - {"norm"}


def test_references_can_be_looked_up() -> None:
    form = r"arXiv \d{4}\.\d{5}|github\.com/[\w-]+/[\w-]+(, issue \d+)?|public reading notes on .+"
    for found in load_published().sources:
        assert re.fullmatch(form, found.reference), found.tag
