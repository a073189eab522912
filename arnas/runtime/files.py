"""Files that are either whole or absent, and that are verified when they are read.

Arrays live in safetensors, everything else in JSON. The manifest of a stage holds the sha256 of
every file that the stage has written; whatever is read is compared with the manifest beside it. A
safetensors file also works away from its manifest: its header holds its description and a sha256
of the whole file. A JSON file that travels alone, such as a manifest, can be sealed: it then holds
the sha256 of the rest of itself.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from arnas.runtime.errors import UserError, one_line

if TYPE_CHECKING:  # torch takes seconds to import, and JSON does without
    import numpy as np
    from pydantic import BaseModel
    from torch import Tensor


MANIFEST = "manifest.json"
"""Name of the file that records what a stage instance was made from and what it has written."""
SEAL = "own_sha256"
"""Key of the sha256 that a JSON object holds of the rest of itself."""
METADATA = "arnas"
"""Key of a safetensors file's metadata: JSON with its sha256 and its description."""
RECORD = '{"sha256":'
"""How that JSON begins."""
UNSET = "0" * 64
"""Stands where the sha256 of a safetensors file will be while that sha256 is computed."""


class TensorFile(NamedTuple):
    """What a safetensors file held: its tensors by name and its description."""

    tensors: dict[str, Tensor]
    description: dict[str, Any]


class ArrayFile(NamedTuple):
    """The same with arrays of NumPy."""

    arrays: dict[str, np.ndarray]
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


def digest(value: object) -> str:
    """Return the sha256 of the canonical JSON of `value`."""
    return sha256_bytes(_encoded(canonical_json(value)))


def _encoded(json_text: str) -> bytes:
    """Return JSON as bytes; what is no character, as in file names, becomes its JSON escape."""
    return json_text.encode("utf-8", "backslashreplace")


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
        "write there, and rerun the same command: what was saved before is still there."
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


def _json_bytes(value: object) -> bytes:
    """Return `value` as readable JSON."""
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False)
    return _encoded(text + "\n")


def write_json(path: Path, value: object) -> None:
    """Write `value` to `path` as readable JSON, atomically."""
    write_bytes(path, _json_bytes(value))


def write_sealed(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object that holds the sha256 of the rest of itself, which `read_json` checks."""
    plain = json.loads(json.dumps(dict(content)))
    write_json(path, {**plain, SEAL: digest(plain)})


def read_json(path: Path, *, sealed: bool = False) -> Any:
    """Read a JSON file, verified by the manifest beside it and by its seal, if it has one.

    Parameters
    ----------
    sealed
        Whether it must be an object with a seal, which is left out of what is returned.

    Raises
    ------
    UserError
        When the file is missing or damaged, or is not what its stage has written.
    """
    data = read_verified(path)
    value = _parsed(path, data, _loads)
    if not isinstance(value, dict) or (SEAL not in value and not sealed):
        if sealed:
            raise _no_manifest(path)
        return value
    content = {key: item for key, item in value.items() if key != SEAL}
    # The bytes too: no digest of values sees a change of spaces.
    if value.get(SEAL) != digest(content) or data != _json_bytes(value):
        raise _edited(path)
    return content


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Read a file with one JSON object a line, likewise."""

    def rows(text: str) -> list[dict[str, Any]]:
        found = [_loads(line) for line in text.split("\n") if line]
        if not all(isinstance(row, dict) for row in found):
            raise ValueError("a line is no object")
        return found

    found: list[dict[str, Any]] = _parsed(path, read_verified(path), rows)
    return found


def _parsed(path: Path, data: bytes, parse: Callable[[str], Any]) -> Any:
    """Return what `parse` makes of a text file, or say what is wrong with the file."""
    try:
        return parse(data.decode())
    except (ValueError, RecursionError) as error:  # also numbers of thousands of digits
        deep = isinstance(error, RecursionError)
        reason = "it is nested too deeply" if deep else one_line(error)
        raise UserError(
            f"{path} is not readable JSON ({reason}): delete it and rerun the stage that makes it."
        ) from None


def _loads(text: str) -> Any:
    """Parse JSON in which no key stands twice in one object."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise ValueError("a key stands twice in one object")
        return found

    return json.loads(text, object_pairs_hook=once)


def read_verified(path: Path, manifest: Path | None = None) -> bytes:
    """Return the bytes of a file, or of a link to one, after `check_recorded`.

    Raises
    ------
    UserError
        When the file cannot be read or is not what its stage has written.
    """
    data = _read(path)
    check_recorded(path, lambda: sha256_bytes(data), manifest)
    return data


def _read(path: Path) -> bytes:
    """Return the bytes of a file."""
    with _readable(path):
        if path.exists() and not path.is_file():
            raise UserError(f"{path} is no file: remove it and run the stage that makes the file.")
        return path.read_bytes()


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Say in a sentence why a file cannot be read."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{path} is missing: run the stage that makes it.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}; restore or remake it.") from None


def check_recorded(path: Path, sha256: Callable[[], str], manifest: Path | None = None) -> bool:
    """Compare a file with the manifest of its stage; return whether the manifest records it.

    Parameters
    ----------
    path
        The file.
    sha256
        Returns the file's sha256; called only if the manifest records the file.
    manifest
        Where the manifest would be; by default beside the file.

    Raises
    ------
    UserError
        When the manifest is damaged, records another sha256, or is that of another folder.
    """
    manifest = path.with_name(MANIFEST) if manifest is None else manifest
    if path.name == MANIFEST or not os.path.lexists(manifest):
        return False
    outputs = read_json(manifest, sealed=True).get("outputs")
    if not isinstance(outputs, dict):
        raise _no_manifest(manifest)
    own = Path(os.path.relpath(path))
    for name, recorded in outputs.items():
        written = Path(name)
        if written.name != own.name:
            continue
        # A copy elsewhere may be read; within the results it replaces another file.
        if written.parts[0] == own.parts[0] and written != own:
            raise UserError(
                f"{path} is in the place of another file: {manifest} is that of {one_line(name)}; "
                f"delete {manifest.parent} and rerun the stage that makes it."
            )
        if recorded != sha256():
            raise UserError(
                f"{path} is damaged or was replaced: {manifest} records another sha256; delete "
                f"both and rerun the stage that makes them."
            )
        return True
    return False


def _edited(path: Path) -> UserError:
    """Return what to say of a file whose own sha256 is not that of its content."""
    return UserError(
        f"{path} is damaged or was edited: its content does not have the sha256 that it records; "
        "delete it and rerun the stage that makes it."
    )


def _no_manifest(path: Path) -> UserError:
    """Return what to say of JSON of another form where a manifest should be."""
    return UserError(f"{path} is no manifest: delete it and rerun the stage that makes it.")


def save_tensors(path: Path, tensors: Mapping[str, Tensor], description: Mapping[str, Any]) -> None:
    """Write `tensors` to `path`, with the description and the file's sha256 in its header.

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
    record = f'{RECORD}"{UNSET}","description":{canonical_json(dict(description))}}}'
    data = safetensors_save(own, {METADATA: record})
    end = 8 + int.from_bytes(data[:8], "little")
    header = data[:end].replace(UNSET.encode(), sha256_bytes(data).encode(), 1)
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        stream.write(header)
        stream.write(memoryview(data)[end:])


def load_tensors(path: Path) -> TensorFile:
    """Read a safetensors file, verified by the manifest beside it or by its own sha256.

    A foreign file, which has neither, is read with a warning and an empty description.

    Raises
    ------
    UserError
        When the file is missing or damaged, or its sha256 is not the recorded one.
    """
    from safetensors.torch import load

    return TensorFile(*_load_verified(path, load))


def load_arrays(path: Path) -> ArrayFile:
    """Read a safetensors file likewise, without PyTorch, which takes seconds to import."""
    from safetensors.numpy import load

    return ArrayFile(*_load_verified(path, load))


def _load_verified(
    path: Path, load: Callable[[bytes], dict[str, Any]]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what a verified safetensors file holds, as `load` reads it, and its description."""
    data = _read(path)
    verified = check_recorded(path, lambda: sha256_bytes(data))
    header, recorded, description = _read_header(path, io.BytesIO(data), len(data))
    if not verified and recorded is None:
        warnings.warn(f"{path} records no sha256: its content is not verified", stacklevel=3)
    elif not verified:
        total = hashlib.sha256(header.replace(str(recorded).encode(), UNSET.encode(), 1))
        total.update(memoryview(data)[len(header) :])
        if total.hexdigest() != recorded:
            raise _edited(path)
    try:
        # The library's order changes from process to process.
        return dict(sorted(load(data).items())), description
    except Exception as error:  # the library's own, and others for types that torch or NumPy lacks
        raise _unreadable(path, error) from None


def read_description(path: Path) -> dict[str, Any]:
    """Return the description of a safetensors file, empty for a foreign one.

    Only the header is read, and nothing is verified: `load_tensors` does that, and at the start of
    a job its runner.

    Raises
    ------
    UserError
        When the file is missing or its header is damaged.
    """
    with _readable(path), path.open("rb") as stream:
        return _read_header(path, stream, path.stat().st_size)[2]


def _read_header(
    path: Path, stream: BinaryIO, size: int
) -> tuple[bytes, str | None, dict[str, Any]]:
    """Return the header's bytes, and the sha256 and the description in it, if there are any."""
    start = stream.read(8)
    length = int.from_bytes(start, "little")
    try:
        if len(start) < 8 or length > size - 8:
            raise ValueError("it is shorter than its header says")
        header = stream.read(length)
        metadata = _loads(header.decode()).get("__metadata__", {})
        # By its form too: the key may be what is damaged.
        own = [v for k, v in metadata.items() if k == METADATA or v.startswith(RECORD)]
        if own:
            record = json.loads(own[0])
            sha256, description = record["sha256"], record["description"]
            if not (isinstance(sha256, str) and isinstance(description, dict)):
                raise ValueError("its metadata has another form")
            return start + header, sha256, description
    except (ValueError, TypeError, AttributeError, LookupError, RecursionError) as error:
        raise _unreadable(path, error) from None
    if os.path.lexists(path.with_name(f"{path.name}.json")):
        raise UserError(
            f"{path} was written by an earlier version of arnas, with its description in a JSON "
            "file beside it: rerun the stage that makes it."
        )
    return start + header, None, {}


def _unreadable(path: Path, error: Exception) -> UserError:
    """Return what to say of a file that is no safetensors file."""
    return UserError(
        f"{path} is not a readable safetensors file ({one_line(error)}): replace or remake it."
    )


def check_form(path: Path, content: object, form: type[BaseModel], way_out: str) -> None:
    """Raise unless JSON values have the form that a reader needs.

    Parameters
    ----------
    path
        Names the file in the error.
    content
        What was read.
    form
        A pydantic model; keys beyond it are allowed.
    way_out
        How to get the right file, as the end of a sentence.
    """
    from pydantic import ValidationError

    try:
        form.model_validate_json(json.dumps(content), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(key) for key in first["loc"]) or "it"
        raise UserError(
            f"{path} holds something else than is needed here ({one_line(where)}: "
            f"{one_line(first['msg'])}): {way_out}."
        ) from None
