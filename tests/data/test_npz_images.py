"""Any npz: every layout that leaves no doubt, and every known mistake named in one line."""

from __future__ import annotations

import re
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from arnas.data.load import load_images
from arnas.data.sources.npz_images import NpzImages, read_npz_images
from arnas.runtime.errors import UserError

FUZZ = settings(
    max_examples=60,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
LABELS = np.arange(20) % 4


def bytes_of(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def floats_of(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).random(shape)


HOLED = floats_of(20, 8, 8)
HOLED[3, 2, 5] = np.nan


def write(path: Path, **arrays: np.ndarray) -> Path:
    np.savez_compressed(path, **arrays)
    return path


def read(folder: Path, which: str = "test", **arrays: Any) -> NpzImages:
    return read_npz_images(write(folder / "a.npz", **arrays), which)


def refusal(path: Path, which: str = "test") -> str:
    with pytest.raises(UserError) as caught:
        read_npz_images(path, which)
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".") and str(path) in message
    return message


def refused(folder: Path, which: str = "test", **arrays: Any) -> str:
    return refusal(write(folder / "a.npz", **arrays), which)


# Accepted


@pytest.mark.parametrize("names", [("x", "y"), ("images", "labels"), ("x_test", "y_test")])
def test_three_pairs_of_names_are_known(tmp_path: Path, names: tuple[str, str]) -> None:
    images = bytes_of(20, 3, 8, 8)
    found = read(tmp_path, **dict(zip(names, (images, LABELS), strict=True)))
    assert np.array_equal(found.images, images) and np.array_equal(found.labels, LABELS)
    assert (found.scale, found.num_classes, found.warnings) == (255, 4, ())
    assert found.split == ("test" if names[0] == "x_test" else None)


@pytest.mark.parametrize(
    ("shape", "order"),
    [
        ((20, 3, 8, 8), None),
        ((20, 1, 8, 8), None),
        ((20, 8, 8, 3), (0, 3, 1, 2)),
        ((20, 8, 8, 1), (0, 3, 1, 2)),
        ((20, 3, 8, 10), None),
        ((20, 8, 10, 3), (0, 3, 1, 2)),
    ],
)
@pytest.mark.parametrize("make", [bytes_of, floats_of])
def test_channels_come_first(tmp_path: Path, shape: Any, order: Any, make: Any) -> None:
    images = make(*shape)
    wanted = images if order is None else images.transpose(order)
    found = read(tmp_path, x=images, y=LABELS)
    assert np.array_equal(found.images, wanted.astype(found.images.dtype))


def test_grey_images_get_a_channel(tmp_path: Path) -> None:
    images = bytes_of(20, 8, 9)
    assert np.array_equal(read(tmp_path, x=images, y=LABELS).images, images[:, None])


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f4", "longdouble"])
def test_floats_become_float32(tmp_path: Path, dtype: str) -> None:
    images = floats_of(20, 8, 8).astype(dtype)
    found = read(tmp_path, x=images, y=LABELS)
    assert found.images.dtype == np.float32 and found.scale == 1
    assert np.array_equal(found.images[:, 0], images.astype(np.float32))


@pytest.mark.parametrize("dtype", ["uint8", "int16", ">i8", "uint64"])
def test_labels_of_any_integer_type_become_int64(tmp_path: Path, dtype: str) -> None:
    found = read(tmp_path, x=bytes_of(20, 8, 8), y=LABELS.astype(dtype))
    assert found.labels.dtype == np.int64 and found.labels.tolist() == LABELS.tolist()


def test_rounding_beyond_the_box_is_put_back(tmp_path: Path) -> None:
    images = floats_of(20, 8, 8)
    images[0, 0, :2] = (1 + 5e-7, -5e-7)
    found = read(tmp_path, x=images, y=LABELS).images
    assert found[0, 0, 0, :2].tolist() == [1, 0]
    images[0, 0, 0] = 1 + 1e-5
    assert "allowed is 0 to 1" in refused(tmp_path, x=images, y=LABELS)


def test_a_part_is_chosen_by_its_names_or_its_split(tmp_path: Path) -> None:
    train, test = bytes_of(20, 8, 8), 255 - bytes_of(20, 8, 8)
    arrays = {"x_train": train, "y_train": LABELS, "x_test": test, "y_test": LABELS}
    for split, wanted in (("train", train), ("test", test)):
        found = read(tmp_path, split, **arrays)
        assert np.array_equal(found.images[:, 0], wanted) and found.split == split
    for kind in ("U", "S"):
        split = np.array(["train", "test"] * 10).astype(kind)
        found = read(tmp_path, images=train, labels=LABELS, split=split)
        assert np.array_equal(found.images[:, 0], train[1::2]) and found.split == "test"
        assert found.labels.tolist() == LABELS[1::2].tolist() and found.num_classes == 4


def test_the_array_of_another_part_is_not_unpacked(tmp_path: Path) -> None:
    trap = np.array([{}] * 20, dtype=object)
    found = read(tmp_path, x_test=bytes_of(20, 8, 8), y_test=LABELS, x_train=trap, notes=trap)
    assert len(found.labels) == 20


# Odd, but possible


def test_what_is_odd_is_a_warning(tmp_path: Path) -> None:
    notes = read(tmp_path, x=bytes_of(20, 8, 8) % 17, y=LABELS + 1).warnings
    assert [note.partition(": ")[2] for note in notes] == [
        "x reaches only 16 where 255 means white",
        "y begin at 1, and classes count from 0",
    ]
    notes = read(tmp_path, x=np.full((20, 8, 8), 0.5 / 255), y=LABELS).warnings
    assert "x reaches only 0.00196078 where 1 means white" in notes[0]
    path = write(tmp_path / "one.npz", x=bytes_of(20, 8, 8), y=LABELS * 0)
    found = load_images(str(path))
    assert found.num_classes == 2
    assert found.warnings == ("all 20 images are of the class 0",)


# Refused


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (floats_of(20, 8, 8) * 255, "allowed is 0 to 1: divide it by 255"),
        (floats_of(20, 8, 8) * 65535, "divide it by the value that means white"),
        (floats_of(20, 8, 8) * 4 - 2, "put the normalisation into the model"),
        (bytes_of(20, 8, 8) % 2, "is uint8 and reaches only 1 where 255 means white"),
        (np.zeros((20, 8, 8), np.uint8), "reaches only 0 where"),
        (bytes_of(20, 8, 8).astype(int), "is int64, allowed are uint8 from 0 to 255 and floats"),
        (bytes_of(20, 8, 8) > 9, "is bool, allowed are uint8"),
        (bytes_of(20, 8, 8).astype(str), "is <U3, allowed are uint8"),
        (floats_of(20, 8, 8) * 1j, "is complex128, allowed are uint8"),
        (HOLED, "holds NaN or infinity in 1 images, first in number 3"),
        (np.full((20, 8, 8), np.inf), "holds NaN or infinity in 20 images"),
        (bytes_of(20, 3, 8, 3), "the channels may come first or last"),
        (bytes_of(20, 1, 8, 1), "the channels may come first or last"),
        (bytes_of(20, 8, 8, 4), "allowed are images with 1 or 3 channels"),
        (bytes_of(20, 2, 8, 8), "allowed are images with 1 or 3 channels"),
        (bytes_of(20, 64), "has shape (20, 64), allowed are (N, H, W)"),
        (bytes_of(20), "has shape (20,), allowed are"),
        (np.array(3), "has shape (), allowed are"),
        (bytes_of(1, 20, 3, 8, 8), "has shape (1, 20, 3, 8, 8), allowed are"),
        (bytes_of(0, 8, 8), "which holds no pixel"),
        (bytes_of(20, 0, 8, 3), "which holds no pixel"),
    ],
)  # fmt: skip
def test_wrong_images_are_refused(tmp_path: Path, images: np.ndarray, words: str) -> None:
    labels = LABELS[: len(images)] if images.ndim else LABELS
    message = refused(tmp_path, x=images, y=labels)
    assert f"{tmp_path / 'a.npz'}: x " in message and words in message


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (np.eye(4)[LABELS], "which looks one-hot: store labels.argmax(1)"),
        (np.eye(4, dtype=int)[LABELS], "which looks one-hot"),
        (LABELS[:-1], "is int64 of shape (19,), needed is one label for each of the 20 images"),
        (LABELS[:, None], "of shape (20, 1), needed is one label"),
        (np.array(3), "of shape (), needed is one label"),
        (LABELS.astype(float), "is float64 of shape (20,), needed are whole numbers"),
        (LABELS > 1, "is bool of shape (20,), needed are whole numbers"),
        (LABELS.astype(str), "needed are whole numbers from 0 up: number the classes"),
        (LABELS - 1, "runs from -1 to 2, allowed are whole numbers from 0"),
        (LABELS + 10**9, "runs from 1000000000 to 1000000003, allowed are"),
        (LABELS.astype("u8") + np.uint64(2**63), "to 9223372036854775811, allowed are"),
    ],
)
def test_wrong_labels_are_refused(tmp_path: Path, labels: np.ndarray, words: str) -> None:
    message = refused(tmp_path, x=bytes_of(20, 8, 8), y=labels)
    assert f"{tmp_path / 'a.npz'}: y " in message and words in message


def test_a_wrong_split_is_refused(tmp_path: Path) -> None:
    arrays = {"images": bytes_of(20, 8, 8), "labels": LABELS}
    split = np.array(["train", "val"] * 10)
    assert "split has train, val, but no 'test'" in refused(tmp_path, **arrays, split=split)
    assert "split is <U5 of shape (19,)" in refused(tmp_path, **arrays, split=split[1:])
    assert "split is int64 of shape (20,)" in refused(tmp_path, **arrays, split=LABELS)


def test_other_arrays_are_listed(tmp_path: Path) -> None:
    message = refused(tmp_path, pixels=bytes_of(20, 8, 8), y=LABELS)
    assert "holds pixels, y: needed are the arrays x and y, or images and labels, or" in message
    images = bytes_of(20, 8, 8)
    message = refused(tmp_path, x=images, y=LABELS, images=images, labels=LABELS)
    assert "more than one pair of images and labels: keep one" in message
    message = refused(tmp_path, "val", x_test=images, y_test=LABELS)
    assert "or x_val and y_val" in message


# Damaged and hostile


class Trap:
    """Unpickled, it would leave a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("name", ["x", "y"])
def test_pickled_objects_are_refused_unopened(tmp_path: Path, name: str) -> None:
    trap = np.array([Trap(tmp_path / "sprung")] * 20, dtype=object)
    message = refused(tmp_path, **{"x": bytes_of(20, 8, 8), "y": LABELS, name: trap})
    assert "is not a readable npz without pickles" in message
    assert not (tmp_path / "sprung").exists()


def test_sizes_beyond_the_memory_are_refused_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The directory declares four gigabytes, the machine has three."""
    path = write(tmp_path / "a.npz", x=bytes_of(20, 8, 8), y=LABELS)
    data = path.read_bytes()
    place = data.index(b"PK\x01\x02")
    path.write_bytes(data[: place + 24] + struct.pack("<I", 0xFFFFFFF0) + data[place + 28 :])
    monkeypatch.setattr("os.sysconf", lambda key: 3 if key == "SC_PHYS_PAGES" else 10**9)

    def unread(*_: Any, **__: Any) -> None:
        raise AssertionError("read")

    monkeypatch.setattr(np, "load", unread)
    assert "its arrays take 4 GB, this machine has 3 GB" in refusal(path)


def test_a_header_that_declares_more_than_there_is_is_refused(tmp_path: Path) -> None:
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (900000000000, 64, 64, 3), }\n"
    member = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + b"few"
    path = write(tmp_path / "a.npz", y=LABELS)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("x.npy", member)
    assert "is not a readable npz" in refusal(path)


@given(share=st.floats(0, 1, exclude_max=True))
@FUZZ
def test_a_truncated_file_is_refused(tmp_path: Path, share: float) -> None:
    data = write(tmp_path / "a.npz", x=bytes_of(20, 8, 8), y=LABELS).read_bytes()
    (tmp_path / "b.npz").write_bytes(data[: int(share * len(data))])
    refusal(tmp_path / "b.npz")


@given(share=st.floats(0, 1, exclude_max=True), change=st.integers(1, 255))
@FUZZ
def test_a_changed_byte_is_refused_or_harmless(tmp_path: Path, share: float, change: int) -> None:
    images = bytes_of(20, 8, 8)
    data = bytearray(write(tmp_path / "a.npz", x=images, y=LABELS).read_bytes())
    data[int(share * len(data))] ^= change
    path = tmp_path / "b.npz"
    path.write_bytes(data)
    try:
        found = read_npz_images(path, "test")
    except UserError as error:
        assert "\n" not in str(error)
    else:
        assert np.array_equal(found.images[:, 0], images)
        assert np.array_equal(found.labels, LABELS)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is empty"),
        (b"<html>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
        (b"\x93NUMPY\x01\x00", "is a single numpy array"),
        (b"\x80\x04K\x01.", "is a pickle"),
        (b"hello", "is not a readable npz without pickles"),
        (b"PK\x03\x04", "is not a readable npz without pickles"),
    ],
)
def test_another_file_by_that_name_is_refused(tmp_path: Path, data: bytes, words: str) -> None:
    (tmp_path / "a.npz").write_bytes(data)
    assert re.match(rf"{re.escape(str(tmp_path))}/a\.npz {words}", refusal(tmp_path / "a.npz"))
