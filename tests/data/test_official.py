"""CIFAR and SVHN as their authors' files have them, and the official test set kept apart."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from official_cases import Cifar, Svhn, address, refusal, send_file, serving, use
from torchvision.datasets import CIFAR10, CIFAR100

from arnas.data.sources.registry import SPLITS
from arnas.data.splits import Splits


@pytest.fixture(params=[CIFAR10, CIFAR100], ids=["cifar10", "cifar100"])
def cifar(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cifar:
    made = Cifar(tmp_path / "root", request.param)
    use(monkeypatch, made.source, reader=made.reader)
    return made


@pytest.fixture
def svhn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Svhn:
    made = Svhn(tmp_path / "root")
    use(monkeypatch, "svhn", reader=made.reader)
    return made


def check(splits: Splits, names: Sequence[str], images: np.ndarray, labels: np.ndarray) -> None:
    """Compare images and labels of splits with what was written, in any order within the splits."""
    found = splits.subset(*names)
    order = torch.cat([splits.indices[name] for name in names]).argsort()
    assert np.array_equal(found.images[order].numpy(), images)
    assert np.array_equal(found.labels[order].numpy(), labels)


# CIFAR


def test_cifar_is_what_was_written(cifar: Cifar) -> None:
    splits = cifar.load()
    assert splits.counts() == {"train": 25, "search_val": 25, "val": 10, "test": 20}
    check(splits, ["test"], cifar.test, cifar.test_labels)
    check(splits, SPLITS[:3], cifar.train, cifar.train_labels)
    info = splits.info
    assert (info.source, info.num_classes, info.image_size) == (cifar.source, 10, 32)
    assert (info.in_channels, info.scale, info.synthetic) == (3, 255, False)
    assert "Krizhevsky" in info.citation
    assert splits.images.is_contiguous()
    assert splits.sha256 is None


@pytest.mark.parametrize("count", [1, 7, 20])
def test_a_number_of_test_images_means_the_first_so_many(cifar: Cifar, count: int) -> None:
    splits = cifar.load(test_images=count)
    assert splits.counts()["test"] == count
    check(splits, ["test"], cifar.test[:count], cifar.test_labels[:count])
    check(splits, SPLITS[:3], cifar.train, cifar.train_labels)


def test_more_test_images_than_there_are_is_a_mistake(cifar: Cifar) -> None:
    assert "data.mine.test_images is 21, but its test set has 20" in cifar.refusal(test_images=21)


def test_seed_and_sizes_change_nothing_about_the_test_set(cifar: Cifar) -> None:
    one, other = cifar.load(), cifar.load(split_seed=5, val_images=20)
    assert torch.equal(one.subset("test").images, other.subset("test").images)
    assert not torch.equal(one.subset("val").images[:10], other.subset("val").images[:10])


def test_reading_warns_of_nothing(cifar: Cifar) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cifar.load()


# SVHN


def test_svhn_is_what_was_written_with_ten_as_zero(svhn: Svhn) -> None:
    (svhn.root / "extra_32x32.mat").unlink()
    splits = svhn.load()
    assert splits.counts() == {"train": 25, "search_val": 25, "val": 10, "test": 20}
    check(splits, ["test"], svhn.images["test"].transpose(0, 3, 1, 2), svhn.labels["test"] % 10)
    assert (svhn.labels["test"] == 10).sum() == 2, "the case has the label that is mapped"
    images = svhn.images["train"].transpose(0, 3, 1, 2)
    check(splits, SPLITS[:3], images, svhn.labels["train"] % 10)
    assert (splits.info.num_classes, splits.info.image_size) == (10, 32)


def test_the_extra_set_is_for_training_only(svhn: Svhn) -> None:
    splits = svhn.load(extra=True)
    assert splits.counts()["test"] == 20
    assert torch.equal(splits.subset("test").images, svhn.load().subset("test").images)
    images = np.concatenate([svhn.images[fold] for fold in ("train", "extra")])
    labels = np.concatenate([svhn.labels[fold] for fold in ("train", "extra")]) % 10
    check(splits, SPLITS[:3], images.transpose(0, 3, 1, 2), labels)


@pytest.mark.parametrize("fold", ["train", "test", "extra"])
def test_a_missing_or_damaged_svhn_file_is_named(svhn: Svhn, fold: str) -> None:
    _, name, digest = svhn.reader.split_list[fold]
    path, options = svhn.root / name, svhn.options(extra=True)
    path.write_bytes(path.read_bytes()[:-7])
    message = refusal(options)
    assert f"{path}, which is damaged" in message
    assert digest in message
    path.unlink()
    message = refusal(options)
    assert f"needs {name} in {svhn.root}" in message
    assert f"{name} (md5 {digest})" in message
    assert "http://ufldl.stanford.edu/housenumbers/" in message


def test_svhn_files_are_fetched_one_by_one(svhn: Svhn) -> None:
    before = svhn.load()
    for _, name, _ in (svhn.reader.split_list[fold] for fold in ("train", "test")):
        svhn.root.joinpath(name).rename(svhn.root.parent / name)
    with serving(send_file) as server:
        for listed in svhn.reader.split_list.values():
            listed[0] = address(server, svhn.root.parent / listed[1])
        assert torch.equal(svhn.load(download=True).images, before.images)
    files = {path.name for path in svhn.root.iterdir() if path.name[0] != "."}
    assert files == {"train_32x32.mat", "test_32x32.mat", "extra_32x32.mat"}
