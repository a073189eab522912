"""Tiny-ImageNet-200 from its folder or straight from its zip, counted and decoded."""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from arnas.data.paths import dataset_root
from arnas.data.sources.decode import decode, strict_images
from arnas.data.sources.fetch import Remote, RequiredFile, prepare
from arnas.data.sources.raw import RawImages, SplitImages, joined
from arnas.runtime.errors import UserError, one_line

LARGEST_FILE = 2**22
"""Bytes of a file that is read at most: the images have a few thousand, the annotations half a
million."""


@dataclass(frozen=True)
class Form:
    """What the dataset consists of."""

    zip: Remote
    home: str
    folder: str = "tiny-imagenet-200"
    """The only folder of the zip."""
    classes: int = 200
    train_images: int = 500
    """Of each class."""
    test_images: int = 10_000
    """In the validation set, which serves as test set: the labels of its own were never given."""
    side: int = 64


TINY_IMAGENET = Form(
    Remote(
        "http://cs231n.stanford.edu/tiny-imagenet-200.zip",
        "tiny-imagenet-200.zip",
        "90528d7ca1a48142e341f4ef8d21d0de",
    ),
    "http://cs231n.stanford.edu/tiny-imagenet-200.zip",
)


class _Tree(NamedTuple):
    """The dataset's files, by paths with slashes relative to its folder."""

    where: str
    """Path of the settings, and of the folder or the zip."""
    names: Callable[[str], list[str]]
    """The names in a folder, none if it is not there."""
    open: Callable[[str], IO[bytes]]


def read_tiny_imagenet(where: str, root: str | None, download: bool) -> RawImages:
    """Read Tiny-ImageNet; labels are the places of the sorted WordNet ids.

    The training images of the classes are stored in turn, the test images in the order of their
    annotations.

    Raises
    ------
    UserError
        When a file is missing, too many, damaged or of another form.
    """
    form = TINY_IMAGENET
    with ExitStack() as open_files, strict_images():
        tree = _tree(where, root, download, open_files)
        wnids = _classes(tree, form)
        train = _train(tree, wnids, form)
        test = _test(tree, wnids, form)
        splits = [_decoded(tree, "train", train, form), _decoded(tree, "test", test, form)]
    return joined(splits, form.classes)


def _tree(where: str, root: str | None, download: bool, open_files: ExitStack) -> _Tree:
    """Return the files, of the folder if it is there, else of the zip, which may be fetched."""
    form = TINY_IMAGENET
    folder = dataset_root(root) / form.folder
    # os.path, which raises nothing where the folder above may not be read: prepare says so
    if os.path.isdir(folder):  # noqa: PTH112
        return _folder_tree(folder, f"{where}: {one_line(folder)}")
    if os.path.exists(folder):  # noqa: PTH110
        raise UserError(
            f"{where} is read from {one_line(folder)}, which is a file: remove it, and put the "
            f"folder or {form.zip.filename} there."
        )
    files = [RequiredFile(form.zip.filename, form.zip.md5, form.zip)]
    path = prepare(where, root, download, files, form.home) / form.zip.filename
    archive = open_files.enter_context(zipfile.ZipFile(path))
    return _zip_tree(archive, form, f"{where}: {one_line(path)}")


def _folder_tree(folder: Path, where: str) -> _Tree:
    """Return the files of an unpacked folder."""

    def names(path: str) -> list[str]:
        inside = folder / path
        try:
            return sorted(item.name for item in inside.iterdir()) if inside.is_dir() else []
        except PermissionError as error:
            raise _denied(where, path, error) from None

    return _Tree(where, names, lambda path: (folder / path).open("rb"))


def _zip_tree(archive: zipfile.ZipFile, form: Form, where: str) -> _Tree:
    """Return the files of the zip: nothing is unpacked, and members elsewhere are left alone."""
    inside: dict[str, list[str]] = {}
    for path in archive.namelist():
        # Folders have members of their own in some zips and not in others.
        parts = path.rstrip("/").split("/")
        for end in range(1, len(parts)):
            inside.setdefault("/".join(parts[:end]), []).append(parts[end])

    def names(path: str) -> list[str]:
        found = inside.get("/".join([form.folder, *path.split("/")]), [])
        return sorted(found if path.endswith("images") else set(found))

    return _Tree(where, names, lambda path: archive.open(f"{form.folder}/{path}"))


def _read(tree: _Tree, path: str) -> bytes:
    """Return the content of a file, or say what is wrong with it."""
    try:
        with tree.open(path) as stream:
            data = stream.read(LARGEST_FILE + 1)
        if len(data) > LARGEST_FILE:
            raise ValueError(f"it has more bytes than are allowed, which are {LARGEST_FILE}")
        return data
    except PermissionError as error:
        raise _denied(tree.where, path, error) from None
    except (FileNotFoundError, KeyError):
        raise _damaged(tree, path, "it is missing") from None
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise _damaged(tree, path, getattr(error, "strerror", None) or one_line(error)) from None


def _denied(where: str, path: str, error: PermissionError) -> UserError:
    """Return what to say of what the user may not read."""
    return UserError(
        f"{where}/{path} cannot be read ({error.strerror}): give the right to read it."
    )


def _damaged(tree: _Tree, path: str, reason: str) -> UserError:
    """Return what to say of a split that is not as it must be."""
    return UserError(
        f"{tree.where}/{path} is not as in Tiny-ImageNet-200 ({reason}): delete the folder "
        "tiny-imagenet-200 and put the zip in its place, or unpack the zip anew."
    )


def _lines(tree: _Tree, path: str) -> list[list[str]]:
    """Return the words of a text file's lines."""
    text = _read(tree, path).decode("utf-8", "replace")
    return [line.split() for line in text.splitlines() if line.strip()]


def _classes(tree: _Tree, form: Form) -> list[str]:
    """Return the sorted WordNet ids."""
    found = [" ".join(words) for words in _lines(tree, "wnids.txt")]
    odd = next((wnid for wnid in found if not re.fullmatch("n[0-9]{8}", wnid)), None)
    if odd is not None:
        raise _damaged(tree, "wnids.txt", f"{one_line(odd, 40)!r} is no WordNet id")
    if len(set(found)) != form.classes or len(found) != form.classes:
        raise _damaged(
            tree, "wnids.txt", f"it lists {len(set(found))} classes, needed are {form.classes}"
        )
    return sorted(found)


def _images(tree: _Tree, path: str, count: int) -> list[str]:
    """Return the paths of a folder's images, in the order of their numbers."""
    names = [name for name in tree.names(path) if name.endswith(".JPEG")]
    if len(names) != count:
        raise _damaged(tree, path, f"it has {len(names)} images, needed are {count}")
    return [f"{path}/{name}" for name in sorted(names, key=lambda name: (len(name), name))]


def _train(tree: _Tree, wnids: list[str], form: Form) -> list[tuple[str, int]]:
    """Return path and label of the training images, the classes in turn."""
    extra = [name for name in tree.names("train") if name[0] != "." and name not in wnids]
    if extra:
        raise _damaged(tree, f"train/{extra[0]}", "wnids.txt does not list it")
    of_class = [_images(tree, f"train/{wnid}/images", form.train_images) for wnid in wnids]
    return [
        (path, label) for group in zip(*of_class, strict=True) for label, path in enumerate(group)
    ]


def _test(tree: _Tree, wnids: list[str], form: Form) -> list[tuple[str, int]]:
    """Return path and label of the validation images, in the order of their annotations."""
    path = "val/val_annotations.txt"
    label = {wnid: number for number, wnid in enumerate(wnids)}
    labels: dict[str, int] = {}
    for words in _lines(tree, path):
        if len(words) < 2 or words[1] not in label or words[0] in labels:
            raise _damaged(tree, path, f"its line '{one_line(' '.join(words), 60)}' is odd")
        labels[words[0]] = label[words[1]]
    images = {image.rpartition("/")[2] for image in _images(tree, "val/images", form.test_images)}
    if images - labels.keys():
        raise _damaged(tree, path, f"it says nothing of {min(images - labels.keys())}")
    if labels.keys() - images:
        raise _damaged(tree, f"val/images/{min(labels.keys() - images)}", "it is missing")
    return [(f"val/images/{name}", number) for name, number in labels.items()]


def _decoded(tree: _Tree, split: str, images: list[tuple[str, int]], form: Form) -> SplitImages:
    """Return the images of a split; grey ones get three equal channels."""

    def check(width: int, height: int) -> None:
        if width != form.side or height != form.side:
            raise ValueError(f"it has {width}x{height} pixels, needed are {form.side}x{form.side}")

    pixels = np.empty((len(images), 3, form.side, form.side), np.uint8)
    for place, (path, _) in zip(pixels, images, strict=True):
        place[:] = decode(_read(tree, path), f"{tree.where}/{path}", check=check)
    return SplitImages(split, pixels, np.array([label for _, label in images]))
