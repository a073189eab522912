"""Files that are either whole or absent, and that are verified when they are read.

Arrays live in safetensors, everything else in JSON. Neither format notices a flipped bit, so each
safetensors file has a JSON beside it, ``NAME.safetensors.json``, with its sha256 and a description.
That JSON is sealed: it holds the sha256 of the rest of itself. And whatever is read is compared
with the manifest beside it, which knows every file that its stage has written.
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

from arnas.runtime.errors import UserError, one_line

if TYPE_CHECKING:  # torch takes seconds to import, and JSON does without
    from pydantic import BaseModel
    from torch import Tensor


MANIFEST = "manifest.json"
"""Name of the file that records what a stage instance was made from and what it has written."""
SEAL = "own_sha256"
"""Key of the sha256 that a JSON object holds of the rest of itself."""


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


def _json_bytes(value: object) -> bytes:
    """Return `value` as readable JSON."""
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False)
    return (text + "\n").encode()


def write_json(path: Path, value: object) -> None:
    """Write `value` to `path` as readable JSON, atomically."""
    write_bytes(path, _json_bytes(value))


def write_sealed(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object that holds the sha256 of the rest of itself, which `read_json` checks."""
    plain = json.loads(json.dumps(dict(content)))
    write_json(path, {**plain, SEAL: _digest(plain)})


def _digest(value: object) -> str:
    """Return the sha256 of the canonical JSON of `value`."""
    return sha256_bytes(canonical_json(value).encode())


def read_json(path: Path) -> Any:
    """Read a JSON file, verified as far as it can be; its seal is checked and left out.

    Raises
    ------
    UserError
        When the file is missing or damaged, or is not what its stage has written.
    """
    data = read_verified(path)
    return _parsed(path, data, lambda text: _unsealed(path, data, _loads(text)))


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


def _unsealed(path: Path, data: bytes, value: Any) -> Any:
    """Return the content of a file without its seal, which must fit if there is one."""
    if not isinstance(value, dict):
        return value
    for key in [key for key, item in value.items() if isinstance(item, str) and len(item) == 64]:
        rest = {name: item for name, item in value.items() if name != key}
        if value[key] == _digest(rest):
            # Not so where the name of the seal is damaged, or what no digest sees.
            if key == SEAL and data == _json_bytes(value):
                return rest
            break
    else:
        if SEAL not in value:
            return value
    raise UserError(
        f"{path} is damaged or was edited: its content is not that of which it records the "
        "sha256; delete it and rerun the stage that makes it."
    )


def read_verified(path: Path, manifest: Path | None = None) -> bytes:
    """Return the bytes of a file after comparing them with the manifest of its stage.

    Parameters
    ----------
    path
        A regular file, or a link to one.
    manifest
        Where the manifest would be; by default beside the file. Without one nothing is compared.

    Raises
    ------
    UserError
        When the file cannot be read or is not what its stage has written.
    """
    try:
        if path.exists() and not path.is_file():
            raise UserError(f"{path} is no file: remove it and run the stage that makes the file.")
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{path} is missing: run the stage that makes it.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from None
    manifest = path.with_name(MANIFEST) if manifest is None else manifest
    if path.name != MANIFEST and os.path.lexists(manifest):
        _check_recorded(path, data, manifest)
    return data


def _check_recorded(path: Path, data: bytes, manifest: Path) -> None:
    """Raise unless the bytes of a file are those that a manifest has recorded, if it has."""
    content = read_json(manifest)
    outputs = content.get("outputs") if isinstance(content, dict) else None
    if not isinstance(outputs, dict):
        raise UserError(f"{manifest} is no manifest: delete it and rerun the stage that makes it.")
    own = Path(os.path.relpath(path))
    for name, recorded in outputs.items():
        written = Path(name)
        if written.name != own.name:
            continue
        # A copy elsewhere may be read; within the results it stands in the place of another.
        if written.parts[0] == own.parts[0] and written != own:
            raise UserError(
                f"{path} is in the place of another file: {manifest} is that of {one_line(name)}; "
                f"delete {manifest.parent} and rerun the stage that makes it."
            )
        if recorded != sha256_bytes(data):
            raise UserError(
                f"{path} is damaged or was replaced: {manifest} records another sha256; delete "
                f"both and rerun the stage that makes them."
            )


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
    write_sealed(description_path(path), record)


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

    data = read_verified(path)
    beside = description_path(path)
    description: dict[str, Any] = {}
    if os.path.lexists(beside):
        recorded, description = _read_record(beside)
        if recorded != (found := sha256_bytes(data)):
            raise UserError(
                f"{path} is damaged or was replaced: its sha256 is {found[:12]}..., {beside.name} "
                f"records {one_line(recorded, 12)}; delete both and rerun the stage that makes "
                "them."
            )
    else:
        warnings.warn(f"{path} has no {beside.name}: its content is not verified", stacklevel=2)
    try:
        # The library's order changes from process to process.
        return TensorFile(dict(sorted(safetensors_load(data).items())), description)
    except Exception as error:  # the library's own, and others for types that torch lacks
        raise UserError(
            f"{path} is not a readable safetensors file ({one_line(error)}): replace or remake it."
        ) from None


def read_description(path: Path) -> dict[str, Any]:
    """Return the description of a safetensors file from the JSON `path`; tensors are not read.

    Raises
    ------
    UserError
        When the JSON is missing or damaged.
    """
    return _read_record(path)[1]


def _read_record(path: Path) -> tuple[str, dict[str, Any]]:
    """Return the sha256 and the description that the JSON beside a safetensors file holds."""
    record = read_json(path)
    if isinstance(record, dict) and record.keys() == {"sha256", "description"}:
        sha256, description = record["sha256"], record["description"]
        if isinstance(sha256, str) and isinstance(description, dict):
            return sha256, description
    raise UserError(
        f"{path} is damaged or was replaced, for it does not hold a sha256 and a description: "
        f"delete it with {path.stem} and rerun the stage that makes them."
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
