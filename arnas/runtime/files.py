"""Files that are either whole or absent, and that are verified when they are read.

Arrays live in safetensors, everything else in JSON. Neither format notices a flipped bit, so each
safetensors file has a JSON beside it, ``NAME.safetensors.json``, with its sha256 and a description.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from safetensors import SafetensorError

from arnas.runtime.errors import UserError

if TYPE_CHECKING:  # torch takes seconds to import, and JSON does without
    from torch import Tensor


class TensorFile(NamedTuple):
    """What a safetensors file held: its tensors by name and its description."""

    tensors: dict[str, Tensor]
    description: dict[str, Any]


def sha256_bytes(data: bytes) -> str:
    """Return the sha256 of `data` in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Return the sha256 of the file at `path` in hexadecimal, read in blocks."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def canonical_json(value: object) -> str:
    """Return the one JSON text of `value` used for digests: sorted keys, no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success fsync it and rename it to `path`.

    A rename also leaves files alone that are hard links into an engine's cache: writing in place
    would change the cache.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(
            dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix
        )
        os.close(handle)
        temporary = Path(name)
        yield temporary
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except BaseException as error:
        if temporary is not None:
            with suppress(OSError):
                temporary.unlink()
        if isinstance(error, OSError):
            raise unwritable(path, error) from None
        raise


def unwritable(path: Path, error: OSError) -> UserError:
    """Return what to say of a file that a full or read-only disk has refused."""
    return UserError(
        f"{path} cannot be written: {error.strerror or error}; make room or give the right to "
        "write there, and type the same command again: what was saved before is still there."
    )


def _umask() -> int:
    """Return the process's umask, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_json(path: Path, value: object) -> None:
    """Write `value` to `path` as readable JSON, atomically."""
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False)
    write_bytes(path, (text + "\n").encode())


def read_json(path: Path) -> Any:
    """Read a JSON file; a missing or damaged one is a `UserError` that names it."""
    return _parse(path, json.loads)


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Read a file with one JSON object a line, likewise."""
    rows: list[dict[str, Any]] = _parse(
        path, lambda text: [json.loads(line) for line in text.split("\n") if line]
    )
    return rows


def _parse(path: Path, parse: Callable[[str], Any]) -> Any:
    """Return what `parse` makes of a text file, or say what is wrong with the file."""
    try:
        return parse(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is missing: run the stage that makes it.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path} is not readable JSON ({error}): delete it and rerun the stage that makes it."
        ) from None


def description_path(path: Path) -> Path:
    """Return where the description of the safetensors file `path` lives."""
    return path.with_name(path.name + ".json")


def save_tensors(path: Path, tensors: Mapping[str, Tensor], description: Mapping[str, Any]) -> None:
    """Write `tensors` to `path` and ``{sha256, description}`` to the JSON beside it.

    Parameters
    ----------
    path
        Ends in ``.safetensors``.
    tensors
        Any dtypes and shapes; moved to the CPU and made contiguous.
    description
        JSON values: what the tensors are and how to use them.
    """
    from safetensors.torch import save as safetensors_save

    # Copies, because safetensors refuses two names for one piece of memory.
    own = {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}
    data = safetensors_save(own)
    write_bytes(path, data)
    record = {"sha256": sha256_bytes(data), "description": dict(description)}
    write_json(description_path(path), record)


def load_tensors(path: Path) -> TensorFile:
    """Read a file written by `save_tensors` and verify its sha256.

    A foreign safetensors file, one with no JSON beside it, is read with a warning and an empty
    description.

    Raises
    ------
    UserError
        When the file is missing or damaged, or its sha256 is not the recorded one.
    """
    from safetensors.torch import load as safetensors_load

    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path} is missing: run the stage that makes it.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from None
    beside = description_path(path)
    description: dict[str, Any] = {}
    if beside.exists():
        record = read_json(beside)
        found = sha256_bytes(data)
        if not isinstance(record, dict) or record.get("sha256") != found:
            expected = record.get("sha256") if isinstance(record, dict) else record
            raise UserError(
                f"{path} is damaged or was replaced: its sha256 is {found[:12]}..., {beside.name} "
                f"records {str(expected)[:12]}...; delete both and rerun the stage that makes them."
            )
        found_description = record.get("description")
        if not isinstance(found_description, dict):
            raise UserError(
                f"{beside} does not describe {path.name}: delete both and rerun the stage that "
                "makes them."
            )
        description = found_description
    else:
        warnings.warn(f"{path} has no {beside.name}: its content is not verified", stacklevel=2)
    try:
        # The library's order changes from process to process.
        return TensorFile(dict(sorted(safetensors_load(data).items())), description)
    except SafetensorError as error:
        raise UserError(
            f"{path} is not a readable safetensors file ({error}): replace or remake it."
        ) from None
