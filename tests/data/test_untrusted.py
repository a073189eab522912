"""Files of other people: what is no file is not waited for, and what is another file is named."""

from __future__ import annotations

import errno
import io
import os
import pickle
import socket
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import refusal_of
from safetensors.torch import save as save_tensors

from arnas.data.untrusted import read_foreign, recognised

NONE: frozenset[str] = frozenset()


def refusal(path: Path, expected: frozenset[str] = NONE) -> str:
    return refusal_of(read_foreign, path, expected)


def tar_bytes() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a"))
    return stream.getvalue()


def written(write: Callable[..., None], *content: Any) -> bytes:
    stream = io.BytesIO()
    write(stream, *content)
    return stream.getvalue()


STATE = (
    b'{"_attacks_to_run": ["apgd-ce"], "path": "s.json", "_run_attacks": [], "_robust_flags": '
    b'[true], "_clean_accuracy": 0.9}'
)
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 3\n"
KINDS = {
    "empty": b"",
    "html": b"<!DOCTYPE html><html><title>Google Drive - Quota exceeded</title>",
    "lfs": POINTER,
    "autoattack state": STATE,
    "json": b'{"a": 1}',
    "gzip": b"\x1f\x8b\x08rest",
    "tar": tar_bytes(),
    "hdf5": b"\x89HDF\r\n",
    "zip": written(np.savez, np.zeros(3)),
    "npy": written(np.save, np.zeros(3)),
    "pickle": pickle.dumps([1]),
    "safetensors": save_tensors({"w": torch.zeros(2)}),
}


@pytest.mark.parametrize("name", KINDS)
def test_a_kind_is_refused_unless_it_is_expected(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a"
    path.write_bytes(KINDS[name])
    assert refusal(path).startswith(f"{path} is ")
    assert read_foreign(path, frozenset({name})) == KINDS[name]
    others = frozenset(KINDS) - {name}
    assert refusal(path, others).startswith(f"{path} is ")


@pytest.mark.parametrize(
    "page",
    [
        b"\n\n<HTML><body>",
        b"\xef\xbb\xbf<html>",
        b"<?xml version='1.0'?>\n<html>",
        b"<!-- a --><head>",
    ],
)
def test_web_pages_of_many_forms_are_recognised(page: bytes) -> None:
    found = recognised(page)
    assert found is not None and found.name == "html"


@pytest.mark.parametrize("data", [b"hello", b"<weights>", b"\x00" * 300, b"<htmlish"])
def test_what_is_not_known_is_left_alone(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a").write_bytes(data)
    assert read_foreign(tmp_path / "a", NONE) == data


@settings(max_examples=200, derandomize=True, deadline=None)
@given(length=st.integers(2, 100_000_000))
def test_the_length_of_a_header_is_not_taken_for_another_mark(length: int) -> None:
    """A safetensors file may begin with any byte, that of a pickle for one."""
    found = recognised(struct.pack("<Q", length) + b'{"w":{"dtype"')
    assert found is not None and found.name == "safetensors"


def test_a_state_of_autoattack_is_recognised_with_many_flags() -> None:
    flags = STATE.replace(b"[true]", b"[" + b"true, " * 10_000 + b"true]")
    found = recognised(flags[:4096])
    assert found is not None and found.name == "autoattack state"


def test_no_more_is_read_than_asked(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"hello" * 100)
    assert read_foreign(tmp_path / "a", NONE, most=5) == b"hello"


# What is no file


def test_what_is_no_file_is_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "pipe is a named pipe" in refusal(tmp_path / "pipe")
    assert f"{tmp_path} is a folder" in refusal(tmp_path)
    assert "/dev/zero is a device" in refusal(Path("/dev/zero"))
    assert "is missing" in refusal(tmp_path / "absent")
    (tmp_path / "file").write_bytes(b"x")
    assert "is missing" in refusal(tmp_path / "file" / "inside")
    assert "cannot be read" in refusal(tmp_path / ("x" * 5000))
    assert "cannot be read" in refusal(tmp_path / "a\0b")


def test_a_link_in_a_circle_is_named(tmp_path: Path) -> None:
    (tmp_path / "one").symlink_to(tmp_path / "two")
    (tmp_path / "two").symlink_to(tmp_path / "one")
    assert "a link that leads back to itself" in refusal(tmp_path / "one")


def test_a_link_to_a_file_is_followed(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"hello")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    assert read_foreign(tmp_path / "link", NONE) == b"hello"


def test_a_socket_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # the names of sockets are short
    with socket.socket(socket.AF_UNIX) as end:
        end.bind("a")
        assert "is a socket" in refusal(Path("a"))


def test_a_file_that_may_not_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if we are root, who may read everything."""
    (tmp_path / "a").write_bytes(b"x")

    def denied(path: str, _: int) -> int:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(os, "open", denied)
    assert "cannot be read (Permission denied): give the right" in refusal(tmp_path / "a")


def test_a_file_larger_than_the_memory_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_bytes(b"hello")
    real = os.sysconf
    monkeypatch.setattr(os, "sysconf", lambda key: 0 if key == "SC_PHYS_PAGES" else real(key))
    assert "it takes 0 GB, this machine has 0 GB" in refusal(tmp_path / "a")
