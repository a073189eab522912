"""Ways to damage a file, each of them reproducible, and what must come of it."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import shutil
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from arnas.runtime.errors import UserError

Damage = Callable[[Path, random.Random], None]


TREE = Path("results/golden")
NAMED = ("digits", "arnas", 0)
SPLITS = TREE / "data/digits/splits.safetensors"
FIRST = TREE / "search/dsara/0/adversarial/state.safetensors"
SECOND = TREE / "search/dsara/0/multiobjective/state.safetensors"
GENOTYPE = TREE / "search/dsara/0/genotype/genotype.json"
TRAINED = TREE / "retrain/digits/arnas/0"
OUTCOMES = TREE / "whitebox/digits/arnas/0/outcomes.safetensors"
EXAMPLES = TREE / "blackbox_examples/digits/arnas/0/examples.safetensors"
SCORES = TREE / "blackbox/digits/outcomes.safetensors"
TABLES = Path("results/tables/golden")
"""Files of the tiny run."""


class Trap:
    """Unpickled, it would leave a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.path,))


MARKER = Path("sprung")
"""In the present folder: what code that is run leaves behind."""


def _content(make: Callable[[bytes, random.Random], bytes]) -> Damage:
    """Return a damage that makes new bytes of the old ones."""

    def damage(path: Path, chance: random.Random) -> None:
        path.write_bytes(make(path.read_bytes(), chance))

    return damage


def _flip(data: bytes, chance: random.Random, end: int | None = None) -> bytes:
    place = chance.randrange(end or len(data))
    return data[:place] + bytes([data[place] ^ (1 << chance.randrange(8))]) + data[place + 1 :]


def _trap(*_: object) -> bytes:
    return pickle.dumps(Trap(MARKER.absolute()))


def _torch_trap(*_: object) -> bytes:
    """Return what `torch.save` would make of a trap: a zip with a pickle in it."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("archive/data.pkl", _trap())
        archive.writestr("archive/version", "3\n")
    return stream.getvalue()


def _directory(path: Path, _: random.Random) -> None:
    path.unlink()
    path.mkdir()
    (path / "inside").touch()


def _broken_link(path: Path, _: random.Random) -> None:
    path.unlink()
    path.symlink_to("nowhere")


def _huge_header(data: bytes, _: random.Random) -> bytes:
    """Return a safetensors file whose header claims more memory than there is."""
    header = {"a": {"dtype": "F32", "shape": [2**40, 2**20], "data_offsets": [0, 2**62]}}
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data[:64]


FLIPS: dict[str, Damage] = {
    **{f"flip {n}": _content(_flip) for n in range(4)},
    **{
        f"flip of the head {n}": _content(lambda d, c: _flip(d, c, min(len(d), 300)))
        for n in (1, 2)
    },
}
CUTS: dict[str, Damage] = {
    "nothing left": _content(lambda data, _: b""),
    "a few bytes left": _content(lambda data, _: data[:7]),
    "cut": _content(lambda data, chance: data[: chance.randrange(8, len(data) - 1)]),
    "one byte short": _content(lambda data, _: data[:-1]),
    "one byte more": _content(lambda data, _: data + b"\0"),
    "zeros at the end": _content(lambda data, _: data[: len(data) // 2] + bytes(len(data) // 2)),
}
REPLACEMENTS: dict[str, Damage] = {
    "pickle": _content(_trap),
    "pickle of torch": _content(_torch_trap),
    "deep JSON": _content(lambda *_: b"[" * 100_000),
    "deep closed JSON": _content(lambda *_: b'{"a":' * 50_000 + b"1" + b"}" * 50_000),
    "long number": _content(lambda *_: b'{"sha256": ' + b"9" * 10_000 + b"}"),
    "infinite number": _content(lambda *_: b"1e999"),
    "no UTF-8": _content(lambda *_: b"\xff\xfe{\0}\0"),
    "null": _content(lambda *_: b"null"),
    "empty object": _content(lambda *_: b"{}"),
    "empty list": _content(lambda *_: b"[]"),
    "list of lists": _content(lambda *_: b"[[1, 2], [3]]"),
    "key twice": _content(lambda *_: b'{"sha256": "a", "sha256": "b", "description": {}}'),
    "huge header": _content(_huge_header),
    "directory": _directory,
    "broken link": _broken_link,
}
ALL = FLIPS | CUTS | REPLACEMENTS


def files_below(folder: Path) -> dict[str, bytes]:
    """Return every file of a folder with its bytes; links and folders by their kind."""
    found = {}
    for inside, folders, names in os.walk(folder):
        for name in [*names, *folders]:
            path = Path(inside, name)
            if path.is_file():
                found[str(path.relative_to(folder))] = path.read_bytes()
    return found


def restore(path: Path, data: bytes) -> None:
    """Put a file back, whatever stands in its place."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.write_bytes(data)


def sentence(read: Callable[[], object], *named: Path) -> str:
    """Return the one sentence in which a reading must end; it names one of some files."""
    with warnings.catch_warnings(), pytest.raises(UserError) as caught:
        warnings.simplefilter("ignore")
        read()
    check_sentence(str(caught.value), *named)
    return str(caught.value)


WAYS_OUT = ("rerun", "run ", "remake", "restore", "correct", "load it into", "savez")


def check_sentence(message: str, *named: Path) -> None:
    """Check that a message is one line, names a file and a way out, and that nothing was run."""
    assert message.isprintable(), repr(message)
    assert len(message) < 1000
    assert message.endswith((".", ")"))
    assert any(str(path) in message for path in named), message
    assert any(word in message for word in WAYS_OUT), message
    assert not MARKER.exists()


def seeds(*parts: object) -> random.Random:
    """Return the same chances in every run."""
    return random.Random("/".join(map(str, parts)))


def damages(name: str) -> Iterator[tuple[Damage, random.Random]]:
    """Yield every damage for a file with its own chances."""
    for kind, damage in ALL.items():
        yield damage, seeds(name, kind)
