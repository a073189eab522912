"""Folders of public datasets that may not be read or written, and those made for nothing."""

import os
from pathlib import Path
from typing import Any

import pytest
from official_cases import Cifar, send_file, serving, use

from arnas.data.sources import fetch


@pytest.fixture
def cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cifar:
    made = Cifar(tmp_path / "root")
    use(monkeypatch, "cifar10", reader=made.reader)
    return made


def gone(cifar: Cifar) -> None:
    cifar.empty()
    cifar.root.rmdir()


def deny(monkeypatch: pytest.MonkeyPatch, folder: Path, right: int) -> None:
    """Take a right from us, even if we are root."""
    monkeypatch.setattr("os.access", lambda path, mode: Path(path) != folder or not mode & right)


@pytest.mark.parametrize("download", [False, True])
@pytest.mark.parametrize("inner", [False, True])
def test_a_folder_that_may_not_be_read_is_not_called_empty(
    cifar: Cifar, monkeypatch: pytest.MonkeyPatch, inner: bool, download: bool
) -> None:
    folder = cifar.folder if inner else cifar.root
    (cifar.folder / "data_batch_4").unlink()
    deny(monkeypatch, folder, os.R_OK)
    message = cifar.refusal(download=download)
    assert f"data.mine is read from {folder}, which you may not read: give the right" in message


def test_what_is_needed_in_a_read_only_folder_is_named(
    cifar: Cifar, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone(cifar)
    deny(monkeypatch, cifar.root.parent, os.W_OK)
    message = cifar.refusal(download=True)
    assert f" in {cifar.root}, and {cifar.root.parent} is read-only for you: put " in message
    assert not cifar.root.exists()
    cifar.root.mkdir()
    deny(monkeypatch, cifar.root, os.W_OK)
    message = cifar.refusal(download=True)
    assert "cifar-10-batches-py/data_batch_1, " in message
    assert f"is read-only for you: put {cifar.archive.name} (md5 {cifar.reader.tgz_md5})" in message
    cifar.served.rename(cifar.archive)
    assert f"is read-only: unpack {cifar.archive.name} there, " in cifar.refusal()
    assert list(cifar.root.iterdir()) == [cifar.archive]


def test_a_read_only_folder_with_all_files_is_enough(
    cifar: Cifar, monkeypatch: pytest.MonkeyPatch
) -> None:
    deny(monkeypatch, cifar.root, os.W_OK)
    assert cifar.load(download=True).info.name == "mine"


def test_a_folder_made_for_nothing_is_removed(cifar: Cifar, tmp_path: Path) -> None:
    cifar.refusal(root=str(tmp_path / "mis/typed"), download=True)
    assert not (tmp_path / "mis").exists()
    (tmp_path / "mine").mkdir()
    cifar.refusal(root=str(tmp_path / "mine/typed"), download=True)
    assert list((tmp_path / "mine").iterdir()) == []
    gone(cifar)
    cifar.root.mkdir()
    cifar.refusal(download=True)
    assert cifar.root.is_dir(), "another has made it"


def test_a_folder_that_another_process_removes_is_made_again(
    cifar: Cifar, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone(cifar)
    original, calls = fetch._download_missing, []

    def bring(shelf: Any, mark: str) -> None:
        calls.append(mark)
        if len(calls) == 1:
            fetch._remove_created_dirs([cifar.root], cifar.root / f"{mark}.lock")
        original(shelf, mark)

    monkeypatch.setattr(fetch, "_download_missing", bring)
    with serving(send_file) as server:
        cifar.serve(server)
        assert cifar.load(download=True).info.name == "mine"
    assert len(calls) == 2
