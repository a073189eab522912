"""The published files, written small: their images, their name, and what is refused in one line."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from arnas.corruptions.accuracy import CorruptionTable, corruption_accuracy
from arnas.corruptions.published import NAMES, PublishedCorruptions, load_published
from arnas.runtime.errors import UserError

COUNT = 6
LABELS = np.array([9, 0, 1, 2, 1, 0])
X = torch.zeros(COUNT, 3, 32, 32)


class FirstPixel(nn.Module):
    """Names the class that the first pixel says."""

    def forward(self, x: Tensor) -> Tensor:
        return -(torch.arange(100) - 255 * x[:, :1, 0, 0]).abs()


def said(name: str, severity: int, place: int) -> int:
    """Return what the image says: the truth, but in one place for each corruption and severity."""
    return int(LABELS[place]) + (place == (NAMES.index(name) + severity) % COUNT)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    np.save(tmp_path / "labels.npy", np.tile(LABELS, 5))
    for name in NAMES:
        images = np.zeros((5 * COUNT, 32, 32, 3), np.uint8)
        for row, image in enumerate(images):
            image[...] = said(name, row // COUNT + 1, row % COUNT)
            image[0, 1] = (row, NAMES.index(name), 7)
        np.save(tmp_path / f"{name}.npy", images)
    return tmp_path


def table(folder: Path, **changes: Any) -> CorruptionTable:
    published = load_published(folder, COUNT)
    settings = {"batch_size": 4, "seed": 0, "published": published, **changes}
    y = settings.pop("y", torch.from_numpy(LABELS))
    return corruption_accuracy(FirstPixel(), X[: len(y)], y, **settings)


def test_the_images_are_those_of_the_files(folder: Path) -> None:
    published = load_published(folder, COUNT)
    found = published.images("frost", 3, torch.tensor([4, 1]))
    assert found.shape == (2, 3, 32, 32) and found.dtype == torch.uint8 and found.is_contiguous()
    assert found[:, :, 0, 1].tolist() == [[2 * COUNT + 4, 8, 7], [2 * COUNT + 1, 8, 7]]
    assert NAMES[6:10] == ("zoom_blur", "snow", "frost", "fog") and len(NAMES) == 15


def test_accuracy_is_counted_by_hand_and_has_the_real_name(folder: Path) -> None:
    found = table(folder, reference=dict.fromkeys(NAMES, 100 / COUNT))
    assert (found.suite, found.complete, found.severities) == ("CIFAR-10-C", True, (1, 2, 3, 4, 5))
    assert list(found.accuracies) == list(NAMES)
    for number, name in enumerate(NAMES):
        for severity in range(1, 6):
            wrong = [place for place in range(COUNT) if place == (number + severity) % COUNT]
            right = found.outcomes[name][severity - 1]
            assert np.flatnonzero(right == 0).tolist() == wrong
            assert found.accuracies[name][severity].correct == COUNT - 1
    assert found.mce == pytest.approx(100)
    assert found.mean.percent == pytest.approx(100 * (COUNT - 1) / COUNT)
    assert found.to_json()["left_out"] == []
    some = table(folder, names=["snow", "frost"], severities=[2])
    assert some.suite == "part of CIFAR-10-C: 2 of 15 corruptions, severities 2"


def test_some_images_are_found_by_their_places(folder: Path) -> None:
    whole, places = table(folder), torch.tensor([5, 2, 3])
    found = table(folder, indices=places, y=torch.from_numpy(LABELS)[places])
    assert all(torch.equal(found.outcomes[name], whole.outcomes[name][:, places]) for name in NAMES)


def test_a_hundred_classes_are_the_other_set(folder: Path) -> None:
    np.save(folder / "labels.npy", np.tile(LABELS + 10, 5).astype(np.uint8))
    assert load_published(folder, COUNT).name == "CIFAR-100-C"


class Trap:
    """Unpickled, it would leave a file behind."""

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path("sprung"),))


def array(*shape: int, dtype: Any = np.uint8) -> Any:
    return lambda path: np.save(path, np.zeros(shape, dtype))


@pytest.mark.parametrize(
    ("name", "write", "words"),
    [
        (
            "labels",
            array(5 * COUNT, dtype=float),
            "holds float64 of shape (30,), needed",
        ),
        ("labels", array(COUNT), "holds uint8 of shape (6,), needed is integers of shape (30,)"),
        ("labels", lambda p: np.save(p, np.arange(5 * COUNT)), "needed are the same from 0 to 9"),
        ("labels", lambda p: np.save(p, np.full(5 * COUNT, -1)), "holds labels from -1 to -1"),
        ("labels", lambda p: np.save(p, np.full(5 * COUNT, 100)), "holds labels from 100 to 100"),
        ("labels", Path.unlink, "is missing: correct the path"),
        ("fog", Path.unlink, "is missing: correct the path"),
        ("fog", lambda p: p.write_bytes(p.read_bytes()[:-1]), "is not a readable .npy"),
        ("fog", lambda p: p.write_bytes(b""), "is empty"),
        ("fog", lambda p: p.write_bytes(b"<html>"), "is a web page"),
        ("fog", lambda p: p.write_bytes(pickle.dumps(Trap())), "is a pickle"),
        ("fog", lambda p: np.save(p, np.array([Trap()])), "is not a readable .npy"),
        ("fog", array(5 * COUNT, 32, 32, 3, dtype=float), "holds float64 of shape (30, 32, 32, 3)"),
        (
            "fog",
            array(5 * COUNT, 3, 32, 32),
            "holds uint8 of shape (30, 3, 32, 32)",
        ),
        ("fog", array(50_000, 1), "holds uint8 of shape (50000, 1)"),
    ],
)
def test_other_files_are_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, write: Any, words: str
) -> None:
    monkeypatch.chdir(folder)
    path = folder / f"{name}.npy"
    write(path)
    with pytest.raises(UserError) as caught:
        table(folder)
    message = str(caught.value)
    assert message.startswith(str(path)) and words in message
    assert "\n" not in message and message.endswith(".")
    assert not Path("sprung").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"names": ["spatter"]}, r"names holds 'spatter': allowed are gaussian_noise"),
        ({"y": torch.from_numpy(LABELS).flip(0)}, "labels are not those of .*labels.npy"),
        (
            {"indices": torch.arange(COUNT) + 1},
            "indices run from 1 to 6: allowed are the places 0 ",
        ),
        ({"reference": dict.fromkeys(NAMES[:-1], 50.0)}, "no error for jpeg_compression"),
    ],
)
def test_what_does_not_fit_the_set_is_refused(
    folder: Path, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        table(folder, **changes)


def test_files_are_checked_before_the_model_runs(folder: Path) -> None:
    (folder / "contrast.npy").unlink()
    assert isinstance(load_published(folder, COUNT), PublishedCorruptions)
    assert table(folder, names=["fog"]).accuracies["fog"]
    with pytest.raises(UserError, match=r"contrast\.npy is missing"):
        table(folder)
