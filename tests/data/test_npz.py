"""A user's own file: every accepted layout, and every mistake named in one line."""

import hashlib
import pickle
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from image_cases import SPLITS, good_arrays, npz_options, random_images, write_npz
from pydantic import ValidationError

from arnas.data.sources.registry import load_dataset
from arnas.data.splits import Splits
from arnas.runtime.errors import UserError


def load(path: Path | str, **changes: object) -> Splits:
    return load_dataset("mine", npz_options(path, **changes))


def refusal(path: Path | str, **changes: object) -> str:
    """Return the one line that loading `path` ends in."""
    with pytest.raises(UserError) as caught:
        load(path, **changes)
    message = str(caught.value)
    assert "\n" not in message
    return message


def labelled(*names: tuple[str, int]) -> np.ndarray:
    return np.array([name for name, count in names for _ in range(count)])


# Accepted


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 1), (8, 8, 3), (11, 11, 3)])
def test_layouts_become_channels_first(tmp_path: Path, shape: tuple[int, ...]) -> None:
    stored = random_images(80, *shape)
    splits = load(write_npz(tmp_path / "a.npz", images=stored))
    channels = shape[2] if len(shape) == 3 else 1
    assert splits.images.dtype == torch.uint8
    assert splits.images.shape == (80, channels, *shape[:2])
    assert splits.images.is_contiguous()
    for channel in range(channels):
        plane = stored if len(shape) == 2 else stored[..., channel]
        assert np.array_equal(splits.images[:, channel].numpy(), plane)
    info = splits.info
    assert (info.name, info.source, info.synthetic) == ("mine", "npz", False)
    assert (info.image_size, info.in_channels, info.scale) == (shape[0], channels, 255)
    assert info.num_classes == 4


@pytest.mark.parametrize("dtype", ["uint8", "int16", "<i4", ">i8", "uint64"])
def test_labels_of_any_integer_type_become_int64(tmp_path: Path, dtype: str) -> None:
    splits = load(write_npz(tmp_path / "a.npz", labels=good_arrays()["labels"].astype(dtype)))
    assert splits.labels.dtype == torch.int64
    assert splits.labels.tolist() == (np.arange(80) % 4).tolist()


def test_the_number_of_classes_may_exceed_the_labels(tmp_path: Path) -> None:
    assert load(write_npz(tmp_path / "a.npz"), num_classes=7).info.num_classes == 7


def test_a_single_class_is_refused(tmp_path: Path) -> None:
    """A network that always says the same would be 100 % robust."""
    with pytest.raises(UserError, match="labels are all 0: needed are two classes"):
        load(write_npz(tmp_path / "a.npz", labels=np.zeros(80, dtype=np.int64)))


def test_an_uncompressed_file_is_read_too(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **good_arrays())
    assert len(load(tmp_path / "a.npz").labels) == 80


def test_further_arrays_are_ignored(tmp_path: Path) -> None:
    assert len(load(write_npz(tmp_path / "a.npz", notes=np.array(["mine"]))).labels) == 80


def test_a_relative_path_starts_at_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_npz(tmp_path / "a.npz")
    monkeypatch.chdir(tmp_path)
    assert len(load("a.npz").labels) == 80


def test_the_right_sha256_is_accepted(tmp_path: Path) -> None:
    path = write_npz(tmp_path / "a.npz")
    assert len(load(path, sha256=hashlib.sha256(path.read_bytes()).hexdigest()).labels) == 80


def test_a_full_split_is_taken_as_it_is(tmp_path: Path) -> None:
    split = np.random.default_rng(0).permutation(
        labelled(("train", 30), ("search_val", 20), ("val", 5), ("test", 25))
    )
    splits = load(write_npz(tmp_path / "a.npz", split=split))
    for name in SPLITS:
        assert splits.indices[name].tolist() == np.flatnonzero(split == name).tolist()


def test_a_split_stored_as_bytes_is_read(tmp_path: Path) -> None:
    split = labelled(("train", 60), ("test", 20))
    splits = load(write_npz(tmp_path / "a.npz", split=split.astype("S")))
    assert splits.indices["test"].tolist() == list(range(60, 80))


@pytest.mark.parametrize("order", ["stratified", "contiguous"])
def test_parts_that_the_file_lacks_come_from_its_train(tmp_path: Path, order: str) -> None:
    split = labelled(("test", 20), ("train", 60))
    splits = load(write_npz(tmp_path / "a.npz", split=split), split=order, test_images=3)
    assert splits.counts() == {"train": 26, "search_val": 26, "val": 8, "test": 20}
    assert splits.indices["test"].tolist() == list(range(20))
    together = torch.cat([splits.indices[name] for name in SPLITS]).sort().values
    assert together.tolist() == list(range(80))


# Refused


def test_a_missing_file_is_named_with_where_it_was_looked_for(tmp_path: Path) -> None:
    message = refusal(tmp_path / "none.npz")
    assert message.startswith("data.mine.path is ")
    assert str(tmp_path / "none.npz") in message


def test_a_wrong_sha256_shows_both(tmp_path: Path) -> None:
    path = write_npz(tmp_path / "a.npz")
    message = refusal(path, sha256="0" * 64)
    assert message.startswith(f"data.mine.sha256 is {'0' * 64}")
    assert hashlib.sha256(path.read_bytes()).hexdigest() in message


@pytest.mark.parametrize("digest", ["0" * 63, "G" * 64, "A" * 64])
def test_a_malformed_sha256_is_refused_in_the_settings(digest: str) -> None:
    with pytest.raises(ValidationError, match="sha256"):
        npz_options("a.npz", sha256=digest)


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"PK\x03\x04", pickle.dumps([1, 2])], ids=["0", "text", "zip", "pkl"]
)
def test_a_file_that_is_no_npz_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.npz").write_bytes(content)
    assert refusal(tmp_path / "a.npz").startswith("data.mine.path: ")


class Trap:
    """Unpickled, it would leave a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("name", ["images", "labels", "split"])
def test_pickled_objects_are_refused_unopened(tmp_path: Path, name: str) -> None:
    trap = np.array([Trap(tmp_path / "sprung")] * 80, dtype=object)
    message = refusal(write_npz(tmp_path / "a.npz", **{name: trap}))
    assert message.startswith("data.mine.path: ")
    assert "pickle" in message
    assert not (tmp_path / "sprung").exists()


def test_a_bare_npy_file_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", good_arrays()["images"])
    assert refusal(tmp_path / "a.npy").startswith("data.mine.path: ")


def test_an_archive_member_that_is_no_array_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("images", "not an array")
        archive.writestr("labels", "nor this")
    assert refusal(tmp_path / "a.npz").startswith("data.mine.path: ")


@pytest.mark.parametrize("kept", [0.01, 0.5, 0.99])
def test_a_truncated_file_is_refused(tmp_path: Path, kept: float) -> None:
    path = write_npz(tmp_path / "a.npz")
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    assert refusal(path).startswith("data.mine.path: ")


def test_a_flipped_byte_is_refused_or_harmless(tmp_path: Path) -> None:
    """A few bytes of a zip, such as its times, mean nothing to the arrays."""
    path = write_npz(tmp_path / "a.npz")
    data, good = path.read_bytes(), load(path)
    for place in range(0, len(data), 23):
        path.write_bytes(data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :])
        try:
            splits = load(path)
        except UserError as error:
            assert str(error).startswith("data.mine")
            assert "\n" not in str(error)
        else:
            assert torch.equal(splits.images, good.images)
            assert torch.equal(splits.labels, good.labels)


@pytest.mark.parametrize("absent", ["images", "labels"])
def test_an_absent_array_is_named(tmp_path: Path, absent: str) -> None:
    message = refusal(write_npz(tmp_path / "a.npz", **{absent: None}))
    assert f"lacks the array '{absent}'" in message


@pytest.mark.parametrize("dtype", ["float32", "int64", "bool", "uint16"])
def test_images_that_are_not_uint8_are_refused(tmp_path: Path, dtype: str) -> None:
    message = refusal(write_npz(tmp_path / "a.npz", images=np.zeros((80, 8, 8), dtype)))
    assert message.startswith(f"data.mine.path: images are {dtype}, allowed is uint8")


@pytest.mark.parametrize(
    "shape",
    [(80,), (80, 64), (80, 8, 9), (80, 8, 9, 3), (80, 3, 8, 8), (80, 8, 8, 2), (80, 7, 7), ()],
)
def test_images_of_another_shape_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    message = refusal(write_npz(tmp_path / "a.npz", images=np.zeros(shape, np.uint8)))
    assert message.startswith("data.mine.path: images have shape (")
    assert "square with S >= 8, channels last" in message


@pytest.mark.parametrize(
    "labels",
    [
        np.zeros(80),
        np.zeros(80, bool),
        np.array(["cat"] * 80),
        np.zeros(79, int),
        np.zeros((80, 1), int),
        np.array(3),
    ],
    ids=["float", "bool", "text", "too-few", "column", "scalar"],
)
def test_labels_of_another_type_or_shape_are_refused(tmp_path: Path, labels: np.ndarray) -> None:
    message = refusal(write_npz(tmp_path / "a.npz", labels=labels))
    assert message.startswith(f"data.mine.path: labels are {labels.dtype} of shape")
    assert "needed are integers of shape (80,)" in message


@pytest.mark.parametrize(("value", "classes"), [(-1, None), (4, 4), (200, 10)])
def test_labels_out_of_range_are_refused(tmp_path: Path, value: int, classes: int | None) -> None:
    labels = good_arrays()["labels"]
    labels[5] = value
    message = refusal(write_npz(tmp_path / "a.npz", labels=labels), num_classes=classes)
    low, high = min(value, 0), max(value, 3)
    assert message.startswith(f"data.mine.path: labels run from {low} to {high}, allowed are 0 to")


@pytest.mark.parametrize("name", ["valid", "Train", "", "test "])
def test_unknown_parts_are_listed(tmp_path: Path, name: str) -> None:
    split = labelled(("train", 70), (name, 10))
    message = refusal(write_npz(tmp_path / "a.npz", split=split))
    assert message.startswith("data.mine.path: split has")
    assert repr(name) in message
    assert all(split in message for split in SPLITS)


def test_a_split_of_the_wrong_length_is_refused(tmp_path: Path) -> None:
    message = refusal(write_npz(tmp_path / "a.npz", split=labelled(("train", 79))))
    assert message.startswith("data.mine.path: split has shape (79,)")


def test_a_split_of_unreadable_bytes_is_refused(tmp_path: Path) -> None:
    split = np.array([b"tr\xffin"] * 80)
    assert refusal(write_npz(tmp_path / "a.npz", split=split)).startswith("data.mine.path: split")


def test_unknown_parts_are_listed_as_text(tmp_path: Path) -> None:
    split = labelled(("train", 70), ("valid", 10))
    assert "np.str_" not in refusal(write_npz(tmp_path / "a.npz", split=split))


def test_too_few_images_are_refused_with_the_count_needed(tmp_path: Path) -> None:
    message = refusal(write_npz(tmp_path / "a.npz"), test_images=70)
    assert message.startswith("data.mine has 80 images to divide")
    assert "at least 86" in message
    assert "data.mine.test_images" in message


def test_a_split_that_leaves_nothing_to_train_on_is_refused(tmp_path: Path) -> None:
    split = labelled(("test", 40), ("val", 20), ("search_val", 20))
    message = refusal(write_npz(tmp_path / "a.npz", split=split))
    assert message.startswith("data.mine has 0 images to divide")


def test_a_class_of_one_image_cannot_be_stratified(tmp_path: Path) -> None:
    labels = np.r_[np.zeros(79, int), 1]
    message = refusal(write_npz(tmp_path / "a.npz", labels=labels))
    assert re.match(r"data\.mine\.test_images asks for 16 of 80 images", message)
    assert "split: contiguous" in message
    splits = load(tmp_path / "a.npz", split="contiguous")
    assert splits.counts()["test"] == 16


def test_a_copy_of_the_checkout_reads_the_file_where_it_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a queued experiment of DVC does; a file of the copy's own comes first."""
    main, copy = tmp_path / "main", tmp_path / "copy"
    for folder in (main, copy):
        folder.mkdir()
    write_npz(main / "mine.npz", **good_arrays())
    monkeypatch.chdir(copy)
    assert "no such file" in refusal("mine.npz")
    monkeypatch.setenv("DVC_ROOT", str(main))
    assert load("mine.npz").info.name == "mine"
    (copy / "mine.npz").write_bytes(b"the copy's own")
    assert "not a readable npz" in refusal("mine.npz")
