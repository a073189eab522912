"""CIFAR and SVHN as their authors' files have them, and the official test set kept apart."""

import warnings
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


def pairs(images: np.ndarray | torch.Tensor, labels: np.ndarray | torch.Tensor) -> list[tuple]:
    """Return the images with their labels, in an order of their own."""
    stored = [np.asarray(image).tobytes() for image in images]
    return sorted(zip(stored, np.asarray(labels).tolist(), strict=True))


def learning(splits: Splits) -> list[tuple]:
    return pairs(*splits.subset(*SPLITS[:3]))


# CIFAR


def test_cifar_is_what_was_written(cifar: Cifar) -> None:
    splits = cifar.load()
    assert splits.counts() == {"train": 25, "search_val": 25, "val": 10, "test": 20}
    test = splits.subset("test")
    assert np.array_equal(test.images.numpy(), cifar.test)
    assert np.array_equal(test.labels.numpy(), cifar.test_labels)
    assert learning(splits) == pairs(cifar.train, cifar.train_labels)
    info = splits.info
    assert (info.source, info.num_classes, info.image_size) == (cifar.source, 10, 32)
    assert (info.in_channels, info.scale, info.synthetic) == (3, 255, False)
    assert "Krizhevsky" in info.citation
    assert splits.images.is_contiguous()
    assert splits.sha256 is None


def test_cifar_is_what_torchvision_reads(cifar: Cifar) -> None:
    splits = cifar.load(split="contiguous")
    for names, train in ((SPLITS[:3], True), (SPLITS[3:], False)):
        official = cifar.reader(cifar.root, train=train)
        found = splits.subset(*names)
        if train:  # in stored order: what is left to train, search_val, val
            assert np.array_equal(found.labels.numpy(), official.targets)
        expected = np.stack([np.asarray(official[i][0]) for i in range(len(official))])
        assert np.array_equal(found.images.permute(0, 2, 3, 1).numpy(), expected)


@pytest.mark.parametrize("count", [1, 7, 20])
def test_a_number_of_test_images_means_the_first_so_many(cifar: Cifar, count: int) -> None:
    splits = cifar.load(test_images=count)
    assert splits.counts()["test"] == count
    assert np.array_equal(splits.subset("test").images.numpy(), cifar.test[:count])
    assert learning(splits) == pairs(cifar.train, cifar.train_labels), "the others are not used"


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
    test = splits.subset("test")
    assert np.array_equal(test.images.permute(0, 2, 3, 1).numpy(), svhn.images["test"])
    assert np.array_equal(test.labels.numpy(), svhn.labels["test"] % 10)
    assert (svhn.labels["test"] == 10).sum() == 2, "the case has the label that is mapped"
    images = svhn.images["train"].transpose(0, 3, 1, 2)
    assert learning(splits) == pairs(images, svhn.labels["train"] % 10)
    assert (splits.info.num_classes, splits.info.image_size) == (10, 32)


def test_svhn_is_what_torchvision_reads(svhn: Svhn) -> None:
    official = svhn.reader(svhn.root, split="test")
    test = svhn.load(test_images=12).subset("test")
    assert np.array_equal(test.images.numpy(), official.data[:12])
    assert np.array_equal(test.labels.numpy(), official.labels[:12])


def test_the_extra_set_is_for_training_only(svhn: Svhn) -> None:
    splits = svhn.load(extra=True)
    assert splits.counts()["test"] == 20
    assert torch.equal(splits.subset("test").images, svhn.load().subset("test").images)
    images = np.concatenate([svhn.images[fold] for fold in ("train", "extra")])
    labels = np.concatenate([svhn.labels[fold] for fold in ("train", "extra")]) % 10
    assert learning(splits) == pairs(images.transpose(0, 3, 1, 2), labels)


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
