"""Files are whole or absent, and damage is noticed when they are read."""

import errno
import hashlib
import json
import os
import stat
import warnings
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from arnas.runtime.errors import UserError
from arnas.runtime.files import (
    atomic_path,
    canonical_json,
    load_tensors,
    read_description,
    read_json,
    read_json_lines,
    save_tensors,
    sha256_bytes,
    sha256_file,
    write_bytes,
    write_json,
    write_sealed,
)
from arnas.runtime.history import growing_history

TEXT = st.text(st.characters(codec="utf-8"))
SEPARATORS = "\u0085\u2028\u2029"
LINES = st.text(st.characters(codec="utf-8", exclude_characters=SEPARATORS), max_size=5)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
examples = settings(
    max_examples=40,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def refusal(action: object, *arguments: object) -> str:
    """Return the one line of the `UserError` that a call ends in."""
    with pytest.raises(UserError) as caught:
        action(*arguments)
    message = str(caught.value)
    assert "\n" not in message
    return message


# Atomic writing


def test_a_finished_file_replaces_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with atomic_path(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old", "the old file is whole until the new one is"
        assert temporary.parent == path.parent, "a rename is atomic within one file system only"
        assert temporary.suffix == path.suffix
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("old", ["old", None])
def test_a_failure_leaves_everything_as_it_was(
    tmp_path: Path, error: type[BaseException], old: str | None
) -> None:
    path = tmp_path / "a.txt"
    if old is not None:
        path.write_text(old)
    before = {item: item.read_text() for item in tmp_path.iterdir()}
    with pytest.raises(error), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise error
    assert {item: item.read_text() for item in tmp_path.iterdir()} == before


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    write_bytes(tmp_path / "a.txt", b"old")
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(UserError, match=r"a\.txt cannot be written: No space left on device; make"):
        write_bytes(tmp_path / "a.txt", b"new")
    assert [item.read_bytes() for item in tmp_path.iterdir()] == [b"old"]


def test_bytes_reach_the_disk_before_the_name_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, order = tmp_path / "a.txt", []
    monkeypatch.setattr(os, "fsync", lambda descriptor: order.append(path.exists()))
    write_bytes(path, b"new")
    assert order == [False]


@pytest.mark.parametrize("link", [os.link, os.symlink], ids=["hard", "symbolic"])
def test_a_link_into_a_cache_is_cut_not_written_through(tmp_path: Path, link: object) -> None:
    cached, path = tmp_path / "cache", tmp_path / "a.txt"
    cached.write_text("cached")
    link(cached, path)
    write_bytes(path, b"new")
    assert cached.read_text() == "cached"
    assert path.read_text() == "new"
    assert not path.is_symlink()


def test_names_that_are_no_text_are_kept_in_json(tmp_path: Path) -> None:
    """As Python decodes the bytes of a file name that are not UTF-8."""
    name, path = os.fsdecode(b"w\xfe.pt"), tmp_path / "a.json"
    write_sealed(path, {"name": name, "é": 1})
    assert read_json(path, sealed=True) == {"name": name, "é": 1}


def test_missing_folders_are_made(tmp_path: Path) -> None:
    write_bytes(tmp_path / "one" / "two" / "a.txt", b"new")
    assert (tmp_path / "one" / "two" / "a.txt").read_bytes() == b"new"


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o007, 0o660)])
def test_files_have_the_permissions_of_the_users_umask(
    tmp_path: Path, mask: int, mode: int
) -> None:
    """Temporary files are private; a result shared by a group must not stay so."""
    before = os.umask(mask)
    try:
        write_bytes(tmp_path / "a.txt", b"new")
        assert os.umask(mask) == mask
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == mode


# Digests


def test_a_file_and_its_bytes_have_the_sha256_of_the_standards_own_example(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256_file(tmp_path / "a") == sha256_bytes(b"abc")
    assert sha256_bytes(b"abc").startswith("ba7816bf8f01cfea414140de5dae2223b00361a3")


# JSON


@given(VALUES)
@examples
def test_json_comes_back(tmp_path: Path, value: object) -> None:
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value


def test_json_is_readable_and_ends_in_a_line_break(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": 1, "a": "é"})
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == '{\n  "a": "é",\n  "b": 1\n}\n'


@given(st.dictionaries(TEXT, VALUES, max_size=4))
@examples
def test_canonical_json_knows_no_order(value: dict[str, object]) -> None:
    text = canonical_json(value)
    assert canonical_json(dict(reversed(value.items()))) == text
    assert json.loads(text) == value


def test_canonical_json_has_no_spaces() -> None:
    assert canonical_json({"b": [1, 2], "a": {"d": None, "c": 0.5}}) == (
        '{"a":{"c":0.5,"d":null},"b":[1,2]}'
    )


ROWS = st.lists(st.dictionaries(LINES, st.none() | st.floats(allow_nan=False) | LINES, max_size=3))


def write_rows(path: Path, rows: list[dict[str, object]]) -> None:
    """Write rows as a stage does."""
    with growing_history(path.with_name("state"), path) as record:
        for row in rows:
            record(row)


@given(ROWS)
@examples
def test_json_lines_come_back(tmp_path: Path, rows: list[dict[str, object]]) -> None:
    write_rows(tmp_path / "a.jsonl", rows)
    assert read_json_lines(tmp_path / "a.jsonl") == rows


@pytest.mark.parametrize("rows", [[], [{}], [{"epoch": 1, "loss": 0.5}, {"text": "a\nb\r\tc"}]])
def test_each_row_has_a_line(tmp_path: Path, rows: list[dict[str, object]]) -> None:
    write_rows(tmp_path / "a.jsonl", rows)
    assert (tmp_path / "a.jsonl").read_bytes().count(b"\n") == len(rows)
    assert read_json_lines(tmp_path / "a.jsonl") == rows


@pytest.mark.parametrize("mark", SEPARATORS)
def test_a_row_may_hold_any_line_separator(tmp_path: Path, mark: str) -> None:
    write_rows(tmp_path / "a.jsonl", [{"text": mark}])
    assert read_json_lines(tmp_path / "a.jsonl") == [{"text": mark}]


@pytest.mark.parametrize("read", [read_json, read_json_lines, load_tensors])
def test_a_missing_file_is_named_with_the_way_out(tmp_path: Path, read: object) -> None:
    path = tmp_path / "a.json"
    assert refusal(read, path) == f"{path} is missing: run the stage that makes it."


@pytest.mark.parametrize("content", [b'{"a": 1', b"\xff\xfe", b"nonsense"])
@pytest.mark.parametrize("read", [read_json, read_json_lines])
def test_damaged_json_is_named_with_the_way_out(
    tmp_path: Path, read: object, content: bytes
) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    message = refusal(read, path)
    assert message.startswith(str(path))
    assert "rerun the stage" in message


# Tensors


def some_tensors() -> dict[str, Tensor]:
    weight = torch.arange(12.0).view(3, 4)
    return {
        "weight": weight,
        "turned": (weight + 1).T,
        "column": (weight + 2)[:, 1],
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "images": torch.arange(6, dtype=torch.uint8),
        "count": torch.tensor(7),
        "mask": torch.tensor([True, False]),
        "half": torch.tensor([0.5], dtype=torch.bfloat16),
        "nothing": torch.empty(0, 3),
        "special": torch.tensor([torch.inf, -0.0, torch.nan]),
    }


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    path = tmp_path / "a.safetensors"
    save_tensors(path, some_tensors(), {"epoch": 3, "name": "é"})
    return path


def test_tensors_of_every_kind_come_back(stored: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tensors, description = load_tensors(stored)
    assert description == {"epoch": 3, "name": "é"}
    assert tensors.keys() == some_tensors().keys()
    for name, expected in some_tensors().items():
        assert tensors[name].dtype == expected.dtype
        assert tensors[name].shape == expected.shape
        assert not tensors[name].requires_grad
        assert torch.equal(tensors[name].nan_to_num(9), expected.detach().nan_to_num(9))


def test_other_programs_can_read_the_file_and_its_digest(stored: Path) -> None:
    assert torch.equal(load_file(stored)["weight"], some_tensors()["weight"])
    with safe_open(stored, "pt") as file:
        record = json.loads(file.metadata()["arnas"])
    data = stored.read_bytes()
    assert record["description"] == read_description(stored) == {"epoch": 3, "name": "é"}
    unset = data.replace(record["sha256"].encode(), b"0" * 64)
    assert record["sha256"] == hashlib.sha256(unset).hexdigest()


def test_the_same_tensors_are_the_same_bytes(stored: Path, tmp_path: Path) -> None:
    backwards = dict(reversed(some_tensors().items()))
    save_tensors(tmp_path / "b.safetensors", backwards, {"name": "é", "epoch": 3})
    assert (tmp_path / "b.safetensors").read_bytes() == stored.read_bytes()


def test_a_description_may_hold_what_looks_like_the_digest(tmp_path: Path) -> None:
    path, odd = tmp_path / "a.safetensors", {"0" * 64: '"sha256":"' + "0" * 64, "sha256": "1"}
    save_tensors(path, {"0" * 64: torch.ones(1)}, odd)
    assert load_tensors(path).description == odd


@pytest.mark.parametrize("manifest", [True, False])
def test_any_damage_is_noticed(stored: Path, manifest: bool) -> None:
    """With the manifest beside the file and without it."""
    whole = stored.read_bytes()
    if manifest:
        outputs = {str(stored): sha256_bytes(whole)}
        write_sealed(stored.with_name("manifest.json"), {"outputs": outputs})
    cut = [whole[:kept] for kept in (0, 7, 50, -1)]
    flipped = [
        whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]
        for place in (*range(0, 150, 3), 300, len(whole) - 1)
    ]
    for data in (*cut, *flipped, whole + b"\0", b"nonsense", b"\x80\x04pickle" * 9):
        stored.write_bytes(data)
        message = refusal(load_tensors, stored)
        assert message.startswith(f"{stored} is ")
        if manifest:
            assert "manifest.json records another sha256" in message


@pytest.mark.parametrize("read", [load_tensors, read_description])
@pytest.mark.parametrize("record", ["[]", "{}", '"text"', "null", '{"sha256": null}', "{"])
def test_metadata_of_another_form_are_refused(tmp_path: Path, record: str, read: object) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"weight": torch.ones(2)}, path, {"arnas": record})
    assert "a.safetensors is not a readable safetensors file" in refusal(read, path)


def test_a_foreign_file_is_read_with_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"weight": torch.ones(2)}, path, {"format": "pt"})
    with pytest.warns(UserWarning, match=r"a\.safetensors records no sha256: its content is not"):
        tensors, description = load_tensors(path)
    assert tensors["weight"].tolist() == [1, 1]
    assert description == {}


def test_a_file_of_an_earlier_version_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"weight": torch.ones(2)}, path)
    write_json(tmp_path / "a.safetensors.json", {"sha256": sha256_file(path), "description": {}})
    assert "was written by an earlier version of arnas" in refusal(load_tensors, path)


def test_tensors_that_share_memory_come_back(tmp_path: Path) -> None:
    """Tied weights are one tensor under two names."""
    weight = torch.arange(4.0)
    save_tensors(
        tmp_path / "a.safetensors", {"one": weight, "tied": weight, "part": weight[1:]}, {}
    )
    tensors = load_tensors(tmp_path / "a.safetensors").tensors
    assert torch.equal(tensors["one"], weight)
    assert torch.equal(tensors["tied"], weight)
    assert torch.equal(tensors["part"], weight[1:])
