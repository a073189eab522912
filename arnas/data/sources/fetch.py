"""The files of public datasets: where they are, whether they are whole, and how they get there.

Nothing is read before its checksum has passed, nothing of the user's is overwritten, and what is
fetched appears under its name only when it is whole.
"""

from __future__ import annotations

import http.client
import io
import os
import shutil
import socket
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from filelock import FileLock
from torchvision.datasets.utils import calculate_md5, download_url

from arnas.data.paths import dataset_root
from arnas.runtime.errors import UserError, one_line

SILENCE_SECONDS = 30.0
"""A server that sends nothing for so long has failed."""


@dataclass(frozen=True)
class Remote:
    """A file that the authors of a dataset offer."""

    url: str
    filename: str
    """Its name below the root."""
    md5: str


@dataclass(frozen=True)
class RequiredFile:
    """A file that a reader needs."""

    path: str
    """Relative to the root, with slashes."""
    md5: str
    remote: Remote
    """Where it comes from: a tar archive that has it under the same path, or the file itself."""


@dataclass(frozen=True)
class DatasetFiles:
    """A dataset's files in their folder."""

    where: str
    """Path of the dataset's settings, for messages."""
    root: Path
    files: tuple[RequiredFile, ...]
    home: str
    download: bool

    def missing(self) -> list[RequiredFile]:
        """Return which of the files are not there; one that is another file is an error."""
        if os.path.lexists(self.root) and not self.root.is_dir():
            raise UserError(
                f"{self.where} is read from {one_line(self.root)}, which is a file: set ARNAS_DATA "
                f"or {self.where}.root to a folder."
            )
        absent = []
        for file in self.files:
            path = self.root / file.path
            if os.path.lexists(path):
                self.check(path, file.md5)
            elif os.path.lexists(path.parent) and not path.parent.is_dir():
                raise UserError(
                    f"{self.where} is read from {one_line(path.parent)}, which is a file and must "
                    f"be a folder with {path.name} (md5 {file.md5}, see {self.home}): remove it, "
                    "and the next run makes the folder."
                )
            else:
                self.check_right(path.parent)
                absent.append(file)
        return absent

    def check_right(self, folder: Path) -> None:
        """Raise if there is a folder that may not be looked into: its files seem to be missing."""
        for place in (self.root, folder):
            if os.path.isdir(place) and not os.access(place, os.R_OK | os.X_OK):  # noqa: PTH112
                raise UserError(
                    f"{self.where} is read from {one_line(place)}, which you may not read: give the"
                    f" right to read it, or set ARNAS_DATA or {self.where}.root to another folder."
                )

    def check_room(self, lacking: list[RequiredFile]) -> None:
        """Raise if the folder, or what it would be made in, may not be written."""
        place = next(path for path in (self.root, *self.root.parents) if os.path.lexists(path))
        if not place.is_dir() or os.access(place, os.W_OK | os.X_OK):
            return
        remote = lacking[0].remote
        if os.path.lexists(self.root / remote.filename):
            raise UserError(
                f"{self.where} needs {', '.join(file.path for file in lacking)} in "
                f"{one_line(self.root)}, but {one_line(place)} is read-only: unpack "
                f"{remote.filename} there, give the right to write, or set ARNAS_DATA or "
                f"{self.where}.root to another folder."
            )
        raise self.give_up(lacking, f"{one_line(place)} is read-only for you")

    def check(self, path: Path, md5: str) -> None:
        """Raise unless there is a file with that checksum."""
        if not path.is_file():
            raise UserError(
                f"{self.where} is read from {one_line(path)}, which is no file: remove it, and the "
                f"next run fetches the file, or put it there yourself (md5 {md5}, see {self.home})."
            )
        found = calculate_md5(path)
        if found != md5:
            raise UserError(
                f"{self.where} is read from {one_line(path)}, which is damaged, incomplete or "
                f"another file ({path.stat().st_size} bytes with md5 {found}, needed is {md5}): "
                f"delete it, and the next run fetches it, or replace it by that of {self.home}."
            )

    def give_up(self, lacking: list[RequiredFile], reason: str) -> UserError:
        """Return the error for files that cannot be had."""
        remotes = dict.fromkeys(file.remote for file in lacking)
        sources = " and ".join(f"{remote.filename} (md5 {remote.md5})" for remote in remotes)
        return UserError(
            f"{self.where} needs {', '.join(file.path for file in lacking)} in "
            f"{one_line(self.root)}, and {reason}: put {sources} from {self.home} there, "
            f"or set ARNAS_DATA or {self.where}.root to the folder that has the files."
        )


def prepare(
    where: str, root: str | None, download: bool, files: Sequence[RequiredFile], home: str
) -> Path:
    """Return the folder that has every one of the files, verified; fetch those that are missing.

    Two processes may prepare the same dataset at the same time: one waits for the other.

    Parameters
    ----------
    where
        Path of the dataset's settings, `root` and `download` being two of them.
    home
        Address of the dataset's page, for messages.

    Raises
    ------
    UserError
        When a file is missing and cannot be had, is damaged, or is in the way.
    """
    folder = dataset_root(root)
    dataset = DatasetFiles(where, folder, tuple(files), home, download)
    with _explained(dataset):
        lacking = dataset.missing()
        here = any(os.path.lexists(folder / file.remote.filename) for file in lacking)
        if lacking and not (download or here):
            raise dataset.give_up(lacking, "download is false")
        if lacking:
            dataset.check_room(lacking)
            _complete(dataset, mark=f".arnas-{lacking[0].remote.filename}")
    return folder


def _complete(dataset: DatasetFiles, mark: str) -> None:
    """Bring the files that are missing; `mark` begins the names of what lies beside them."""
    made = [path for path in (dataset.root, *dataset.root.parents) if not os.path.lexists(path)]
    dataset.root.mkdir(parents=True, exist_ok=True)
    lock = dataset.root / f"{mark}.lock"
    try:
        with FileLock(lock):
            try:
                _download_missing(dataset, mark)
            except (OSError, UserError):
                _remove_created_dirs(made, lock)
                raise
    except FileNotFoundError:
        if os.path.lexists(dataset.root):
            raise
        # Another process had made the folder, failed, and removed it while we waited.
        _complete(dataset, mark)


def _download_missing(dataset: DatasetFiles, mark: str) -> None:
    """Bring the files that are missing; no other process does so now."""
    for left in dataset.root.glob(f"{mark}-*"):  # by a process that was killed
        shutil.rmtree(left, ignore_errors=True)
    while lacking := dataset.missing():
        remote = lacking[0].remote
        with TemporaryDirectory(dir=dataset.root, prefix=f"{mark}-") as name:
            source = _fetched(dataset, remote, lacking, Path(name))
            _move(dataset, source, remote, lacking, Path(name, "new"))


def _remove_created_dirs(made: list[Path], lock: Path) -> None:
    """Remove the folders that were made, innermost first, if nothing but our lock is in them.

    A mistyped root would else stay behind, and be found by the next run.
    """
    with suppress(OSError):
        if made and os.listdir(made[0]) == [lock.name]:  # noqa: PTH208
            lock.unlink()
            for path in made:
                path.rmdir()


def _fetched(
    dataset: DatasetFiles, remote: Remote, lacking: list[RequiredFile], folder: Path
) -> Path:
    """Return the path of a remote file that is here: in the root, or now in `folder`."""
    here = dataset.root / remote.filename
    if os.path.lexists(here):
        dataset.check(here, remote.md5)
        return here
    if not dataset.download:
        raise dataset.give_up(lacking, "download is false")
    try:
        # Without the progress bar.
        with redirect_stderr(io.StringIO()), redirect_stdout(io.StringIO()), _impatient():
            download_url(remote.url, folder, remote.filename, remote.md5)
    except (OSError, RuntimeError, ValueError, http.client.HTTPException) as error:
        another = isinstance(error, RuntimeError) and (folder / remote.filename).is_file()
        reason = "another file came" if another else _reason(error)
        raise dataset.give_up(lacking, f"fetching {remote.url} failed ({reason})") from None
    return folder / remote.filename


def _reason(error: BaseException) -> str:
    """Return in words why a connection failed."""
    inner = getattr(error, "reason", None)  # of what the library has wrapped
    cause = inner if isinstance(inner, OSError) else error
    return one_line(getattr(cause, "strerror", None) or cause, 120) or type(cause).__name__


def _move(
    dataset: DatasetFiles, source: Path, remote: Remote, lacking: list[RequiredFile], new: Path
) -> None:
    """Give the missing files of a remote file their names, each when it is whole.

    Members of an archive are read by the names that are needed; no path in it is trusted.
    """
    for file in (file for file in lacking if file.remote == remote):
        target = dataset.root / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        if file.path == remote.filename:
            source.replace(target)
            continue
        with tarfile.open(source) as members, new.open("wb") as copy:
            stream = members.extractfile(file.path)
            if stream is None:
                raise KeyError(f"{file.path} is no file")
            shutil.copyfileobj(stream, copy)
            copy.flush()
            os.fsync(copy.fileno())
        new.replace(target)


@contextmanager
def _explained(dataset: DatasetFiles) -> Iterator[None]:
    """Turn what a disk or an archive refuses into one sentence."""
    where, root = dataset.where, dataset.root
    try:
        yield
    except OSError as error:
        place = error.filename or root
        raise UserError(
            f"{where} is prepared in {one_line(root)}, but {one_line(place)} refuses it "
            f"({error.strerror or one_line(error)}): give the right to read and write there, make "
            f"room, or set ARNAS_DATA or {where}.root to another folder."
        ) from None
    except (tarfile.TarError, KeyError, EOFError) as error:
        raise UserError(
            f"{where} is unpacked in {one_line(root)} from an archive that lacks a file "
            f"({one_line(error)}): delete the archive, and the next run fetches it."
        ) from None


@contextmanager
def _impatient() -> Iterator[None]:
    """Let connections fail that fall silent; the library sets no limit of its own."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SILENCE_SECONDS)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
