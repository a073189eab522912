"""Files that other people made: opened without waiting, recognised, no larger than the memory."""

from __future__ import annotations

import errno
import os
import re
import stat
from pathlib import Path
from typing import NamedTuple

from arnas.runtime.errors import UserError, one_line

HEAD = 4096
"""Bytes at the beginning of a file that tell what it is."""
LARGEST_HEADER = 100_000_000
"""Bytes of the JSON that a safetensors file may begin with."""
NO_WAIT = getattr(os, "O_NONBLOCK", 0)


class Kind(NamedTuple):
    """What a file is, and what to do if it should be something else."""

    name: str
    words: str
    """Begins with the article."""
    way_out: str


_UNPACK = "unpack it, and give the file inside"
_BY_FIRST_BYTES = (
    (b"PK\x03\x04", Kind("zip", "a zip archive", "unpack it, or name it .pt or .npz if it is one")),
    (b"PK\x05\x06", Kind("zip", "an empty zip archive", "download or write it again")),
    (b"\x80", Kind("pickle", "a pickle", "name it .pt if `torch.save` wrote it")),
    (b"\x93NUMPY", Kind("npy", "a single numpy array", "write both arrays with numpy.savez")),
    (b"\x1f\x8b", Kind("gzip", "a gzip archive", _UNPACK)),
    (b"\xfd7zXZ", Kind("xz", "an xz archive", _UNPACK)),
    (b"BZh", Kind("bzip2", "a bzip2 archive", _UNPACK)),
    (b"7z\xbc\xaf", Kind("7z", "a 7z archive", _UNPACK)),
    (b"\x89HDF", Kind("hdf5", "an HDF5 file", "convert it with the library that wrote it")),
    (
        b"version https://git-lfs",
        Kind("lfs", "a Git LFS pointer and not the file itself", "fetch that with `git lfs pull`"),
    ),
)
"""First bytes to kind."""
_PAGE = re.compile(rb"(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)?<(!doctype\s+html|html|head|body)\b", re.S)
_REFUSED = {
    errno.ENOENT: "is missing: correct the path",
    errno.ENOTDIR: "is missing: correct the path",
    errno.EISDIR: "is a folder: give a regular file",
    errno.ELOOP: "is a link that leads back to itself: give the file itself",
    errno.ENXIO: "is a socket: give a regular file",
    errno.EACCES: "cannot be read (Permission denied): give the right to read it",
}
"""Why a file cannot be opened, and the way out."""
_STATE = (b'attacks_to_run"', b'robust_flags"')
"""Keys of the state that AutoAttack keeps."""


def recognised(head: bytes) -> Kind | None:
    """Return what a file is by its first `HEAD` bytes, None for what is not known."""
    by_first = (kind for first, kind in _BY_FIRST_BYTES if head.startswith(first))
    # The layout first: the length that a safetensors file begins with may look like anything.
    return _recognised_layout(head) or next(by_first, None) or _recognised_text(head)


def _recognised_text(head: bytes) -> Kind | None:
    """Return what a text is that stands in the place of something else."""
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if _PAGE.match(text.lower()):
        return Kind(
            "html",
            "a web page, such as a site sends in place of a file when a quota is used up or a "
            "question is open",
            "open its address in a browser, and download the file itself",
        )
    if text[:1] == b"{" and all(key in head for key in _STATE):
        return Kind(
            "autoattack state",
            "a state file of AutoAttack, which names neither the model nor the norm, epsilon or "
            "images it belongs to",
            "run the attack again from the weights",
        )
    if text[:1] in {b"{", b"["}:
        return Kind("json", "a JSON text", "give the file that it describes")
    return None


def _recognised_layout(head: bytes) -> Kind | None:
    """Return what a file is that has its mark further inside."""
    if not head:
        return Kind("empty", "empty", "download or write it again")
    if head[257:262] == b"ustar":
        return Kind("tar", "a tar archive", _UNPACK)
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= LARGEST_HEADER:
        return Kind("safetensors", "a safetensors file", "give it the ending .safetensors")
    return None


def check_room(needed: int, what: str) -> None:
    """Raise unless so many bytes fit into this machine's memory; `what` begins the message.

    Raises
    ------
    ValueError
        With both numbers.
    """
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > memory:
        raise ValueError(f"{what} {needed / 1e9:.0f} GB, this machine has {memory / 1e9:.0f} GB")


def read_foreign(path: Path, expected: frozenset[str], most: int | None = None) -> bytes:
    """Read a regular file, unless its first bytes are those of another kind of file.

    Parameters
    ----------
    path
        A file or a link to one. A named pipe is refused, not waited for.
    expected
        Names of the kinds that it may be; what is not recognised passes too.
    most
        Read no more bytes than that, from the beginning.

    Raises
    ------
    UserError
        When it cannot be read, is no file, is larger than the memory or something else.
    """
    shown = one_line(path)
    try:
        # A named pipe is opened too, at whose other end nobody may ever write.
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | NO_WAIT)) as stream:
            state = os.fstat(stream.fileno())
            if not stat.S_ISREG(state.st_mode):
                what = "a named pipe" if stat.S_ISFIFO(state.st_mode) else "a device"
                raise UserError(f"{shown} is {what}: give a regular file.")
            if most is None:
                check_room(state.st_size, "it takes")
            data = stream.read() if most is None else stream.read(most)
    except OSError as error:
        text = f"cannot be read ({error.strerror}): give another file"
        raise UserError(f"{shown} {_REFUSED.get(error.errno or 0, text)}.") from None
    except UserError:
        raise
    except ValueError as error:  # a NUL in the name, or too large
        raise UserError(f"{shown} cannot be read ({error}): give another file.") from None
    kind = recognised(data[:HEAD])
    if kind is not None and kind.name not in expected:
        raise UserError(f"{shown} is {kind.words}: {kind.way_out}.")
    return data
