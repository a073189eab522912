"""A folder of image files of the user's own."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from arnas.data.paths import user_folder
from arnas.data.sources.decode import decode, strict_images
from arnas.data.sources.raw import RawImages, SplitImages, joined
from arnas.data.untrusted import check_room
from arnas.runtime.errors import UserError, one_line
from arnas.runtime.files import sha256_bytes

IMG_EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""Those of torchvision's ImageFolder."""
SMALLEST_SIDE = 8
SPLIT_FOLDERS = {"train", "test", "val"}


def read_image_folder(
    where: str,
    path: str,
    image_size: int | None = None,
    grey: bool = False,
    sha256: str | None = None,
    classes: Sequence[str] = (),
    resize: int | None = None,
) -> RawImages:
    """Read a folder with a folder of images for each class, or with splits of that form.

    The splits are ``train``, ``test`` and ``val``. ``test`` is the test set, else ``val``; beside
    ``test`` it is `val`. Classes are numbered in the order of their names, or of their numbers if
    the names are numbers; a folder without images keeps its number. Within a split the
    images are stored in an order that the sha256 of their relative names decides, so that the
    first so many of them are of all classes.

    Parameters
    ----------
    where
        Path of the dataset's settings, for messages; empty if there are none.
    path, image_size, grey, sha256
        See `arnas.data.sources.registry.ImageFolderOptions`.
    classes
        Names of the folders in the order of the classes, where that is another one; a name without
        a folder keeps its number.
    resize
        Pixels that the shorter side is resized to before the centre is cut out; by default
        `image_size`.

    Raises
    ------
    UserError
        When the folder is missing or empty, its splits have other classes, or an image is unusable.
    """
    root, settings = user_folder(path), f"{where}." if where else ""
    if not os.path.isdir(root):  # noqa: PTH112 -- finds no fault with names that are too long
        kind = "that is a file" if os.path.isfile(root) else "there is no such folder"  # noqa: PTH113
        raise UserError(
            f"{settings}path is '{one_line(path)}', but {kind} (looked for {_shown(root)}): "
            "correct the path."
        )
    where = f"{where}.path: " if where else ""
    folders = _splits(where, root)
    seen: set[str] = set()
    others: list[str] = []
    listed = {split: _listed(where, folder, seen, others) for split, folder in folders.items()}
    names = list(listed[next(iter(listed))])
    for split, listing in listed.items():
        if odd := sorted(set(names) ^ set(listing)):
            raise UserError(
                f"{where}{_shown(folders[split])} and {_shown(folders['train'])} have "
                f"different classes ('{one_line(odd[0])}' is in one of them only): give both the "
                "same folders."
            )
    classes = classes or names
    if odd := sorted(set(names) - set(classes)):
        raise UserError(
            f"{where}{_shown(root)} has the folder '{one_line(odd[0])}', which is not among the "
            f"{len(classes)} classes given: add its name to them, or remove the folder."
        )
    if len(classes) < 2:
        raise UserError(
            f"{where}{_shown(root)} has one class, '{one_line(classes[0])}': needed are "
            "two folders or more."
        )
    samples = {
        split: [
            (path, label) for label, name in enumerate(classes) for path in listing.get(name, ())
        ]
        for split, listing in listed.items()
    }
    reader = _Reader(settings, root, image_size, grey, resize)
    splits = reader.read(samples)
    total = hashlib.sha256()
    for relative, of_file in sorted(reader.digests):
        total.update(relative + b"\0" + of_file.encode() + b"\n")
    digest = total.hexdigest()
    if sha256 not in {None, digest}:
        raise UserError(
            f"{settings}sha256 is {sha256}, but the images in {_shown(root)} have {digest}: "
            "restore them, or write the new value if the change is meant."
        )
    raw = joined(splits, len(classes), digest)._replace(
        classes=tuple(classes), warnings=_oddities(classes, listed, others)
    )
    return raw if len(splits) > 1 else raw._replace(split=None)


def _oddities(
    classes: Sequence[str],
    listed: Mapping[str, Mapping[str, Sequence[Path]]],
    others: Sequence[str],
) -> tuple[str, ...]:
    """Return what is odd about classes and files, in clauses."""
    found = []
    if others:
        words = one_line(", ".join(sorted(others)[:4]), 100)
        found.append(f"{len(others)} files are no images by their names and not read: {words}")
    empty = [name for name in classes if not any(part.get(name) for part in listed.values())]
    if empty:
        words = one_line(", ".join(empty[:4]), 100)
        found.append(f"{len(empty)} classes have no image and keep their number: {words}")
    if list(classes) == sorted(classes, key=_by_number) != sorted(classes):
        found.append(
            "folders whose names are numbers are in the order of the numbers, not of the text as "
            "in torchvision's ImageFolder; --classes FILE gives another order"
        )
    return tuple(found)


def _by_number(name: str) -> tuple[int, str]:
    return (int(name), name) if name.isdecimal() else (0, name)


def _splits(where: str, root: Path) -> dict[str, Path]:
    """Return the folder of each split of the user's folder; all is ``train`` if it has one."""
    beside = _folders(where, root)
    if not ("train" in beside and _folders(where, root / "train")):
        # A class may be called train, but a folder of folders with such a name is a split.
        alike = [name for name in beside if name.casefold() in SPLIT_FOLDERS]
        if odd := [name for name in alike if alike == beside or _folders(where, root / name)]:
            raise UserError(
                f"{where}{_shown(root)} has the folder '{one_line(odd[0])}', but no train "
                "with a folder for each class (train, test and val are splits, however they are "
                "written, and train is needed): name the folders train, test and val, in small "
                f"letters, or give {_shown(root / odd[0])} as the path for its images alone."
            )
        return {"train": root}
    if odd := sorted(set(beside) - SPLIT_FOLDERS):
        raise UserError(
            f"{where}{_shown(root)} has the folder '{one_line(odd[0])}' beside train: "
            "allowed are train, test and val, or a folder for each class without them."
        )
    names = {"train": "train"}
    if "test" in beside:
        names |= {"test": "test"} | ({"val": "val"} if "val" in beside else {})
    elif "val" in beside:
        names |= {"test": "val"}
    return {split: root / folder for split, folder in names.items()}


def _listed(where: str, folder: Path, seen: set[str], others: list[str]) -> dict[str, list[Path]]:
    """Return each class of a folder, in the order of their names, with the paths of its images.

    These are the classes and images that torchvision's ``ImageFolder`` lists, less hidden ones,
    and what it passes over in silence or lists twice is an error. `seen` holds the real paths of
    the folders that the walk has visited, `others` the names of files that are no images.
    """
    listing: dict[str, list[Path]] = {}
    others += [entry.name for entry in _entries(where, folder) if entry.is_file()]
    for name in _folders(where, folder):
        waiting, images = [folder / name], []
        while waiting:
            here = waiting.pop()
            _visit(where, folder, here, seen)
            inside = _entries(where, here)
            waiting += [here / entry.name for entry in inside if entry.is_dir()]
            for entry in (entry for entry in inside if entry.is_file()):
                if entry.name.lower().endswith(IMG_EXTENSIONS):
                    images.append(here / entry.name)
                else:
                    others.append(entry.name)
        listing[name] = images
    if not any(listing.values()):
        reason = (
            f"no image is in {one_line(', '.join(listing))}, allowed are the endings "
            f"{', '.join(ending[1:] for ending in IMG_EXTENSIONS)}"
            if listing
            else "it has no folder"
        )
        raise UserError(
            f"{where}{_shown(folder)} is not a folder with a folder of images for each "
            f"class ({reason}): add images."
        )
    numbered = all(name.isdecimal() for name in listing)
    return (
        dict(sorted(listing.items(), key=lambda item: _by_number(item[0]))) if numbered else listing
    )


def _visit(where: str, folder: Path, here: Path, seen: set[str]) -> None:
    """Refuse to walk where the walk has been, or above where it has begun: it would not end."""
    real = os.path.realpath(here)
    above = Path(os.path.realpath(folder)).is_relative_to(real)
    if above or real in seen:
        why = "holds this folder itself" if above else "is read under another name too"
        raise UserError(
            f"{where}{_shown(here)} leads to {one_line(real)}, which {why}: remove the link."
        )
    seen.add(real)


def _folders(where: str, folder: Path) -> list[str]:
    """Return the sorted names of the folders in a folder that are not hidden."""
    return sorted(entry.name for entry in _entries(where, folder) if entry.is_dir())


def _entries(where: str, folder: Path) -> list[os.DirEntry[str]]:
    """Return what is in a folder and not hidden: folders and files that can be read."""
    try:
        with os.scandir(folder) as found:
            entries = [entry for entry in found if entry.name[0] != "."]
        for entry in entries:
            image = entry.name.lower().endswith(IMG_EXTENSIONS)
            if entry.is_dir() or entry.is_file():
                continue
            if entry.is_symlink() and not os.path.exists(entry.path):  # noqa: PTH110
                kind = "a link to nothing"
            elif image:  # a pipe would be read for ever
                kind = "neither a file nor a folder"
            else:
                continue
            raise UserError(f"{where}{_shown(Path(entry.path))} is {kind}: remove it.")
    except OSError as error:
        raise _refused(where, folder, error) from None
    return entries


def _shown(path: Path) -> str:
    """Return a path for a message."""
    return one_line(path.absolute())


def _refused(where: str, path: Path, error: OSError) -> UserError:
    """Return what to say of what the system does not let us read."""
    return UserError(
        f"{where}{one_line(error.filename or path.absolute())} cannot be read "
        f"({error.strerror}): give the right to read it, or remove it."
    )


class _Reader:
    """Reads images of one size, and notes their digests."""

    def __init__(
        self, settings: str, root: Path, image_size: int | None, grey: bool, resize: int | None
    ) -> None:
        self.settings, self.root, self.image_size, self.grey = settings, root, image_size, grey
        self.resize = resize
        self.where = f"{settings}path: " if settings else ""
        self.digests: list[tuple[bytes, str]] = []
        self.side: int | None = None

    def read(self, samples: dict[str, list[tuple[Path, int]]]) -> list[SplitImages]:
        """Read the listed images of each split."""
        splits: list[SplitImages] = []
        with strict_images():
            for split, found in samples.items():
                mixed = sorted(
                    found, key=lambda item: hashlib.sha256(_name(item[0], self.root)).digest()
                )
                pixels = self._image(mixed[0][0])
                try:
                    check_room(len(mixed) * pixels.nbytes, "its images take")
                except ValueError as error:
                    raise UserError(
                        f"{self.settings}path is too large ({error}): lower "
                        f"{self.settings}image_size."
                    ) from None
                images = np.empty((len(mixed), *pixels.shape), np.uint8)
                images[0] = pixels
                for place, (path, _) in zip(images[1:], mixed[1:], strict=True):
                    place[:] = self._image(path)
                splits.append(SplitImages(split, images, np.array([label for _, label in mixed])))
        return splits

    def _image(self, path: Path) -> np.ndarray:
        try:
            data = path.read_bytes()
        except OSError as error:
            raise _refused(self.where, path, error) from None
        self.digests.append((_name(path, self.root), sha256_bytes(data)))
        return decode(
            data,
            f"{self.where}{_shown(path)}",
            grey=self.grey,
            check=self._square if self.image_size is None else None,
            side=self.image_size,
            resize=self.resize,
        )

    def _square(self, width: int, height: int) -> None:
        """Raise unless an image is a square like the first one."""
        if self.side is None and width == height >= SMALLEST_SIDE:
            self.side = width
        if (width, height) != (self.side, self.side):
            side = self.side
            needed = f"{side}x{side}" if side else f"squares, {SMALLEST_SIDE} or larger"
            raise ValueError(
                f"it has {width}x{height} pixels, needed are {needed}, or "
                f"{self.settings}image_size to resize all to"
            )


def _name(path: Path, root: Path) -> bytes:
    """Return the relative name of an image, which is the same on every machine."""
    return os.fsencode(path.relative_to(root).as_posix())
