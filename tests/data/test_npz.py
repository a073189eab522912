"""A user's npz: every layout that leaves no doubt, and every mistake named in one line."""

from __future__ import annotations

import hashlib
import re
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from damage import Trap
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from image_cases import SPLITS, good_arrays, npz_options, random_images, write_npz
from pydantic import ValidationError
from refusals import refusal_of

from arnas.data.load import load_dataset, load_images
from arnas.data.sources.npz import STORED, read_npz_file
from arnas.data.sources.raw import RawImages
from arnas.data.splits import Splits
from arnas.runtime.errors import UserError

FUZZ = settings(
    max_examples=60,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
PAIRS = [("x", "y"), *STORED, ("x_test", "y_test")]
LABELS = np.arange(20) % 4
EVERY = np.arange(80) % 4


def floats_of(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).random(shape)


HOLED = floats_of(20, 8, 8)
HOLED[3, 2, 5] = np.nan
BYTES = random_images(20, 8, 8)


def write(path: Path, **arrays: Any) -> Path:
    np.savez_compressed(path, **arrays)
    return path


def read(folder: Path, **arrays: Any) -> RawImages:
    return read_npz_file(write(folder / "a.npz", **arrays), PAIRS)


def refusal(path: Path) -> str:
    message = refusal_of(read_npz_file, path, PAIRS)
    assert str(path) in message
    return message


def refused(folder: Path, **arrays: Any) -> str:
    return refusal(write(folder / "a.npz", **arrays))


def load(path: Path | str, **changes: object) -> Splits:
    return load_dataset("mine", npz_options(path, **changes))


def refused_as_dataset(path: Path | str, **changes: object) -> str:
    """Return the one line that reading it as the dataset `mine` ends in."""
    return refusal_of(load, path, **changes)


def labelled(*names: tuple[str, int]) -> np.ndarray:
    return np.array([name for name, count in names for _ in range(count)])


# Accepted


@pytest.mark.parametrize("names", [("x", "y"), ("images", "labels"), ("x_test", "y_test")])
def test_three_pairs_of_names_are_known(tmp_path: Path, names: tuple[str, str]) -> None:
    images = random_images(20, 3, 8, 8)
    found = read(tmp_path, **dict(zip(names, (images, LABELS), strict=True)))
    assert np.array_equal(found.images, images) and np.array_equal(found.labels, LABELS)
    assert (found.scale, found.num_classes, found.warnings) == (255, 4, ())
    assert found.split is None


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
@pytest.mark.parametrize("make", [random_images, floats_of])
def test_channels_come_first(tmp_path: Path, shape: Any, order: Any, make: Any) -> None:
    images = make(*shape)
    wanted = images if order is None else images.transpose(order)
    found = read(tmp_path, x=images, y=LABELS)
    assert np.array_equal(found.images, wanted.astype(found.images.dtype))


def test_grey_images_get_a_channel(tmp_path: Path) -> None:
    images = random_images(20, 8, 9)
    assert np.array_equal(read(tmp_path, x=images, y=LABELS).images, images[:, None])


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f4", "longdouble"])
def test_floats_become_float32(tmp_path: Path, dtype: str) -> None:
    images = floats_of(20, 8, 8).astype(dtype)
    found = read(tmp_path, x=images, y=LABELS)
    assert found.images.dtype == np.float32 and found.scale == 1
    assert np.array_equal(found.images[:, 0], images.astype(np.float32))


@pytest.mark.parametrize("dtype", ["uint8", "int16", "<i4", ">i8", "uint64"])
def test_labels_of_any_integer_type_become_int64(tmp_path: Path, dtype: str) -> None:
    found = read(tmp_path, x=BYTES, y=LABELS.astype(dtype))
    assert found.labels.dtype == np.int64 and found.labels.tolist() == LABELS.tolist()


def test_rounding_beyond_the_box_is_put_back(tmp_path: Path) -> None:
    images = floats_of(20, 8, 8)
    images[0, 0, :2] = (1 + 5e-7, -5e-7)
    found = read(tmp_path, x=images, y=LABELS).images
    assert found[0, 0, 0, :2].tolist() == [1, 0]
    images[0, 0, 0] = 1 + 1e-5
    assert "allowed is 0 to 1" in refused(tmp_path, x=images, y=LABELS)


def test_a_split_is_chosen_by_its_names_or_its_array(tmp_path: Path) -> None:
    train, test, path = BYTES, 255 - BYTES, tmp_path / "a.npz"
    write(path, x_train=train, y_train=LABELS, x_test=test, y_test=LABELS)
    for split, wanted in (("train", train), ("test", test)):
        found = load_images(str(path), split=split).x
        assert np.array_equal((found[:, 0] * 255).round().numpy(), wanted)
    write(path, test_images=test, test_labels=LABELS[:, None], val_images=train, val_labels=LABELS)
    for split, wanted in (("val", train), ("test", test)):  # as MedMNIST stores them
        found = load_images(str(path), split=split)
        assert np.array_equal((found.x[:, 0] * 255).round().numpy(), wanted)
        assert found.y.tolist() == LABELS.tolist()
    for kind in ("U", "S"):
        write(
            path, images=train, labels=LABELS, split=np.array(["train", "test"] * 10).astype(kind)
        )
        named = load_images(str(path))
        assert np.array_equal((named.x[:, 0] * 255).round().numpy(), train[1::2])
        assert named.y.tolist() == LABELS[1::2].tolist() and named.num_classes == 4
        assert named.words == f"all 10 images in the split test of {path}"
    with pytest.raises(UserError, match="has test, train: choose one of them"):
        load_images(str(path), split="val")


def test_arrays_that_are_not_needed_are_not_unpacked(tmp_path: Path) -> None:
    trap = np.array([{}] * 20, dtype=object)
    assert len(read(tmp_path, x_test=BYTES, y_test=LABELS, x_train=trap, notes=trap).labels) == 20


def test_what_is_odd_is_a_warning(tmp_path: Path) -> None:
    notes = read(tmp_path, x=BYTES % 17, y=LABELS + 1).warnings
    assert [note.partition(": ")[2] for note in notes] == [
        "x reaches only 16 where 255 means white",
        "y begin at 1, and classes count from 0",
    ]
    notes = read(tmp_path, x=np.full((20, 8, 8), 0.5 / 255), y=LABELS).warnings
    assert "x reaches only 0.00196078 where 1 means white" in notes[0]
    found = load_images(str(write(tmp_path / "one.npz", x=BYTES, y=LABELS * 0)))
    assert found.num_classes == 2
    assert found.warnings == ("all 20 images are of the class 0",)


# Refused


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (floats_of(20, 8, 8) * 255, "allowed is 0 to 1: divide it by 255"),
        (floats_of(20, 8, 8) * 65535, "divide it by the value that means white"),
        (floats_of(20, 8, 8) * 4 - 2, "put the normalisation into the model"),
        (BYTES % 2, "is uint8 and reaches only 1 where 255 means white"),
        (np.zeros((20, 8, 8), np.uint8), "reaches only 0 where"),
        (BYTES.astype(int), "is int64, allowed are uint8 from 0 to 255 and floats"),
        (BYTES > 9, "is bool, allowed are uint8"),
        (BYTES.astype(str), "is <U3, allowed are uint8"),
        (floats_of(20, 8, 8) * 1j, "is complex128, allowed are uint8"),
        (HOLED, "holds NaN or infinity in 1 images, first in number 3"),
        (np.full((20, 8, 8), np.inf), "holds NaN or infinity in 20 images"),
        (random_images(20, 3, 8, 3), "the channels may come first or last"),
        (random_images(20, 1, 8, 1), "the channels may come first or last"),
        (random_images(20, 8, 8, 4), "allowed are images with 1 or 3 channels"),
        (random_images(20, 2, 8, 8), "allowed are images with 1 or 3 channels"),
        (random_images(20, 64), "has shape (20, 64), allowed are (N, H, W)"),
        (random_images(20), "has shape (20,), allowed are"),
        (np.array(3), "has shape (), allowed are"),
        (random_images(1, 20, 3, 8, 8), "has shape (1, 20, 3, 8, 8), allowed are"),
        (random_images(0, 8, 8), "which holds no pixel"),
        (random_images(20, 0, 8, 3), "which holds no pixel"),
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
        (LABELS[:, None, None], "of shape (20, 1, 1), needed is one label"),
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
    message = refused(tmp_path, x=BYTES, y=labels)
    assert f"{tmp_path / 'a.npz'}: y " in message and words in message


@pytest.mark.parametrize(
    ("split", "words"),
    [
        (labelled(("train", 19)), "split is <U5 of shape (19,), needed"),
        (LABELS, "split is int64 of shape (20,), needed"),
        (np.array([b"tr\xffin"] * 20), "split is <U5 of shape (20,) with ['tr"),
        *((labelled(("train", 9), (name, 11)), repr(name)) for name in ("valid", "Train", "test ")),
    ],
)
def test_a_wrong_split_is_refused(tmp_path: Path, split: np.ndarray, words: str) -> None:
    message = refused(tmp_path, images=BYTES, labels=LABELS, split=split)
    assert words in message and "np.str_" not in message
    assert f"needed is one of {', '.join(SPLITS)} for each of the 20 images" in message


def test_other_arrays_are_listed(tmp_path: Path) -> None:
    message = refused(tmp_path, pixels=BYTES, y=LABELS)
    assert "holds pixels, y: needed are the arrays x and y, or images and labels, or" in message
    message = refused(tmp_path, x=BYTES, y=LABELS, images=BYTES, labels=LABELS)
    assert "more than one pair of images and labels: keep one" in message
    path = write(tmp_path / "a.npz", x_test=BYTES, y_test=LABELS)
    with pytest.raises(UserError, match="or x_val and y_val"):
        load_images(str(path), split="val")


# As a dataset of the settings


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 1), (8, 8, 3), (11, 11, 3)])
def test_a_dataset_is_stored_channels_first(tmp_path: Path, shape: tuple[int, ...]) -> None:
    stored = random_images(80, *shape)
    np.savez(tmp_path / "a.npz", images=stored, labels=EVERY, notes=np.array(["mine"]))
    splits = load(tmp_path / "a.npz")
    channels = shape[2] if len(shape) == 3 else 1
    assert splits.images.dtype == torch.uint8 and splits.images.is_contiguous()
    planes = stored.reshape(80, *shape[:2], channels).transpose(0, 3, 1, 2)
    assert np.array_equal(splits.images.numpy(), planes)
    assert splits.labels.dtype == torch.int64 and splits.labels.tolist() == EVERY.tolist()
    info = splits.info
    assert (info.name, info.source, info.synthetic) == ("mine", "npz", False)
    assert (info.image_size, info.in_channels, info.scale) == (shape[0], channels, 255)
    assert info.num_classes == 4
    assert load(tmp_path / "a.npz", num_classes=7).info.num_classes == 7


def test_a_full_split_is_taken_as_it_is(tmp_path: Path) -> None:
    split = np.random.default_rng(0).permutation(
        labelled(("train", 30), ("search_val", 20), ("val", 5), ("test", 25))
    )
    for kind in ("U", "S"):
        splits = load(write_npz(tmp_path / "a.npz", split=split.astype(kind)))
        for name in SPLITS:
            assert splits.indices[name].tolist() == np.flatnonzero(split == name).tolist()


def test_older_names_of_splits_are_read_with_a_warning(tmp_path: Path) -> None:
    split = labelled(("train", 30), ("search_validation", 20), ("selection", 5), ("test", 25))
    path = write_npz(tmp_path / "a.npz", split=split)
    with pytest.warns(UserWarning, match="'selection' where it is now 'val': rename it"):
        splits = load(path)
    assert splits.counts() == {"train": 30, "search_val": 20, "val": 5, "test": 25}


@pytest.mark.parametrize("order", ["stratified", "contiguous"])
def test_splits_that_the_file_lacks_come_from_its_train(tmp_path: Path, order: str) -> None:
    split = labelled(("test", 20), ("train", 60))
    splits = load(write_npz(tmp_path / "a.npz", split=split), split=order, test_images=3)
    assert splits.counts() == {"train": 26, "search_val": 26, "val": 8, "test": 20}
    assert splits.indices["test"].tolist() == list(range(20))
    together = torch.cat([splits.indices[name] for name in SPLITS]).sort().values
    assert together.tolist() == list(range(80))


@pytest.mark.parametrize(
    ("arrays", "options", "words"),
    [
        ({"images": floats_of(80, 8, 8)}, {}, "path: images are floats, allowed is uint8"),
        ({"images": random_images(80, 8, 9)}, {}, "path: images are 8x9 with 1 channels"),
        ({"images": random_images(80, 8, 9, 3)}, {}, "path: images are 8x9 with 3 channels"),
        ({"images": random_images(80, 7, 7)}, {}, "squares of 8 pixels or more"),
        ({"images": random_images(80, 64)}, {}, "images has shape (80, 64)"),
        ({"labels": EVERY * 0}, {}, "path: labels are all 0: needed are two classes"),
        (
            {"labels": EVERY},
            {"num_classes": 3},
            "runs from 0 to 3, allowed are whole numbers",
        ),
        ({"images": None}, {}, "holds labels: needed are the arrays images and labels"),
        ({"labels": None}, {}, "holds images: needed are the arrays images and labels"),
        ({}, {"sha256": "0" * 64}, f"sha256 is {'0' * 64}, but"),
        ({}, {"test_images": 70}, " has 80 images to divide, but its settings need at least 86"),
        (
            {"split": labelled(("test", 40), ("val", 20), ("search_val", 20))},
            {},
            "has 0 images to ",
        ),
    ],
)
def test_what_no_dataset_can_be_made_of_is_refused(
    tmp_path: Path, arrays: dict[str, Any], options: dict[str, Any], words: str
) -> None:
    """A network that always says the same would be 100 % robust on a single class."""
    path = write_npz(tmp_path / "a.npz", **arrays)
    message = refused_as_dataset(path, **options)
    assert message.startswith("data.mine") and words in message
    if "sha256" in options:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        assert digest in message and len(load(path, sha256=digest).labels) == 80


@pytest.mark.parametrize("digest", ["0" * 63, "G" * 64, "A" * 64])
def test_a_malformed_sha256_is_refused_in_the_settings(digest: str) -> None:
    with pytest.raises(ValidationError, match="sha256"):
        npz_options("a.npz", sha256=digest)


def test_a_class_of_one_image_cannot_be_stratified(tmp_path: Path) -> None:
    path = write_npz(tmp_path / "a.npz", labels=np.r_[np.zeros(79, int), 1])
    message = refused_as_dataset(path)
    assert re.match(r"data\.mine\.test_images asks for 16 of 80 images", message)
    assert "split: contiguous" in message
    assert load(path, split="contiguous").counts()["test"] == 16


def test_a_copy_of_the_checkout_reads_the_file_where_it_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a queued experiment of DVC does; a file of the copy's own comes first."""
    main, copy = tmp_path / "main", tmp_path / "copy"
    for folder in (main, copy):
        folder.mkdir()
    write_npz(main / "mine.npz", **good_arrays())
    monkeypatch.chdir(copy)
    message = refused_as_dataset("mine.npz")
    assert message.startswith("data.mine.path is ") and str(copy / "mine.npz") in message
    monkeypatch.setenv("DVC_ROOT", str(main))
    assert load("mine.npz").info.name == "mine"
    (copy / "mine.npz").write_bytes(b"the copy's own")
    assert "not a readable npz" in refused_as_dataset("mine.npz")


# Damaged and hostile


@pytest.mark.parametrize("name", ["images", "labels", "split"])
def test_pickled_objects_are_refused_unopened(tmp_path: Path, name: str) -> None:
    trap = np.array([Trap(tmp_path / "sprung")] * 80, dtype=object)
    path = write_npz(tmp_path / "a.npz", **{name: trap})
    assert "is not a readable npz without pickles" in refusal(path)
    assert refused_as_dataset(path).startswith(f"data.mine.path: {path} is not")
    assert not (tmp_path / "sprung").exists()


def test_sizes_beyond_the_memory_are_refused_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The directory declares four gigabytes, the machine has three."""
    path = write(tmp_path / "a.npz", x=BYTES, y=LABELS)
    data = path.read_bytes()
    place = data.index(b"PK\x01\x02")
    path.write_bytes(data[: place + 24] + struct.pack("<I", 0xFFFFFFF0) + data[place + 28 :])
    monkeypatch.setattr("os.sysconf", lambda key: 3 if key == "SC_PHYS_PAGES" else 10**9)

    def unread(*_: Any, **__: Any) -> None:
        raise AssertionError("read")

    monkeypatch.setattr(np, "load", unread)
    assert "its arrays take 4 GB, this machine has 3 GB" in refusal(path)


HEADER = b"{'descr': '|u1', 'fortran_order': False, 'shape': (900000000000, 64, 64, 3), }\n"


@pytest.mark.parametrize(
    "members",
    [
        {"x.npy": b"\x93NUMPY\x01\x00" + struct.pack("<H", len(HEADER)) + HEADER + b"few"},
        {"x.npy": b"not an array", "y.npy": b"nor this"},
        {"x": b"not an array", "y": b"nor this"},
    ],
    ids=["declares more than there is", "no arrays", "no npy"],
)
def test_members_that_are_no_arrays_are_refused(tmp_path: Path, members: dict[str, bytes]) -> None:
    path = write(tmp_path / "a.npz", **({"y": LABELS} if len(members) == 1 else {}))
    with zipfile.ZipFile(path, "a") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    assert re.search(r"is not a readable npz|x has shape \(\), allowed", refusal(path))


@given(share=st.floats(0, 1, exclude_max=True))
@FUZZ
def test_a_truncated_file_is_refused(tmp_path: Path, share: float) -> None:
    data = write(tmp_path / "a.npz", x=BYTES, y=LABELS).read_bytes()
    (tmp_path / "b.npz").write_bytes(data[: int(share * len(data))])
    refusal(tmp_path / "b.npz")


@given(share=st.floats(0, 1, exclude_max=True), change=st.integers(1, 255))
@FUZZ
def test_a_changed_byte_is_refused_or_harmless(tmp_path: Path, share: float, change: int) -> None:
    """A few bytes of a zip, such as its times, mean nothing to the arrays."""
    data = bytearray(write(tmp_path / "a.npz", x=BYTES, y=LABELS).read_bytes())
    data[int(share * len(data))] ^= change
    path = tmp_path / "b.npz"
    path.write_bytes(data)
    try:
        found = read_npz_file(path, PAIRS)
    except UserError as error:
        assert "\n" not in str(error)
    else:
        assert np.array_equal(found.images[:, 0], BYTES)
        assert np.array_equal(found.labels, LABELS)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"<html>", "is a web page"),
        (b"\x93NUMPY\x01\x00", "is a single numpy array"),
        (b"hello", "is not a readable npz without pickles"),
        (b"PK\x03\x04", "is not a readable npz without pickles"),
    ],
)
def test_another_file_by_that_name_is_refused(tmp_path: Path, data: bytes, words: str) -> None:
    path = tmp_path / "a.npz"
    path.write_bytes(data)
    assert refusal(path).startswith(f"{path} {words}")
    assert refused_as_dataset(path).startswith(f"data.mine.path: {path} {words}")
