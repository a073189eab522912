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

from arnas.data.options import Cifar10Options, Cifar100Options, SvhnOptions
from arnas.data.sources.fetch import Remote, RequiredFile, prepare
from arnas.data.sources.raw import RawImages, SplitImages, joined
from arnas.runtime.errors import UserError, one_line

CIFAR_HOME = "https://www.cs.toronto.edu/~kriz/cifar.html"
SVHN_HOME = "http://ufldl.stanford.edu/housenumbers/"


def read_cifar(options: Cifar10Options | Cifar100Options, name: str, reader: Any) -> RawImages:
    """Read CIFAR-10 or CIFAR-100 (fine labels).

    Parameters
    ----------
    options, name
        Settings and name of the dataset.
    reader
        `torchvision.datasets.CIFAR10`, `CIFAR100` or a class derived from them, which names the
        files and their checksums.

    Raises
    ------
    UserError
        When a file is missing and cannot be had, or is another one.
    """
    archive = Remote(reader.url, reader.filename, reader.tgz_md5)
    listed = [*reader.train_list, *reader.test_list, (reader.meta["filename"], reader.meta["md5"])]
    files = [RequiredFile(f"{reader.base_folder}/{file}", md5, archive) for file, md5 in listed]
    root = prepare(name, options, files, CIFAR_HOME)
    with _unchanged(name), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the pickles are older than the present numpy
        train, test = reader(root, train=True), reader(root, train=False)
    splits = [
        SplitImages(split, found.data.transpose(0, 3, 1, 2), np.asarray(found.targets))
        for split, found in (("train", train), ("test", test))
    ]
    return joined(splits, options, len(train.classes), f"data.{name}")


def read_svhn(options: SvhnOptions, name: str, reader: Any) -> RawImages:
    """Read SVHN's cropped digits, 0 to 9.

    Parameters
    ----------
    options, name
        Settings and name of the dataset.
    reader
        `torchvision.datasets.SVHN` or a class derived from it, which names the files and their
        checksums.

    Raises
    ------
    UserError
        When a file is missing and cannot be had, or is another one.
    """
    folds = ["train", *(["extra"] if options.extra else []), "test"]
    files = [
        RequiredFile(file, md5, Remote(url, file, md5))
        for url, file, md5 in (reader.split_list[fold] for fold in folds)
    ]
    root = prepare(name, options, files, SVHN_HOME)
    splits = []
    for fold in folds:
        with _unchanged(name):
            found = reader(root, split=fold)
        splits.append(SplitImages("test" if fold == "test" else "train", found.data, found.labels))
    return joined(splits, options, 10, f"data.{name}")


@contextmanager
def _unchanged(name: str) -> Iterator[None]:
    """Say so if a file no longer passes the check that torchvision makes once more."""
    try:
        yield
    except RuntimeError as error:
        raise UserError(
            f"data.{name} was changed by something else while it was read ({one_line(error)}): "
            "start the stage again when nobody writes there."
        ) from None
