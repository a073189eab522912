"""Files of public datasets: verified before they are read, fetched whole or not at all."""

import multiprocessing
import os
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
import torch
from damage import Trap
from official_cases import Cifar, Server, address, md5, send, send_file, serving, use

from arnas.data.load import load_dataset
from arnas.data.paths import dataset_root
from arnas.data.sources import fetch


@pytest.fixture
def cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cifar:
    made = Cifar(tmp_path / "root")
    use(monkeypatch, "cifar10", reader=made.reader)
    return made


@pytest.fixture(scope="module")
def file_server() -> Iterator[Server]:
    with serving(send_file) as server:
        yield server


def visible(folder: Path) -> set[str]:
    paths = folder.iterdir() if folder.exists() else ()
    return {path.name for path in paths if not path.name.endswith(".lock")}


# Where


def test_the_setting_the_environment_and_the_checkouts_say_where(
    cifar: Cifar, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    main, copy = tmp_path / "main", tmp_path / "copy"
    copy.mkdir()
    monkeypatch.chdir(copy)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DVC_ROOT", str(main))
    for value, found in (("", main / "datasets"), ("/a", Path("/a")), ("~/b", tmp_path / "b")):
        monkeypatch.setenv("ARNAS_DATA", value)  # a download outlives a copy of the checkout
        assert dataset_root(None) == found
        assert dataset_root("/far") == Path("/far") and dataset_root("~/c") == tmp_path / "c"
    monkeypatch.delenv("ARNAS_DATA")
    (copy / "datasets").mkdir()
    assert dataset_root(None) == copy / "datasets"
    monkeypatch.delenv("DVC_ROOT")
    assert dataset_root("mine") == copy / "mine" and dataset_root("./~") == copy / "~"
    monkeypatch.setenv("ARNAS_DATA", str(cifar.root))
    assert cifar.load(root=None).info.name == "mine"


# What is there


def gone(cifar: Cifar) -> None:
    cifar.empty()
    cifar.root.rmdir()


def half_extracted(cifar: Cifar) -> None:
    for name in ("data_batch_5", "test_batch", "batches.meta"):
        (cifar.folder / name).unlink()


@pytest.mark.parametrize("damage", [gone, half_extracted])
def test_missing_files_are_named_with_the_way_out(
    cifar: Cifar, damage: Callable[[Cifar], None]
) -> None:
    damage(cifar)
    message = cifar.refusal()
    assert f" in {cifar.root}, and download is false: put cifar-10-python.tar.gz" in message
    assert f"(md5 {cifar.reader.tgz_md5})" in message
    assert "https://www.cs.toronto.edu/~kriz/cifar.html" in message
    assert "set ARNAS_DATA or data.mine.root" in message
    for name in cifar.names:
        assert (f"cifar-10-batches-py/{name}" in message) != (cifar.folder / name).exists()


def flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


@pytest.mark.parametrize("damage", [lambda data: data[:-100], lambda data: b"", flipped])
@pytest.mark.parametrize("name", ["data_batch_3", "test_batch", "batches.meta"])
@pytest.mark.parametrize("download", [False, True])
def test_another_file_in_its_place_is_named_and_left_alone(
    cifar: Cifar, file_server: Server, name: str, damage: Callable[[bytes], bytes], download: bool
) -> None:
    path, right = cifar.folder / name, md5(cifar.folder / name)
    path.write_bytes(damage(path.read_bytes()))
    found, size = md5(path), path.stat().st_size
    cifar.serve(file_server)
    message = cifar.refusal(download=download)
    assert f"data.mine is read from {path}, which is damaged, incomplete or another" in message
    assert f"({size} bytes with md5 {found}, needed is {right})" in message
    assert md5(path) == found


@pytest.mark.parametrize("name", ["data_batch_1", "test_batch", "batches.meta"])
def test_a_pickle_with_another_checksum_is_never_opened(
    cifar: Cifar, name: str, tmp_path: Path
) -> None:
    sprung = tmp_path / "sprung"
    (cifar.folder / name).write_bytes(pickle.dumps(Trap(sprung)))
    assert "which is damaged" in cifar.refusal()
    assert not sprung.exists()
    pickle.loads((cifar.folder / name).read_bytes())
    assert sprung.exists(), "the trap works"


def test_torchvision_checks_once_more(cifar: Cifar, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is exchanged after our check is not opened either."""
    sprung = cifar.root / "sprung"
    original = fetch.prepare

    def prepare(*arguments: Any) -> Path:
        root = original(*arguments)
        (cifar.folder / "data_batch_2").write_bytes(pickle.dumps(Trap(sprung)))
        return root

    monkeypatch.setattr("arnas.data.sources.torchvision_sets.prepare", prepare)
    assert "data.mine was changed by something else while it was read" in cifar.refusal()
    assert not sprung.exists()


def test_a_folder_or_a_file_where_the_other_is_needed(cifar: Cifar) -> None:
    path = cifar.folder / "data_batch_2"
    path.unlink()
    path.mkdir()
    message = cifar.refusal()
    assert f"{path}, which is no file: remove it" in message
    assert dict(cifar.reader.train_list)["data_batch_2"] in message
    path.rmdir()
    cifar.empty()
    cifar.folder.write_text("not a folder")
    message = cifar.refusal()
    assert f"{cifar.folder}, which is a file and must be a folder with data_batch_1" in message
    assert f"{cifar.folder}, which is a file: set ARNAS_DATA or data.mine.root" in cifar.refusal(
        root=str(cifar.folder)
    )


def test_what_may_not_be_read_is_named(cifar: Cifar, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(fetch, "calculate_md5", refuse)
    message = cifar.refusal()
    assert f"{cifar.folder / 'data_batch_1'} refuses it (Permission denied)" in message
    assert "set ARNAS_DATA or data.mine.root" in message


def test_a_name_of_two_lines_is_shown_in_one(cifar: Cifar, tmp_path: Path) -> None:
    """`refusal` looks for line breaks."""
    root = tmp_path / "two\nlines"
    assert f"in {tmp_path}/two lines, and download" in cifar.refusal(root=str(root))
    assert f"in {tmp_path}/two lines, and fetching" in cifar.refusal(root=str(root), download=True)
    cifar.root.rename(root)
    (root / cifar.folder.name / "data_batch_1").write_bytes(b"another")
    assert "two lines/cifar-10" in cifar.refusal(root=str(root))


def test_a_root_that_cannot_be_made_is_named(cifar: Cifar, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    message = cifar.refusal(root=str(tmp_path / "file/below"), download=True)
    assert str(tmp_path / "file/below") in message
    assert "Not a directory" in message


# The archive


def test_an_archive_in_the_folder_is_unpacked_without_a_network(cifar: Cifar) -> None:
    before = cifar.load()
    cifar.empty()
    cifar.served.rename(cifar.archive)
    assert torch.equal(cifar.load().images, before.images)
    assert visible(cifar.root) == {cifar.archive.name, cifar.folder.name}
    assert visible(cifar.folder) == set(cifar.names)


def test_a_damaged_archive_is_named_and_never_opened(cifar: Cifar) -> None:
    cifar.empty()
    cifar.archive.write_bytes(cifar.served.read_bytes()[:-10])
    message = cifar.refusal()
    assert f"{cifar.archive}, which is damaged" in message
    assert cifar.reader.tgz_md5 in message
    assert not cifar.folder.exists()


def test_a_half_extracted_folder_is_completed(cifar: Cifar, file_server: Server) -> None:
    before = cifar.load()
    half_extracted(cifar)
    kept = {path.name: path.stat().st_ino for path in cifar.folder.iterdir()}
    cifar.serve(file_server)
    assert torch.equal(cifar.load(download=True).images, before.images)
    after = {path.name: path.stat().st_ino for path in cifar.folder.iterdir()}
    assert kept.items() <= after.items(), "files that are there are not written again"


# The download


def test_what_is_missing_is_fetched_in_silence(
    cifar: Cifar, file_server: Server, capfd: pytest.CaptureFixture[str]
) -> None:
    before = cifar.load()
    gone(cifar)
    cifar.serve(file_server)
    assert torch.equal(cifar.load(download=True).images, before.images)
    assert visible(cifar.root) == {cifar.folder.name}
    assert visible(cifar.folder) == set(cifar.names)
    assert capfd.readouterr() == ("", "")


def pickled(handler: BaseHTTPRequestHandler, data: bytes) -> None:
    send(handler, pickle.dumps(Trap(Path("sprung"))))


def broken_off(handler: BaseHTTPRequestHandler, data: bytes) -> None:
    send(handler, data[:-500], len(data))


def no_page(handler: BaseHTTPRequestHandler, data: bytes) -> None:
    handler.send_error(404)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (pickled, "(another file came)"),
        (broken_off, "(another file came)"),
        (no_page, "(HTTP Error 404"),
        (None, "refused"),
    ],
)
def test_a_download_that_fails_leaves_nothing_and_says_the_way_out(
    cifar: Cifar, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: Any, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    gone(cifar)
    data = cifar.served.read_bytes()
    with serving(lambda handler: answer(handler, data)) as server:
        if answer is not None:  # else nothing listens at the reader's address
            cifar.reader.url = address(server, "cifar.tar.gz")
        message = cifar.refusal(download=True)
    assert f"fetching {cifar.reader.url} failed (" in message and words in message
    assert f"put cifar-10-python.tar.gz (md5 {cifar.reader.tgz_md5})" in message
    assert visible(cifar.root) == set() and not Path("sprung").exists()


def test_what_a_killed_download_left_is_neither_trusted_nor_kept(
    cifar: Cifar, file_server: Server
) -> None:
    before = cifar.load()
    cifar.empty()
    left = cifar.root / f".arnas-{cifar.archive.name}-killed"
    left.mkdir()
    (left / cifar.archive.name).write_bytes(b"half")
    cifar.serve(file_server)
    assert torch.equal(cifar.load(download=True).images, before.images)
    assert visible(cifar.root) == {cifar.folder.name}


def test_a_server_that_falls_silent_ends_in_an_error(
    cifar: Cifar, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone(cifar)
    monkeypatch.setattr(fetch, "SILENCE_SECONDS", 0.1)
    over = threading.Event()

    def stall(handler: BaseHTTPRequestHandler) -> None:
        send(handler, b"some", 1000)
        over.wait(5)

    with serving(stall) as server:
        cifar.reader.url = address(server, "cifar.tar.gz")
        start = time.monotonic()
        message = cifar.refusal(download=True)
        over.set()
    assert "timed out" in message
    assert time.monotonic() - start < 3
    assert visible(cifar.root) == set()


def prepared(options: Any, found: Any) -> None:
    """Read the dataset in a process of its own."""
    found.put(int(load_dataset("mine", options).images.long().sum()))


def test_two_processes_fetch_it_once(cifar: Cifar) -> None:
    expected = int(cifar.load().images.long().sum())
    gone(cifar)
    data = cifar.served.read_bytes()

    def slowly(handler: BaseHTTPRequestHandler) -> None:
        send(handler, data[:1000], len(data))
        time.sleep(0.1)
        handler.wfile.write(data[1000:])

    context = multiprocessing.get_context("fork")
    with serving(slowly) as server:
        cifar.reader.url = address(server, "cifar.tar.gz")
        found: Any = context.Queue()
        options = cifar.options(download=True)
        workers = [context.Process(target=prepared, args=(options, found)) for _ in range(3)]
        for worker in workers:
            worker.start()
        sums = [found.get(timeout=20) for _ in workers]
        for worker in workers:
            worker.join(20)
    assert sums == [expected] * 3
    assert server.requests == 2, "one to look for redirections, one for the file"
    assert visible(cifar.root) == {cifar.folder.name}


# Rights, and folders made for nothing


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
