"""CIFAR-10, CIFAR-100 and SVHN, read by torchvision from the files of their authors.

Every file is compared with torchvision's checksum before anything of it is read: CIFAR's batches
are pickles, which would run code.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from torchvision.datasets import CIFAR10, CIFAR100, SVHN

from arnas.data.sources.fetch import Remote, RequiredFile, prepare
from arnas.data.sources.raw import RawImages, SplitImages, joined
from arnas.runtime.errors import UserError, one_line

CIFAR_HOME = "https://www.cs.toronto.edu/~kriz/cifar.html"
SVHN_HOME = "http://ufldl.stanford.edu/housenumbers/"


def read_cifar10(where: str, root: str | None, download: bool) -> RawImages:
    """Read CIFAR-10."""
    return _read_cifar(where, root, download, CIFAR10)


def read_cifar100(where: str, root: str | None, download: bool) -> RawImages:
    """Read CIFAR-100 with its fine labels."""
    return _read_cifar(where, root, download, CIFAR100)


def _read_cifar(where: str, root: str | None, download: bool, reader: Any) -> RawImages:
    """Read a dataset with torchvision's class for it, which names the files and their checksums."""
    archive = Remote(reader.url, reader.filename, reader.tgz_md5)
    listed = [*reader.train_list, *reader.test_list, (reader.meta["filename"], reader.meta["md5"])]
    files = [RequiredFile(f"{reader.base_folder}/{file}", md5, archive) for file, md5 in listed]
    folder = prepare(where, root, download, files, CIFAR_HOME)
    with _unchanged(where), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the pickles are older than the present numpy
        train, test = reader(folder, train=True), reader(folder, train=False)
    splits = [
        SplitImages(split, found.data.transpose(0, 3, 1, 2), np.asarray(found.targets))
        for split, found in (("train", train), ("test", test))
    ]
    return joined(splits, len(train.classes))


def read_svhn(where: str, root: str | None, download: bool, extra: bool) -> RawImages:
    """Read SVHN's cropped digits, 0 to 9."""
    folds = ["train", *(["extra"] if extra else []), "test"]
    files = [
        RequiredFile(file, md5, Remote(url, file, md5))
        for url, file, md5 in (SVHN.split_list[fold] for fold in folds)
    ]
    folder = prepare(where, root, download, files, SVHN_HOME)
    splits = []
    for fold in folds:
        with _unchanged(where):
            found = SVHN(folder, split=fold)
        splits.append(SplitImages("test" if fold == "test" else "train", found.data, found.labels))
    return joined(splits, 10)


@contextmanager
def _unchanged(where: str) -> Iterator[None]:
    """Say so if a file no longer passes the check that torchvision makes once more."""
    try:
        yield
    except RuntimeError as error:
        raise UserError(
            f"{where} was changed by something else while it was read ({one_line(error)}): start "
            "the stage again when nobody writes there."
        ) from None
