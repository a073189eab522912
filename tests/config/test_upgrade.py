"""Old names of settings are told with their new ones, and a file is brought up to date as it is."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from arnas.config.load import check_params, load_params, parse_yaml
from arnas.config.renamed import MOVED, RENAMED
from arnas.config.schema import fields_at
from arnas.config.upgrade import upgrade_file
from arnas.runtime.errors import UserError

ROOT = Path(__file__).parents[2]
NEW = (ROOT / "params.yaml").read_text()
OLD = NEW.replace("val_images:", "selection_images:").replace(
    "search_val_fraction:", "search_validation_fraction:"
)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_only_the_names_of_a_file_change(tmp_path: Path, end: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes(OLD.replace("\n", end).encode())
    lines = upgrade_file(path)
    assert path.read_bytes() == NEW.replace("\n", end).encode()
    assert lines[0] == "data.digits.selection_images is now val_images" and len(lines) == 4
    assert load_params(path) == load_params(ROOT / "params.yaml")
    assert upgrade_file(path) == []


def test_names_in_any_notation_are_found(tmp_path: Path) -> None:
    """In one line, quoted, beside text that looks like them, and through an anchor once."""
    path = tmp_path / "é.yaml"
    path.write_text(
        "# é selection_images: 3\n"
        "data: {a: &a {'selection_images': 3, path: selection_images}, b: *a}\n"
        'retrain: {selection_images: 1, again: &r {deep: *a, "x": [*a]}}\n'
    )
    assert upgrade_file(path) == ["data.b.selection_images is now val_images"]
    assert path.read_text() == (
        "# é selection_images: 3\n"
        "data: {a: &a {val_images: 3, path: selection_images}, b: *a}\n"
        'retrain: {selection_images: 1, again: &r {deep: *a, "x": [*a]}}\n'
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("data: {a: {selection_images: 1, val_images: 2}}", "a has both|keep val_images"),
        ("data: {a: 1, a: 2}", "'a' appears twice"),
        ("data: [", "not readable YAML"),
        ("data: \xff", "not readable YAML"),
    ],
)
def test_what_cannot_be_upgraded_is_left_alone(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=words):
        upgrade_file(path)
    assert path.read_bytes() == text.encode("latin-1")
    with pytest.raises(UserError, match="missing"):
        upgrade_file(tmp_path / "nowhere.yaml")


def test_an_old_name_ends_in_one_sentence_with_the_new_one() -> None:
    with pytest.raises(UserError) as caught:
        check_params(parse_yaml(OLD, "params.yaml"), "params.yaml")
    assert str(caught.value).startswith(
        "params.yaml: data.digits.selection_images is now called val_images: write that, or let "
        "`python -m arnas params upgrade FILE` write"
    )


@pytest.mark.parametrize(("old", "loss"), MOVED.items())
def test_the_new_place_of_a_setting_is_told_and_accepted(
    tmp_path: Path, old: str, loss: str
) -> None:
    *block, last = old.replace("*", "digits").split(".")
    content = parse_yaml(NEW, "params.yaml")
    content[block[0]][block[1]][last] = 3.0
    path = tmp_path / "params.yaml"
    path.write_text(before := yaml.safe_dump(content))
    with pytest.raises(UserError) as caught:
        load_params(path)
    (line,) = upgrade_file(path)
    assert str(caught.value) == f"{path}: {line}."
    assert line.startswith(f"retrain.digits.{last} is now a setting of each network's loss")
    assert path.read_text() == before and f"`loss: {loss}` in networks.<name>" in line
    del content[block[0]][block[1]][last]
    default = parse_yaml(loss, "the line")
    content["networks"]["arnas"]["loss"] = content["searches"]["dsara"]["network"]["loss"] = default
    found = check_params(content, "params.yaml").networks["arnas"].loss
    assert found.model_dump() == default


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_every_new_name_is_a_setting(old: str, new: str) -> None:
    *block, last = old.replace("data.*", "data.any.sklearn_digits").split(".")
    assert new in fields_at(tuple(block)) and last not in fields_at(tuple(block))
