"""The four splits: complete, disjoint, fair, reproducible, and verified when read back."""

import tracemalloc
import warnings
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from image_cases import SPLITS
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_digits

from arnas.data.load import load_dataset
from arnas.data.sources.registry import SOURCES, DigitsOptions, NoTestSetOptions
from arnas.data.splits import (
    DatasetInfo,
    Splits,
    cut,
    leaked,
    load_splits,
    save_splits,
    to_pixels,
)
from arnas.runtime.errors import UserError
from arnas.runtime.files import read_description, save_tensors

INFO = DatasetInfo("tiny", "npz", False, 3, 8, 1, 255, "none")


def digits(**changes: object) -> Splits:
    sizes = {"test_images": 360, "val_images": 144, **changes}
    return load_dataset("digits", DigitsOptions(source="sklearn_digits", **sizes))


def tiny(labels: np.ndarray, **changes: object) -> Splits:
    options = NoTestSetOptions(**{"test_images": 12, "val_images": 6, **changes})
    images = np.random.default_rng(0).integers(0, 256, (len(labels), 1, 8, 8), dtype=np.uint8)
    info = replace(INFO, num_classes=int(labels.max()) + 1)
    return cut(images, labels, info, options)


def lists(splits: Splits) -> dict[str, list[int]]:
    return {name: splits.indices[name].tolist() for name in SPLITS}


# The digits


def test_the_digits_are_scikit_learns() -> None:
    splits, original = digits(), load_digits()
    assert splits.images.shape == (1797, 1, 8, 8)
    assert np.array_equal(splits.images[:, 0].numpy(), original.images)
    assert np.array_equal(splits.labels.numpy(), original.target)
    pixels = splits.pixels(splits.images)
    assert pixels.dtype == torch.float32
    assert np.array_equal(pixels[:, 0].double().numpy() * 16, original.images)
    assert (pixels.min(), pixels.max()) == (0, 1)
    info = splits.info
    assert (info.num_classes, info.image_size, info.in_channels, info.scale) == (10, 8, 1, 16)
    assert not info.synthetic


def test_every_source_says_what_it_is() -> None:
    for name, source in SOURCES.items():
        assert get_args(source.options.model_fields["source"].annotation) == (name,)
        assert source.citation
        if source.size is not None:
            words = f": {source.size.train:,} + {source.size.test:,} photographs of "
            side, classes = source.size.image_size, source.size.num_classes
            assert f"{words}{side}x{side} in {classes} " in str(source.options.__doc__)
    assert [name for name, source in SOURCES.items() if source.synthetic] == ["shapes"]


@pytest.mark.parametrize("split", ["stratified", "contiguous"])
def test_the_parts_are_disjoint_complete_and_of_the_sizes_asked_for(split: str) -> None:
    splits = digits(split=split, search_val_fraction=0.25)
    together = torch.cat([splits.indices[name] for name in SPLITS])
    assert together.dtype == torch.int64
    assert sorted(together.tolist()) == list(range(1797))
    assert all(split == sorted(split) for split in lists(splits).values()), "stored order"
    rest = 1797 - 360 - 144
    expected = {"search_val": round(rest / 4), "val": 144, "test": 360}
    assert splits.counts() == {"train": rest - round(rest / 4), **expected}


@given(
    counts=st.lists(st.integers(12, 40), min_size=2, max_size=5),
    test_images=st.integers(6, 20),
    val_images=st.integers(6, 12),
    fraction=st.floats(0.3, 0.7),
    seed=st.integers(0, 100),
)
@settings(max_examples=40, derandomize=True, deadline=None)
def test_stratified_parts_have_the_shares_of_what_they_are_cut_from(
    counts: list[int], test_images: int, val_images: int, fraction: float, seed: int
) -> None:
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    sizes = {"test_images": test_images, "val_images": val_images}
    try:
        splits = tiny(labels, **sizes, split_seed=seed, search_val_fraction=fraction)
    except UserError:
        assert sum(sizes.values()) + 2 * len(counts) > len(labels)
        return
    left = Counter(labels.tolist())
    assert sorted(np.concatenate(list(lists(splits).values()))) == list(range(len(labels)))
    for name in ("test", "val", "search_val"):
        found = Counter(labels[splits.indices[name]].tolist())
        share = found.total() / left.total()
        assert all(abs(found[label] - share * left[label]) < 1 for label in left)
        left -= found


def test_the_seed_decides_a_stratified_split() -> None:
    assert lists(digits(split_seed=3)) == lists(digits(split_seed=3))
    one, other = lists(digits(split_seed=0)), lists(digits(split_seed=1))
    assert all(one[name] != other[name] for name in SPLITS)


def test_a_split_leaves_the_global_random_numbers_alone() -> None:
    np.random.seed(0)
    before = np.random.get_state()[1].tolist()
    digits()
    assert np.random.get_state()[1].tolist() == before


def test_a_contiguous_split_keeps_the_stored_order_and_ends_with_the_test() -> None:
    splits = digits(split="contiguous")
    in_order = [splits.indices[name] for name in SPLITS]
    assert torch.equal(torch.cat(in_order), torch.arange(1797))
    assert lists(splits) == lists(digits(split="contiguous", split_seed=9))


@pytest.mark.parametrize("fraction", [1e-6, 1 - 1e-6])
def test_an_extreme_fraction_leaves_neither_side_empty(fraction: float) -> None:
    splits = tiny(np.arange(60) % 3, search_val_fraction=fraction, split="contiguous")
    assert min(splits.counts().values()) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"test_images": 0},
        {"val_images": 0},
        {"search_val_fraction": 0.0},
        {"search_val_fraction": 1.0},
        {"split": "random"},
        {"split_seed": -1},
        {"test_images": 1.5},
        {"train_images": 5},
    ],
)
def test_impossible_settings_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=next(iter(change))):
        NoTestSetOptions(**{"test_images": 12, "val_images": 6, **change})


def test_too_many_images_asked_for_name_the_dataset() -> None:
    with pytest.raises(UserError, match=r"data\.digits has 1797 images to divide") as caught:
        digits(test_images=1700)
    assert "\n" not in str(caught.value)


def test_parts_are_joined_in_the_order_named() -> None:
    splits = digits()
    joined = splits.subset("test", "train")
    index = torch.cat([splits.indices["test"], splits.indices["train"]])
    assert torch.equal(joined.images, splits.images[index])
    assert torch.equal(joined.labels, splits.labels[index])


@pytest.mark.parametrize("scale", [16, 255])
def test_pixels_are_the_stored_values_over_the_scale(scale: int) -> None:
    stored = torch.arange(scale + 1, dtype=torch.uint8)
    expected = (np.arange(scale + 1) / scale).astype(np.float32)
    assert np.array_equal(to_pixels(stored, scale).numpy(), expected)


# Leaks


def by_hand(images: list[list[int]], **indices: list[int]) -> Splits:
    """Return splits of one-row images; splits that are not given have one odd image each."""
    left = [name for name in SPLITS if name not in indices]
    odd = {name: [len(images) + i] for i, name in enumerate(left)}
    rows = [*images, *([201 + i, 0, 0] for i in range(len(odd)))]
    stored = torch.tensor(rows, dtype=torch.uint8).view(-1, 1, 1, 3)
    splits = {name: torch.tensor(index) for name, index in {**odd, **indices}.items()}
    return Splits(stored, torch.zeros(len(rows)).long(), splits, INFO)


A, B, C, D = [1, 2, 3], [3, 2, 1], [0, 0, 0], [0, 0, 1]


def test_parts_that_share_nothing_leak_nothing() -> None:
    """Images count as equal only if every pixel is."""
    assert leaked(by_hand([A, B, C, D], train=[0, 2], test=[1, 3])) == (0, 0)
    assert leaked(digits()) == (0, 0)


@pytest.mark.parametrize("split", ["train", "search_val", "val"])
def test_test_images_and_their_copies_are_found_in_other_splits(split: str) -> None:
    """An image counts once, though it is in the split twice, and its pixels are then there too.

    Both test images with equal pixels count, and the copies among themselves do not.
    """
    assert leaked(by_hand([A, B, C], test=[0, 1], **{split: [2, 1, 1]})) == (1, 1)
    assert leaked(by_hand([A, A, A, B, B], test=[0, 1, 3, 4], **{split: [2]})) == (0, 2)
    assert leaked(by_hand([A, A, B, B], test=[0, 1], **{split: [2, 3]})) == (0, 0)
    several = {"train": [3], "search_val": [4], "val": [5], "test": [0, 1, 2]}
    assert leaked(by_hand([A, B, C, A, B, A], **several)) == (0, 2)


def test_a_copy_with_another_label_is_a_copy() -> None:
    splits = by_hand([A, A], train=[0], test=[1])
    splits.labels[1] = 1
    assert leaked(splits) == (0, 1)


def test_looking_for_leaks_holds_no_copy_of_the_images() -> None:
    """100,000 images of 64x64 are 1.2 GB; here it is 12 MB."""
    images = torch.arange(1000, dtype=torch.int32).view(torch.uint8).view(1000, 1, 1, 4)
    images = images.repeat(1, 1, 64, 48)
    images[900] = images[5]
    indices = torch.arange(1000).split([300, 300, 200, 200])
    splits = Splits(images, torch.zeros(1000).long(), dict(zip(SPLITS, indices, strict=True)), INFO)
    tracemalloc.start()
    try:
        assert leaked(splits) == (0, 1)
        assert tracemalloc.get_traced_memory()[1] < 1e6
    finally:
        tracemalloc.stop()


# Stored


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    path = tmp_path / "splits.safetensors"
    save_splits(path, tiny(np.arange(60) % 3))
    return path


def test_what_is_stored_comes_back(stored: Path) -> None:
    splits = tiny(np.arange(60) % 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = load_splits(stored)
    assert found.info == splits.info
    assert torch.equal(found.images, splits.images)
    assert torch.equal(found.labels, splits.labels)
    assert lists(found) == lists(splits)
    assert found.images.dtype == torch.uint8
    assert found.labels.dtype == torch.int64
    assert read_description(stored)["counts"] == splits.counts()


def test_the_same_splits_are_the_same_bytes(stored: Path, tmp_path: Path) -> None:
    save_splits(tmp_path / "again.safetensors", tiny(np.arange(60) % 3))
    assert (tmp_path / "again.safetensors").read_bytes() == stored.read_bytes()


def test_a_file_without_its_description_is_no_dataset(stored: Path) -> None:
    save_file(load_file(stored), stored)
    with (
        pytest.warns(UserWarning, match="not verified"),
        pytest.raises(UserError, match="does not hold a dataset's splits"),
    ):
        load_splits(stored)


def test_a_file_with_the_older_names_says_what_to_rerun(tmp_path: Path) -> None:
    tensors = {name: torch.zeros(1) for name in ("images", "search_validation", "selection")}
    save_tensors(tmp_path / "splits.safetensors", tensors, {})
    with pytest.raises(UserError, match=r"earlier versions did .*: rerun `python -m arnas data`"):
        load_splits(tmp_path / "splits.safetensors")
