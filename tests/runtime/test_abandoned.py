"""State folders are seen as held by their locks alone, and only abandoned ones are removed."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest
from fake_run import cut_short

from arnas.runtime.abandoned import age, is_held, remove_slot, state_slots
from arnas.runtime.resume import checkpointing

NAMED = ("retrain digits/arnas/0", "results/x/manifest.json")
"""Title and manifest of a run."""


def test_what_was_cut_short_is_abandoned(tmp_path: Path) -> None:
    cut_short(tmp_path / "retrain/abc", *NAMED)
    (slot,) = state_slots(tmp_path)
    assert (slot.stage, slot.fingerprint, slot.held) == ("retrain", "abc", False)
    assert (slot.title, slot.holder["result"]) == NAMED
    assert slot.progress == {"epoch": 1, "step": 2}
    files = [path for path in slot.folder.rglob("*") if path.is_file()]
    assert slot.size == sum(path.stat().st_size for path in files) > 4000
    assert slot.changed == max(path.stat().st_mtime for path in files)


def test_the_lock_decides_not_what_is_written(tmp_path: Path) -> None:
    with checkpointing(tmp_path / "retrain/abc", "a result"):
        (slot,) = state_slots(tmp_path)
        assert slot.held and slot.holder["pid"] == os.getpid()
        (slot.folder / "holder.json").unlink()
        (nameless,) = state_slots(tmp_path)
        assert nameless.held and nameless.title == "retrain abc"
        assert nameless.who == "process unknown on an unknown host since an unknown time"
    cut_short(tmp_path / "retrain/abc", *NAMED)
    (slot,) = state_slots(tmp_path)
    assert not slot.held and slot.holder["pid"] == os.getpid()


def test_asking_creates_nothing_and_does_not_get_in_the_way(tmp_path: Path) -> None:
    """A run may start at the very moment when somebody asks."""
    lock = tmp_path / "retrain/abc/0/lock"
    assert not is_held(lock) and not lock.exists()
    lock.parent.mkdir(parents=True)
    lock.touch()
    handle = os.open(lock, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_SH)
    assert not is_held(lock), "two may ask at once"
    os.close(handle)
    with checkpointing(tmp_path / "retrain/abc", "a result"):
        assert is_held(lock)


def test_only_what_is_abandoned_is_removed(tmp_path: Path) -> None:
    cut_short(tmp_path / "retrain/abc", *NAMED)
    (slot,) = state_slots(tmp_path)
    with checkpointing(tmp_path / "retrain/abc", "a result") as checkpointer:
        assert not remove_slot(slot), "it was taken since"
        assert checkpointer.load() is not None
        cut_short_elsewhere = tmp_path / "derive/def"
        cut_short(cut_short_elsewhere, *NAMED)
        other = next(s for s in state_slots(tmp_path) if s.stage == "derive")
        assert remove_slot(other)
        assert not cut_short_elsewhere.exists()
    assert remove_slot(slot), "it is gone already"
    assert state_slots(tmp_path) == []


def test_other_things_in_the_state_folder_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "retrain/abc/notes").mkdir(parents=True)
    (tmp_path / "leases/0").mkdir(parents=True)
    assert state_slots(tmp_path) == state_slots(tmp_path / "nowhere") == []


@pytest.mark.parametrize(
    ("seconds", "words"), [(3, "3 s"), (90, "2 min"), (7200, "2 h"), (200000, "2 d"), (-5, "0 s")]
)
def test_ages_in_words(seconds: float, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time", lambda: 1e9)
    assert age(1e9 - seconds) == words
