"""State dicts that PyTorch has pickled, read without running anything that they say.

This is the only file of the project that reads pickles of unknown origin, and PyTorch's reader for
weights alone is the only way it does so. What that reader does not look at is looked at before:
what an archive claims to hold, whether its checksums fit, and what a pickle would have made.
"""

from __future__ import annotations

import io
import pickletools
import re
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import torch
from torch import Tensor

from arnas.data.untrusted import check_room, read_foreign
from arnas.runtime.errors import UserError, one_line
from arnas.runtime.files import sha256_bytes
from arnas.runtime.references import FORM

ENDINGS = (".pt", ".pth", ".pt.tar", ".pth.tar", ".ckpt", ".bin")
"""How the names of such files end."""
CONTAINERS = ("state_dict", "model_state_dict", "model", "net")
"""Keys under which a checkpoint keeps the weights of its model."""
MOST_GROWTH = 20
"""Bytes that a file may claim to hold, in units of its size; PyTorch does not compress."""
MOST_ENTRIES = 100_000
"""Of an archive; one for each tensor and a few more."""
MOST_STEPS = 5_000_000
"""Instructions of a pickle; a state dict has some fifty for each tensor."""
LEGACY_PICKLES = 5
"""With which a file of before PyTorch 1.6 begins: the fourth has the content."""
LEGACY_MARK = torch.serialization.MAGIC_NUMBER.to_bytes(10, "little")
"""In the first of them."""
HEAD = 64
_WEIGHTS = re.compile(
    r"collections (OrderedDict|Counter)"
    r"|(__builtin__|builtins) (set|complex)"
    r"|torch\._utils _rebuild_(tensor(_v[23])?|parameter(_with_state)?)"
    r"|torch\._utils _rebuild_(qtensor|sparse_tensor|meta_tensor_no_storage)"
    r"|torch\._tensor _rebuild_from_type_v2"
    r"|torch\.nn\.parameter Parameter"
    r"|torch\.serialization _get_layout"
    r"|torch (Tensor|Size|device|per_\w+|q?u?int\w+|b?float\w+|complex\w+|bool)"
    r"|torch(\.storage|\.cuda)? \w*Storage"
)
"""What a pickle of weights may name, fewer things than PyTorch's reader makes: bytes are left out,
because a few of its words can ask for any number of them."""
FOLDER = 0x10
"""Bit of an archive's entry that calls it a folder."""
SAFER = "save the state dict of the model with `safetensors.torch.save_file` where it was trained"


class StateDict(NamedTuple):
    """Tensors by name, with what is worth knowing of their file."""

    tensors: dict[str, Tensor]
    sha256: str
    """Of the file."""
    warnings: tuple[str, ...]


def read_state_dict(path: Path, key: str | None = None) -> StateDict:
    """Read a state dict, or a checkpoint that has one under a key of `CONTAINERS`.

    Parameters
    ----------
    path
        A file of ``torch.save``, as an archive or in the form used until PyTorch 1.5.
    key
        Of the state dict in a checkpoint that has several.

    Returns
    -------
    StateDict
        Plain tensors on the CPU, of any dtype; nothing is known of their shapes and values.

    Raises
    ------
    UserError
        When the file cannot be read, is damaged, claims to hold far more than its size, or holds
        anything but numbers, texts and tensors. No code in it is run.
    """
    data = read_foreign(path, frozenset({"zip", "pickle"}))
    shown = one_line(path)
    notes = []
    if data.startswith(b"PK"):
        notes += _check_archive(data, shown)
    _check_names(data, shown)
    content = _unpickled(data, shown)
    name, tensors = _weights(content, shown, key)
    _check_tensors(tensors, len(data), shown)
    unused = [key for key, value in content.items() if key != name and _holds_weights(value)]
    if name is not None and unused:
        notes.append(
            f"{shown} also holds the weights {_listed(unused)}: those under '{name}' are used"
        )
    return StateDict(
        {key: value.detach().as_subclass(Tensor) for key, value in tensors.items()},
        sha256_bytes(data),
        tuple(notes),
    )


def _check_archive(data: bytes, shown: str) -> list[str]:
    """Raise unless an archive is what ``torch.save`` writes, by its directory and checksums."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            if problem := _odd_directory(entries, len(data)):
                raise UserError(f"{shown} is refused, because {problem}: {SAFER}.")
            # 0 is what is written when PyTorch is told to leave checksums out.
            checked = [entry for entry in entries if entry.CRC != 0]
            for entry in checked:
                archive.read(entry)
    except UserError:
        raise
    except Exception as error:  # of zipfile or zlib, by where the damage is
        raise UserError(
            f"{shown} is damaged or incomplete ({one_line(error, 120)}): download or write it "
            "again."
        ) from None
    silent = not checked
    return [f"{shown} was written without checksums: damage to it is not noticed"] if silent else []


def _odd_directory(entries: list[zipfile.ZipInfo], size: int) -> str | None:
    """Return what is wrong with what an archive says of itself, None if nothing is."""
    if len(entries) > MOST_ENTRIES:
        return f"it is an archive of {len(entries)} files, where at most {MOST_ENTRIES} are read"
    for entry in entries:
        name = entry.filename
        # PyTorch takes what is marked so for a folder, and leaves its values as memory had them.
        if (entry.is_dir() or entry.external_attr & FOLDER) and entry.file_size:
            return f"it is an archive that calls '{one_line(name, 80)}' a folder"
        if name.startswith("/") or "\\" in name or ".." in PurePosixPath(name).parts:
            return f"it is an archive with the path '{one_line(name, 80)}', which leads out of it"
    names = [entry.filename for entry in entries]
    if len(set(names)) < len(names):
        return "it is an archive in which a name stands twice"
    return _odd_size(sum(entry.file_size for entry in entries), size) or _odd_content(names)


def _odd_size(total: int, size: int) -> str | None:
    """Return what is wrong with a claim to hold so many bytes in so many."""
    if total > MOST_GROWTH * size:
        return f"it has {size} bytes and claims to hold {total}"
    try:
        check_room(total, "it claims to hold")
    except ValueError as error:
        return str(error)
    return None


def _odd_content(names: list[str]) -> str | None:
    """Return what an archive is that ``torch.save`` has not written, by its names."""
    inside = {PurePosixPath(name).name for name in names}
    if "constants.pkl" in inside:
        return "it is a TorchScript program and not weights alone"
    if "data.pkl" not in inside:
        return "it is an archive of something else than `torch.save` writes"
    return None


def _check_names(data: bytes, shown: str) -> None:
    """Raise if a pickle names anything that weights do not consist of."""
    found: set[str] = set()
    problem = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about texts of damaged files
            for name in _named(data):
                if not _WEIGHTS.fullmatch(name):
                    found.add(name.replace(" ", "."))
    except Exception as error:  # also of a text or a number that is not one
        problem = _reason(error)
    if found or problem:
        raise UserError(f"{shown} {_foreign(sorted(found)) if found else problem}.")


def _named(data: bytes) -> Iterator[str]:
    """Yield module and name of all that the pickles in a file name; nothing is looked up."""
    if data.startswith(b"PK"):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = [e for e in archive.infolist() if e.filename.endswith("data.pkl")]
            for entry in entries:
                if entry.CRC == 0:  # none was written: without the attribute, none is compared
                    del entry.CRC
            streams = [io.BytesIO(archive.read(entry)) for entry in entries]
    elif LEGACY_MARK in data[:HEAD]:
        streams = [io.BytesIO(data)] * LEGACY_PICKLES
    else:
        raise ValueError("it begins in another way")
    steps = 0
    for stream in streams:
        for step, argument, _ in pickletools.genops(stream):
            steps += 1
            if steps > MOST_STEPS:
                raise ValueError(f"it has more than {MOST_STEPS} instructions")
            if step.name in {"GLOBAL", "INST"}:
                yield str(argument)
            elif step.name == "STACK_GLOBAL":
                raise ValueError("it is pickled in protocol 4 or later, and 2 is read")


def _unpickled(data: bytes, shown: str) -> dict[Any, Any]:
    """Return the dict that a file holds; anything that would run code is refused by PyTorch."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of PyTorch about its own older forms
            content = torch.load(
                io.BytesIO(data), map_location="cpu", weights_only=True, mmap=False
            )
    except Exception as error:  # a dozen kinds, by where the damage is
        raise UserError(f"{shown} {_reason(error)}.") from None
    if not isinstance(content, dict):
        raise UserError(
            f"{shown} holds an object of type {type(content).__name__}, needed is a state dict, "
            f"which is a dict of tensors: {SAFER}."
        )
    return content


def _foreign(names: list[str]) -> str:
    """Return what to say of Python objects in the place of weights."""
    shown = ", ".join(one_line(name, 80) for name in names[:3])
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return (
        f"holds the Python object{'s' * (len(names) > 1)} {shown}{more} and not weights alone, "
        f"which could run any code, so it was not opened further: {SAFER}, or let {FORM} load it "
        "if you trust it"
    )


def _reason(error: Exception) -> str:
    """Return why PyTorch's reader has refused a file, and the way out."""
    text = str(error)
    if found := re.search(r"GLOBAL (\S+)", text):
        return _foreign([found[1]])
    if isinstance(error, MemoryError) or "not enough memory" in text:
        return "claims to hold more than this machine's memory: download or write it again"
    inner = (text.partition("WeightsUnpickler error:")[2] or text).partition("Check the doc")[0]
    reason = one_line(inner, 120)
    telling = any(sign.isalpha() for sign in reason)  # some errors are a bare number, or nothing
    return (
        f"is damaged, incomplete or not written by `torch.save` "
        f"({reason if telling else type(error).__name__}): download or write it again"
    )


def _holds_weights(value: object) -> bool:
    """Return whether a value is a dict with names and tensors, as a state dict is."""
    return (
        isinstance(value, dict)
        and all(isinstance(key, str) for key in value)
        and any(isinstance(item, Tensor) for item in value.values())
    )


def _weights(
    content: dict[Any, Any], shown: str, key: str | None
) -> tuple[str | None, dict[str, Any]]:
    """Return the state dict of a checkpoint with its key, which is None if it is the whole."""
    if key is not None and _holds_weights(content.get(key)):
        return key, content[key]
    found = [key for key in CONTAINERS if _holds_weights(content.get(key))]
    if len(found) > 1:
        raise UserError(
            f"{shown} holds weights under {_listed(found)}: choose one of them with --weights-key."
        )
    if found:
        return found[0], content[found[0]]
    if _holds_weights(content):
        return None, content
    keys = _listed(list(content)) if content else "nothing"
    raise UserError(
        f"{shown} holds no state dict but {keys}: allowed is a dict of tensors, or a dict that has "
        f"one under {_listed(CONTAINERS)}."
    )


def _check_tensors(tensors: dict[str, Any], size: int, shown: str) -> None:
    """Raise unless all values are tensors with numbers of their own in memory."""
    total = 0
    for name, value in tensors.items():
        if problem := _odd_tensor(value):
            raise UserError(
                f"{shown} holds '{one_line(name, 80)}', which is {problem}: {SAFER}, all of it "
                "ordinary tensors."
            )
        total += value.numel() * value.element_size()
    if problem := _odd_size(total, size):  # by repeating stored values
        raise UserError(f"{shown} is refused, because {problem}: {SAFER}.")


def _odd_tensor(value: object) -> str | None:
    """Return what a value is that is no ordinary tensor, None if it is one."""
    if not isinstance(value, Tensor):
        return f"of type {type(value).__name__} and no tensor"
    if value.device.type != "cpu":
        return f"a tensor without values, on the device {value.device}"
    if value.is_quantized:
        return "a quantised tensor"
    if value.is_nested or value.layout != torch.strided:
        return "a sparse or nested tensor"
    return None


def _listed(names: list[Any] | tuple[str, ...]) -> str:
    """Return the first few keys in words; those that are no text by their type."""
    words = [name if isinstance(name, str) else type(name).__name__ for name in names[:4]]
    shown = ", ".join(f"'{one_line(word, 40)}'" for word in words)
    return shown if len(names) <= 4 else f"{shown} and {len(names) - 4} more"
