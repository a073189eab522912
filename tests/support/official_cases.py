"""Tiny datasets in the files of the real ones, with readers that know their checksums."""

from __future__ import annotations

import hashlib
import pickle
import tarfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import numpy as np
import pytest
import scipy.io
from refusals import refusal_of
from torchvision.datasets import CIFAR10, CIFAR100, SVHN

from arnas.data.load import load_dataset
from arnas.data.options import DatasetOptions
from arnas.data.sources.registry import Cifar10Options, Cifar100Options, SvhnOptions
from arnas.data.splits import Splits

SIZES = {"val_images": 10, "download": False}


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def pixels(seed: int, count: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


def use(monkeypatch: pytest.MonkeyPatch, source: str, reader: Any) -> None:
    """Let a source read with another class than torchvision's."""
    monkeypatch.setattr(f"arnas.data.sources.torchvision_sets.{source.upper()}", reader)


def refusal(options: DatasetOptions) -> str:
    """Return the one line that reading the dataset `mine` ends in."""
    return refusal_of(load_dataset, "mine", options)


# A server


class Server(ThreadingHTTPServer):
    """Serves one file, in a way that a test chooses."""

    daemon_threads = True
    answer: Callable[[BaseHTTPRequestHandler], None]
    requests = 0


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.server.requests += 1  # type: ignore[attr-defined]
        self.server.answer(self)  # type: ignore[attr-defined]

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def serving(answer: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as server:
        server.answer = answer
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def address(server: Server, path: Path | str) -> str:
    return f"http://127.0.0.1:{server.server_address[1]}/{quote(str(path))}"


def send(handler: BaseHTTPRequestHandler, data: bytes, length: int | None = None) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(data) if length is None else length))
    handler.end_headers()
    handler.wfile.write(data)


def send_file(handler: BaseHTTPRequestHandler) -> None:
    """Serve the file whose absolute path is asked for."""
    send(handler, Path("/", unquote(handler.path).lstrip("/")).read_bytes())


# CIFAR


def write_batch(path: Path, images: np.ndarray, labels: list[int], key: str) -> None:
    """Write a batch as the authors did: rows of 3,072 bytes, channel by channel."""
    content = {"batch_label": path.name, "data": images.reshape(len(images), -1), key: labels}
    content["filenames"] = [f"{number}.png" for number in range(len(images))]
    if key == "fine_labels":
        content["coarse_labels"] = [99] * len(labels)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content, protocol=2))


class Cifar:
    """A tiny CIFAR-10 or CIFAR-100: 60 training and 20 test images of ten classes."""

    def __init__(self, root: Path, original: Any = CIFAR10) -> None:
        self.root, self.folder = root, root / original.base_folder
        fine = original is CIFAR100
        key = "fine_labels" if fine else "labels"
        self.train, self.test = pixels(1, 60, 3, 32, 32), pixels(2, 20, 3, 32, 32)
        self.train_labels = np.random.default_rng(3).permutation(np.arange(60) % 10)
        self.test_labels = np.random.default_rng(4).permutation(np.arange(20) % 10)
        names = [name for name, _ in original.train_list]
        blocks = np.split(np.arange(60), len(names))
        for name, block in zip(names, blocks, strict=True):
            labels = self.train_labels[block].tolist()
            write_batch(self.folder / name, self.train[block], labels, key)
        (test,) = [name for name, _ in original.test_list]
        write_batch(self.folder / test, self.test, self.test_labels.tolist(), key)
        names_of_classes = [f"class {number}" for number in range(10)]
        meta = self.folder / original.meta["filename"]
        meta.write_bytes(pickle.dumps({original.meta["key"]: names_of_classes}, protocol=2))
        self.names = [*names, test, meta.name]
        self.archive = root / original.filename
        with tarfile.open(self.archive, "w:gz") as archive:
            archive.add(self.folder, original.base_folder)
        self.reader: Any = type(
            "Tiny" + original.__name__,
            (original,),
            {
                "train_list": [[name, md5(self.folder / name)] for name in names],
                "test_list": [[test, md5(self.folder / test)]],
                "meta": {**original.meta, "md5": md5(meta)},
                "tgz_md5": md5(self.archive),
                "url": "http://127.0.0.1:9/nothing",
            },
        )
        self.source = "cifar100" if fine else "cifar10"
        self.served = root.parent / f"served {root.name}" / self.archive.name
        self.served.parent.mkdir()
        self.archive.rename(self.served)

    def options(self, **changes: Any) -> Cifar10Options | Cifar100Options:
        kind = Cifar100Options if self.source == "cifar100" else Cifar10Options
        settings = {**SIZES, "source": self.source, "root": str(self.root), **changes}
        return kind(**settings)

    def load(self, **changes: Any) -> Splits:
        return load_dataset("mine", self.options(**changes))

    def refusal(self, **changes: Any) -> str:
        return refusal(self.options(**changes))

    def serve(self, server: Server) -> None:
        """Let the archive be fetched from a server that sends files."""
        self.reader.url = address(server, self.served)

    def empty(self) -> None:
        """Leave nothing of the dataset in its folder."""
        for path in self.folder.iterdir():
            path.unlink()
        self.folder.rmdir()


# SVHN


COUNTS = {"train": 60, "test": 20, "extra": 30}


class Svhn:
    """A tiny SVHN: 60, 20 and 30 images; label 10 is the digit 0, as in the real files."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)
        self.images: dict[str, np.ndarray] = {}
        self.labels: dict[str, np.ndarray] = {}
        listed = {}
        for number, (fold, count) in enumerate(COUNTS.items()):
            self.images[fold] = pixels(number, count, 32, 32, 3)
            self.labels[fold] = 1 + np.random.default_rng(number).permutation(np.arange(count) % 10)
            path = root / SVHN.split_list[fold][1]
            stored = self.images[fold].transpose(1, 2, 3, 0)
            scipy.io.savemat(path, {"X": stored, "y": self.labels[fold][:, None].astype(np.uint8)})
            listed[fold] = ["http://127.0.0.1:9/nothing", path.name, md5(path)]
        self.reader: Any = type("TinySVHN", (SVHN,), {"split_list": listed})

    def options(self, **changes: Any) -> SvhnOptions:
        return SvhnOptions(**{**SIZES, "source": "svhn", "root": str(self.root), **changes})

    def load(self, **changes: Any) -> Splits:
        return load_dataset("mine", self.options(**changes))
