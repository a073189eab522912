"""Images by a text: the pixels that other readers read, or a sentence that says why not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from folder_cases import CLASSES, listed, noise, write_classes
from official_cases import Cifar, use
from PIL import Image
from refusals import refusal_of
from torch import Tensor
from torchvision.transforms import functional

from arnas.data.load import CUT, NamedImages, images_sha256, load_dataset, load_images
from arnas.data.splits import save_splits

ROOT = Path(__file__).parents[2]


def refusal(spec: Path | str, **arguments: Any) -> str:
    return refusal_of(load_images, str(spec), **arguments)


def sound(found: NamedImages) -> bool:
    """Return whether everything about some images fits together."""
    n = len(found.y)
    return (
        found.x.dtype == torch.float32
        and found.x.is_contiguous()
        and found.x.ndim == 4
        and len(found.x) == len(found.indices) == n
        and found.y.dtype == found.indices.dtype == torch.int64
        and 0 <= float(found.x.min()) <= float(found.x.max()) <= 1
        and 0 <= int(found.y.min()) <= int(found.y.max()) < found.num_classes
        and int(found.indices.max()) < found.dataset_size
        and bool((found.indices.diff() > 0).all())
        and found.sha256 == images_sha256(found.x, found.y)
    )


# Datasets that the project cuts


@pytest.mark.parametrize("name", CUT)
def test_the_parts_are_those_of_the_default_settings(name: str) -> None:
    file, key = {"mnist5k": ("workflow/presets/mnist5k.yaml", "mnist")}.get(
        name, ("params.yaml", name)
    )
    settings = yaml.safe_load((ROOT / file).read_text())["data"][key]
    assert type(CUT[name])(**settings) == CUT[name]


def test_digits_are_the_test_split() -> None:
    found = load_images("digits")
    assert sound(found)
    assert (found.dataset_size, found.num_classes, found.name) == (360, 10, "digits")
    splits = load_dataset("digits", CUT["digits"])
    assert torch.equal(found.x, splits.pixels(splits.subset("test").images))
    assert torch.equal(found.y, splits.subset("test").labels)
    assert torch.equal(found.indices, torch.arange(360))
    assert found.words == (
        "all 360 images in the split test of digits, as the default settings cut it"
    )
    assert found.warnings == ()


def test_other_parts_are_other_images() -> None:
    splits = {split: load_images("digits", split=split) for split in ("train", "val", "test")}
    assert all(sound(found) for found in splits.values())
    assert splits["val"].dataset_size == 144
    assert len({found.sha256 for found in splits.values()}) == 3


@pytest.mark.parametrize("count", [1, 10, 360])
def test_a_number_of_images_means_the_first(count: int) -> None:
    found, whole = load_images("digits", count=count), load_images("digits")
    assert sound(found)
    assert torch.equal(found.x, whole.x[:count]) and torch.equal(found.y, whole.y[:count])
    assert torch.equal(found.indices, torch.arange(count)) and found.dataset_size == 360
    assert (f"the first {count} of the 360" in found.words) == (count < 360)


def test_a_stratified_choice_has_equal_shares_and_depends_on_its_seed() -> None:
    whole = load_images("digits")
    chosen = [
        load_images("digits", count=100, choice="stratified", seed=seed) for seed in (0, 0, 1)
    ]
    for found in chosen:
        assert sound(found)
        assert torch.equal(found.x, whole.x[found.indices])
        assert set(found.y.bincount().tolist()) <= {9, 10, 11}
    assert torch.equal(chosen[0].indices, chosen[1].indices)
    assert not torch.equal(chosen[0].indices, chosen[2].indices)
    assert "100 of the 360 images, drawn in equal class shares with seed 1," in chosen[2].words
    assert "cannot be drawn in equal class shares" in refusal(
        "digits", count=3, choice="stratified"
    )


@pytest.mark.parametrize("count", [0, -1, 361, 1.5, True, "3"])
def test_an_impossible_count_is_refused(count: Any) -> None:
    message = refusal("digits", count=count)
    assert message.startswith(f"count is {count!r}, but there are 360 images")


def test_shapes_are_there_too() -> None:
    found = load_images("shapes", count=20)
    assert sound(found) and found.x.shape == (20, 3, 16, 16) and found.dataset_size == 120


def test_splits_of_a_run_are_read_by_their_part(tmp_path: Path) -> None:
    path = tmp_path / "splits.safetensors"
    save_splits(path, load_dataset("mine", CUT["digits"]))
    for split in ("test", "val"):
        found, named = load_images(str(path), split=split), load_images("digits", split=split)
        assert sound(found) and found.sha256 == named.sha256 and found.name == "mine"
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert "is damaged or was edited" in refusal(path)


# Public datasets


def test_cifar_is_its_official_test_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Cifar(tmp_path / "root")
    use(monkeypatch, made.source, reader=made.reader)
    monkeypatch.setenv("ARNAS_DATA", str(made.root))
    found = load_images(made.source)
    assert sound(found)
    assert np.array_equal((found.x * 255).round().to(torch.uint8).numpy(), made.test)
    assert np.array_equal(found.y.numpy(), made.test_labels)
    assert f"all 20 images in the official test set of {made.source}" == found.words
    train = load_images(made.source, split="train", count=7)
    assert np.array_equal((train.x * 255).round().to(torch.uint8).numpy(), made.train[:7])
    assert "comes with train and test only" in refusal(made.source, split="val")


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "svhn", "tiny_imagenet"])
def test_a_public_dataset_that_is_not_there_is_not_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def fetched(*_: Any, **__: Any) -> None:
        raise AssertionError("fetched")

    monkeypatch.setattr("arnas.data.sources.fetch.download_url", fetched)
    monkeypatch.setenv("ARNAS_DATA", str(tmp_path / "here"))
    message = refusal(name)
    assert str(tmp_path / "here") in message and "md5" in message
    assert not (tmp_path / "here").exists()
    with pytest.raises(AssertionError, match="fetched"):
        load_images(name, download=True)


# Folders


def stored(found: NamedImages) -> dict[bytes, int]:
    pixels = (found.x * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return {image.tobytes(): label for image, label in zip(pixels, found.y.tolist(), strict=True)}


def test_a_folder_without_splits_is_read_whole(flat: Path) -> None:
    found = load_images(str(flat))
    assert sound(found) and stored(found) == listed(flat)
    assert (found.num_classes, found.name) == (len(CLASSES), "mine")
    assert found.words == f"all 36 images in {flat}"


def test_the_first_images_of_a_folder_are_of_all_classes(flat: Path) -> None:
    found = load_images(str(flat), count=12)
    assert sound(found) and len(found.y.unique()) == 3


def test_a_folder_with_splits_is_read_by_them(divided: Path) -> None:
    assert stored(load_images(str(divided))) == listed(divided / "test")
    assert stored(load_images(str(divided), split="train")) == listed(divided / "train")
    assert "has test, train: choose one" in refusal(divided, split="val")


def labels_by_folder(found: NamedImages, folder: Path) -> dict[str, int]:
    """Return the label of each folder's images, which are all different."""
    by_pixels = {image.numpy().tobytes(): int(y) for image, y in zip(found.x, found.y, strict=True)}
    return {
        path.parent.name: by_pixels[pixels(path).numpy().tobytes()]
        for path in folder.glob("*/*")
        if path.suffix == ".png"
    }


def pixels(path: Path) -> Tensor:
    return functional.to_tensor(Image.open(path).convert("RGB"))


def test_folders_of_numbers_are_in_the_order_of_the_numbers(flat: Path) -> None:
    for old, new in zip(CLASSES, ("10", "9", "2"), strict=True):
        (flat / old).rename(flat / new)
    found = load_images(str(flat))
    assert labels_by_folder(found, flat) == {"2": 0, "9": 1, "10": 2}
    assert found.classes == ("2", "9", "10")
    assert "in the order of the numbers, not of the text" in found.warnings[0]


def test_a_folder_without_images_keeps_its_number(flat: Path) -> None:
    (flat / "aardvark").mkdir()
    found = load_images(str(flat))
    assert labels_by_folder(found, flat) == {name: n for n, name in enumerate(CLASSES, 1)}
    assert found.num_classes == len(CLASSES) + 1
    assert found.warnings == ("1 classes have no image and keep their number: aardvark",)


def test_the_order_of_the_classes_may_be_given(flat: Path) -> None:
    order = (CLASSES[2], "elsewhere", CLASSES[0], CLASSES[1])
    found = load_images(str(flat), classes=order)
    assert labels_by_folder(found, flat) == {CLASSES[2]: 0, CLASSES[0]: 2, CLASSES[1]: 3}
    assert "which is not among the 2 classes given" in refusal(flat, classes=CLASSES[:2])


def test_the_shorter_side_is_resized_and_the_centre_cut_out(flat: Path) -> None:
    noise(1, 40, 24).save(flat / CLASSES[0] / "other.png")
    found = load_images(str(flat), image_size=8, resize=12)
    image = Image.open(flat / CLASSES[0] / "other.png")
    expected = functional.center_crop(functional.resize(image, 12), 8)
    assert any(torch.equal(x, functional.to_tensor(expected)) for x in found.x)
    assert "resize is 6: allowed are the size of the crop, 8, to" in refusal(
        flat, image_size=8, resize=6
    )


def test_images_of_a_folder_may_be_resized_and_made_grey(flat: Path) -> None:
    noise(1, 20, 12).save(flat / CLASSES[0] / "other.png")
    assert "it has 20x12 pixels, needed are 10x10, or image_size to resize all to" in refusal(flat)
    found = load_images(str(flat), image_size=8, grey=True)
    assert sound(found) and found.x.shape == (37, 1, 8, 8)
    assert "image_size is 3: allowed are 8 to 1024" in refusal(flat, image_size=3)


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    message = refusal(tmp_path)
    assert message.startswith(f"{tmp_path} is not a folder with a folder of images")
    write_classes(tmp_path, classes=("one",))
    assert "has one class, 'one'" in refusal(tmp_path)


# What names nothing


@pytest.mark.parametrize("spec", ["nothing", "CIFAR10", "", "x" * 5000, "a\0b", "absent.npz"])
def test_what_is_not_there_is_refused_with_what_is_allowed(spec: str) -> None:
    assert "allowed are digits, mnist5k, shapes, cifar10, " in refusal(spec)


@pytest.mark.parametrize("name", ["a.txt", "a", "a.npy", "a.pt"])
def test_another_ending_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    assert "is no file of images by its name" in refusal(tmp_path / name)


def test_unknown_words_are_refused() -> None:
    assert "split is 'tests': allowed are train, search_val," in refusal("digits", split="tests")
    assert "choice is 'best': allowed are first, stratified" in refusal("digits", choice="best")


# Digests


def test_the_digest_is_that_of_the_images_and_not_of_the_file(tmp_path: Path) -> None:
    found = load_images("digits", count=50)
    np.savez(tmp_path / "a.npz", x=found.x.numpy(), y=found.y.numpy())
    grey = found.x[:, 0].numpy().astype(">f8")
    np.savez_compressed(tmp_path / "b.npz", images=grey, labels=found.y.numpy().astype("u1"))
    for name in ("a.npz", "b.npz"):
        assert load_images(str(tmp_path / name)).sha256 == found.sha256


def test_the_digest_sees_pixels_labels_order_and_shape() -> None:
    x, y = torch.rand(4, 1, 2, 8), torch.arange(4)
    changed = x.clone()
    changed[3, 0, 1, 7] += 1e-6
    digests = {
        images_sha256(*pair)
        for pair in [(x, y), (changed, y), (x, y.flip(0)), (x.flip(0), y), (x.view(4, 1, 4, 4), y)]
    }
    assert len(digests) == 5
    assert images_sha256(x.double(), y.to(torch.uint8)) == images_sha256(x, y)
