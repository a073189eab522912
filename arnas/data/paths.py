"""Where the files of the user and the public datasets are."""

from __future__ import annotations

import os
from pathlib import Path


def user_file(name: str | Path) -> Path:
    """Return where a file of the user's own is: here, or in the main checkout.

    DVC runs queued experiments in copies of the checkout that lack what git ignores, and names the
    checkout in ``DVC_ROOT``.
    """
    here, there = Path(name), Path(os.environ.get("DVC_ROOT", "."), name)
    # os.path, which finds no fault with names that are too long
    return there if not os.path.exists(here) and os.path.isfile(there) else here  # noqa: PTH110, PTH113


def user_folder(name: str | Path) -> Path:
    """Return where a folder of the user's own is, likewise; ``~`` is the home folder."""
    name = os.path.expanduser(name)  # noqa: PTH111 -- a home that is not known is no error
    here, there = Path(name), Path(os.environ.get("DVC_ROOT", "."), name)
    return there if not os.path.exists(here) and os.path.isdir(there) else here  # noqa: PTH110, PTH112


def dataset_root(root: str | None) -> Path:
    """Return the absolute path of the folder that holds the public datasets.

    It is the setting `root` of a dataset, else ``ARNAS_DATA``, else ``datasets``; ``~`` is the home
    folder. In a copy of the checkout that lacks it, it is that of the main checkout, so that
    nothing is fetched twice.
    """
    # A home that is not known stays ~, and is no error here.
    name = os.path.expanduser(root or os.environ.get("ARNAS_DATA") or "datasets")  # noqa: PTH111
    here = Path(name).absolute()
    if os.path.isdir(here):  # noqa: PTH112
        return here
    return Path(os.environ.get("DVC_ROOT") or ".", name).absolute()
