"""Archives that lie: what they say of themselves is looked at before anything is unpacked."""

from __future__ import annotations

import io
import os
import re
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch_file_cases import equal, network, refusal, write

from arnas.models.loading import torch_files
from arnas.models.loading.torch_files import read_state_dict


def rewritten(path: Path, change: Callable[[zipfile.ZipFile, zipfile.ZipFile], None]) -> Path:
    """Write an archive anew, with what `change` puts in besides or in its place."""
    source = io.BytesIO(path.read_bytes())
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w") as new:
        change(old, new)
    return path


def copied(old: zipfile.ZipFile, new: zipfile.ZipFile) -> None:
    for entry in old.infolist():
        new.writestr(entry.filename, old.read(entry))


def unread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the test fail if anything in an archive is unpacked."""

    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("read")

    monkeypatch.setattr(zipfile.ZipFile, "read", fail)
    monkeypatch.setattr(zipfile.ZipFile, "open", fail)
    monkeypatch.setattr(torch, "load", fail)


def test_an_archive_packed_anew_is_read(tmp_path: Path) -> None:
    wanted = network().state_dict()
    path = rewritten(write(tmp_path / "a.pt", wanted), copied)
    assert equal(read_state_dict(path).tensors, dict(wanted))


def test_an_archive_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def bomb(old: zipfile.ZipFile, new: zipfile.ZipFile) -> None:
        copied(old, new)
        new.writestr("a/data/99", bytes(10**7), zipfile.ZIP_DEFLATED)

    path = rewritten(write(tmp_path / "a.pt", network().state_dict()), bomb)
    assert path.stat().st_size < 20_000
    unread(monkeypatch)
    size = path.stat().st_size
    assert re.search(rf"it has {size} bytes and claims to hold 1000\d{{4}}", refusal(path))


def test_sizes_are_believed_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One entry of the directory declares four gigabytes."""
    path = write(tmp_path / "a.pt", network().state_dict())
    data = path.read_bytes()
    place = data.rindex(b"PK\x01\x02")
    path.write_bytes(data[: place + 24] + struct.pack("<I", 0xFFFFFFF0) + data[place + 28 :])
    unread(monkeypatch)
    assert "claims to hold 42949" in refusal(path)


def test_what_the_memory_cannot_hold_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.pt", network().state_dict())
    real = os.sysconf
    monkeypatch.setattr(os, "sysconf", lambda key: 0 if key == "SC_PHYS_PAGES" else real(key))
    unread(monkeypatch)
    assert "this machine has 0 GB" in refusal(path)


@pytest.mark.parametrize("name", ["../outside", "/outside", "a/../../outside", "a\\outside"])
def test_a_path_that_leads_out_is_refused(tmp_path: Path, name: str) -> None:
    def add(old: zipfile.ZipFile, new: zipfile.ZipFile) -> None:
        copied(old, new)
        new.writestr(name, b"x")

    folder = tmp_path / "deep"
    folder.mkdir()
    message = refusal(rewritten(write(folder / "a.pt", network().state_dict()), add))
    assert "which leads out of it" in message
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.pt", "deep"]


def test_a_name_that_stands_twice_is_refused(tmp_path: Path) -> None:
    def twice(old: zipfile.ZipFile, new: zipfile.ZipFile) -> None:
        copied(old, new)
        new.writestr(old.namelist()[0], b"another")

    with pytest.warns(UserWarning, match="Duplicate name"):
        path = rewritten(write(tmp_path / "a.pt", network().state_dict()), twice)
    assert "a name stands twice" in refusal(path)


def test_values_that_are_called_a_folder_are_refused(tmp_path: Path) -> None:
    """PyTorch leaves them as its memory happens to be."""
    path = write(tmp_path / "a.pt", network().state_dict())
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        place = [entry.filename for entry in archive.infolist()].index("a/data/0")
    starts = [found.start() for found in re.finditer(b"PK\x01\x02", data)]
    data[starts[place] + 38] = 0x10
    path.write_bytes(data)
    assert "calls 'a/data/0' a folder" in refusal(path)


def test_too_many_entries_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_files, "MOST_ENTRIES", 5)
    message = refusal(write(tmp_path / "a.pt", network().state_dict()))
    assert re.search(r"an archive of \d+ files, where at most 5 are read", message)


def test_a_torchscript_program_is_refused(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(nn.Linear(2, 2)), tmp_path / "a.pt")
    assert "is a TorchScript program" in refusal(tmp_path / "a.pt")


def test_an_archive_of_something_else_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros(3))
    path = (tmp_path / "a.npz").rename(tmp_path / "a.pt")
    assert "something else than `torch.save` writes" in refusal(path)
