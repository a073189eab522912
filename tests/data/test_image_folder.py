"""Folders of the user's own images: every layout, and every mistake named in one line."""

import hashlib
import io
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from folder_cases import contents, listed, load, noise, options, refused, write_classes
from PIL import Image
from torchvision import transforms
from torchvision.datasets import ImageFolder
from torchvision.datasets.folder import IMG_EXTENSIONS as TORCHVISIONS

from arnas.config.load import check_files
from arnas.data.load import load_images
from arnas.data.sources.image_folder import IMG_EXTENSIONS
from arnas.data.sources.registry import SPLITS
from arnas.data.splits import load_splits, read_info, save_splits
from arnas.runtime.errors import UserError
from arnas.runtime.files import read_description


def test_the_endings_are_those_of_torchvision() -> None:
    assert IMG_EXTENSIONS == TORCHVISIONS


# Layouts


def test_a_folder_for_each_class(flat: Path) -> None:
    splits = load(flat)
    assert contents(splits, *SPLITS) == listed(flat)
    assert splits.counts() == {"train": 10, "search_val": 11, "val": 6, "test": 9} or (
        splits.counts() == {"train": 11, "search_val": 10, "val": 6, "test": 9}
    )
    info = splits.info
    assert (info.num_classes, info.image_size, info.in_channels, info.scale) == (3, 10, 3, 255)
    assert (info.source, info.synthetic) == ("image_folder", False)


@pytest.mark.parametrize("held_out", ["test", "val"])
def test_a_held_out_folder_is_the_test_set(divided: Path, held_out: str) -> None:
    (divided / "test").rename(divided / held_out)
    splits = load(divided, test_images=None)
    assert contents(splits, "test") == listed(divided / held_out)
    assert contents(splits, *SPLITS[:3]) == listed(divided / "train")
    some = load(divided, test_images=4)
    assert some.counts()["test"] == 4
    assert contents(some, "test").items() <= contents(splits, "test").items()


def test_beside_test_val_selects(divided: Path) -> None:
    write_classes(divided / "val", 2)
    splits = load(divided, test_images=None, val_images=1)
    assert contents(splits, "test") == listed(divided / "test")
    assert contents(splits, "val") == listed(divided / "val")
    assert contents(splits, "train", "search_val") == listed(divided / "train")


def test_train_alone_is_divided(flat: Path, tmp_path: Path) -> None:
    (tmp_path / "outer").mkdir()
    flat.rename(tmp_path / "outer/train")
    splits = load(tmp_path / "outer")
    assert contents(splits, *SPLITS) == listed(tmp_path / "outer/train")
    assert splits.counts()["test"] == 9


def test_the_first_images_of_a_part_are_of_all_classes(divided: Path) -> None:
    """Attacks with a limit take the first; in the order of a listing they would be of one class."""
    test = load(divided, test_images=None).subset("test")
    assert len(set(test.labels[:5].tolist())) > 1
    val = load(divided, test_images=None, split="contiguous", val_images=10)
    assert len(set(val.subset("val").labels.tolist())) == 3


def test_the_order_depends_on_names_only(divided: Path, tmp_path: Path) -> None:
    before = load(divided, test_images=None)
    divided.rename(tmp_path / "elsewhere")
    after = load(tmp_path / "elsewhere", test_images=None)
    assert torch.equal(after.images, before.images)
    assert all(torch.equal(after.indices[split], before.indices[split]) for split in SPLITS)


def test_the_home_folder_has_a_short_name(flat: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(flat.parent))
    assert load("~/mine").sha256 == load(flat).sha256
    assert f"(looked for {flat.parent}/none)" in refused("~/none")


def test_a_copy_of_the_checkout_reads_the_folder_where_it_lies(
    flat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "copy").mkdir()
    monkeypatch.chdir(tmp_path / "copy")
    assert "there is no such folder" in refused("mine")
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    assert contents(load("mine"), *SPLITS) == listed(flat)


# Images


@pytest.mark.parametrize("size", [8, 10, 16])
def test_sizes_become_equal_as_torchvision_does_it(tmp_path: Path, size: int) -> None:
    folder = write_classes(tmp_path / "mine")
    for number, (width, height) in enumerate([(30, 20), (20, 31), (8, 9), (64, 64)]):
        noise(number, width, height).save(folder / f"ant/{number}.png")
    steps = transforms.Compose([transforms.Resize(size), transforms.CenterCrop(size)])
    expected = {
        np.asarray(image).tobytes(): label
        for image, label in ImageFolder(str(folder), transform=steps)
    }
    splits = load(folder, image_size=size)
    assert contents(splits, *SPLITS) == expected
    assert splits.info.image_size == size


def test_grey_images_have_one_channel(flat: Path) -> None:
    splits = load(flat, grey=True)
    assert splits.info.in_channels == 1
    found = contents(splits, *SPLITS)
    expected = [path.open("rb").read() for path in flat.rglob("*.png")]
    for data in expected:
        assert np.asarray(Image.open(io.BytesIO(data)).convert("L")).tobytes() in found


@pytest.mark.parametrize("mode", ["L", "P", "1", "CMYK"])
def test_other_modes_become_colour_as_torchvision_reads_them(flat: Path, mode: str) -> None:
    suffix = "jpg" if mode == "CMYK" else "png"
    (flat / "ant/0.png").unlink()
    noise(1, mode=mode).save(flat / f"ant/0.{suffix}")
    assert contents(load(flat), *SPLITS) == listed(flat)


def test_a_palette_is_resized_in_colour(tmp_path: Path) -> None:
    """The numbers of a palette are no colours, so that their means mean nothing."""
    folder = write_classes(tmp_path / "mine")
    image = noise(1, 40, 40, "P")
    image.save(folder / "ant/0.png")
    expected = np.asarray(transforms.Resize(10)(image.convert("RGB"))).tobytes()
    assert expected in contents(load(folder, image_size=10), *SPLITS)


def test_other_files_are_passed_over(flat: Path) -> None:
    before = load(flat)
    (flat / "notes.txt").write_text("mine")
    (flat / "ant/Thumbs.db").write_text("not an image")
    after = load(flat)
    assert torch.equal(after.images, before.images)
    assert after.sha256 == before.sha256


# The digest


def test_the_digest_is_over_names_and_contents(flat: Path) -> None:
    total = hashlib.sha256()
    for name in sorted(str(path.relative_to(flat)) for path in flat.rglob("*.png")):
        content = hashlib.sha256((flat / name).read_bytes()).hexdigest()
        total.update(f"{name}\0{content}\n".encode())
    assert load(flat).sha256 == total.hexdigest()
    assert load(flat, sha256=total.hexdigest()).sha256 == total.hexdigest()


CHANGES = {
    "content": lambda image: noise(77).save(image),
    "name": lambda image: image.rename(image.with_name("33.png")),
    "class": lambda image: image.rename(image.parents[1] / "bee/33.png"),
    "absence": Path.unlink,
}


@pytest.mark.parametrize("change", CHANGES)
def test_any_change_of_the_images_changes_it(flat: Path, change: str) -> None:
    before = load(flat).sha256
    CHANGES[change](flat / "ant/3.png")
    message = refused(flat, sha256=before)
    assert message.startswith(f"data.mine.sha256 is {before}, but the images in {flat} have ")
    assert load(flat).sha256 != before
    assert str(load(flat).sha256) in message


def test_the_digest_is_kept_beside_the_splits(flat: Path, tmp_path: Path) -> None:
    splits, path = load(flat), tmp_path / "splits.safetensors"
    save_splits(path, splits)
    assert read_description(path)["sha256"] == splits.sha256
    assert load_splits(path, "mine").sha256 == splits.sha256
    assert read_info(path, "mine") == (splits.info, splits.counts())


# Refused


def test_the_settings_are_refused_when_the_folder_is_missing(flat: Path) -> None:
    def params(path: Path | str) -> Any:
        run = SimpleNamespace(datasets=["mine"], networks=[], searches=[])
        return SimpleNamespace(run=run, data={"mine": options(path)}, whitebox={})

    check_files(params(flat))
    for path in (flat / "none", flat / "ant/0.png", "x" * 5000):
        with pytest.raises(UserError, match=r"data\.mine\.path is .* no such folder") as caught:
            check_files(params(path))
        assert "\n" not in str(caught.value)


def too_small(mine: Path) -> None:
    for path in mine.rglob("*.png"):
        noise(0, 7, 7).save(path)


WRONG: dict[str, tuple[Any, dict[str, Any], str]] = {
    "missing": (shutil.rmtree, {}, "data.mine.path is '{0}', but there is no such"),
    "a file": (lambda p: (shutil.rmtree(p), p.write_text("")), {}, "but that is a file"),
    "empty": (
        lambda p: (shutil.rmtree(p), p.mkdir()),
        {},
        "{0} is not a folder with a folder of images",
    ),
    "one class": (
        lambda p: [shutil.rmtree(p / name) for name in ("bee", "cat")],
        {},
        "has one class, 'ant': needed are two",
    ),
    "no test set": (id, {"test_images": None}, "data.mine.test_images is null, but"),
    "too small": (too_small, {}, "7x7 pixels, needed are squares, 8 or larger"),
    "a strip": (
        lambda p: noise(0, 3, 300).save(p / "ant/0.png"),
        {"image_size": 64},
        "it has 3x300 pixels, allowed is one side 20 times",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_folder_that_cannot_be_used_is_named(flat: Path, case: str) -> None:
    act, changes, words = WRONG[case]
    act(flat)
    assert words.format(flat) in refused(flat, **changes)


def test_what_a_divided_folder_lacks_is_named(divided: Path) -> None:
    assert "test_images is 10, but its test set has 9" in refused(divided, test_images=10)
    write_classes(divided, 1, ("dog",))
    assert f"{divided} has the folder 'dog' beside train" in refused(divided, test_images=None)


@pytest.mark.parametrize("split", ["train", "test"])
def test_other_classes_in_train_and_test_are_named(divided: Path, split: str) -> None:
    write_classes(divided / split, 1, ("dog",))
    message = refused(divided, test_images=None)
    assert f"{divided / 'test'} and {divided / 'train'} have different classes ('dog'" in message


DAMAGE = {
    "empty": (lambda p: p.write_bytes(b""), "it is empty"),
    "text": (lambda p: p.write_bytes(b"hello"), "its format is unknown"),
    "truncated": (lambda p: p.write_bytes(p.read_bytes()[:150]), "truncated"),
    "broken": (lambda p: p.write_bytes(p.read_bytes()[:60] + bytes(200)), ""),
    "other size": (
        lambda p: noise(0, 12, 12).save(p),
        "it has 12x12 pixels, needed are 10x10, or data.mine.image_size",
    ),
    "not square": (lambda p: noise(0, 10, 11).save(p), "it has 10x11 pixels, needed are 10x10"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_an_image_that_cannot_be_used_is_named(flat: Path, case: str) -> None:
    damage, reason = DAMAGE[case]
    path = flat / "bee/5.png"
    damage(path)
    message = refused(flat)
    assert f"{path} cannot be used as an image (" in message
    assert reason in message


def test_a_bomb_is_not_unpacked(flat: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 90)
    assert "exceeds limit" in refused(flat, image_size=10)


def test_more_than_the_memory_is_refused(flat: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sysconf", lambda name: 50)
    assert "lower data.mine.image_size" in refused(flat)


def test_what_may_not_be_read_is_named(flat: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Path.read_bytes

    def refuse(path: Path) -> bytes:
        if path.name == "4.png":
            raise PermissionError(13, "Permission denied", str(path))
        return original(path)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    message = refused(flat)
    assert "4.png cannot be read (Permission denied)" in message


# The walk: it ends, reads nothing twice and passes over no image


def test_sub_folders_are_read_and_links_followed(flat: Path, tmp_path: Path) -> None:
    elsewhere = write_classes(tmp_path / "elsewhere", 2)
    (flat / "dog").symlink_to(elsewhere / "ant")
    (flat / "bee/more").symlink_to(elsewhere / "bee")
    (flat / "cat/0.png").rename(tmp_path / "cat.png")
    (flat / "cat/0.png").symlink_to(tmp_path / "cat.png")
    assert contents(load(flat), *SPLITS) == listed(flat)
    assert load(flat).info.num_classes == 4


def test_what_is_hidden_is_passed_over(divided: Path) -> None:
    before = load(divided, test_images=None)
    for place in (divided, divided / "train", divided / "train/ant"):
        write_classes(place / ".trash", 1)
    noise(3).save(divided / "train/ant/.thumb.png")
    (divided / "train/.git").symlink_to("nothing")
    after = load(divided, test_images=None)
    assert after.info == before.info
    assert after.sha256 == before.sha256


@pytest.mark.parametrize(
    ("train", "test", "odd"),
    [("val", "test", "test"), ("Train", "TEST", "TEST"), ("ant", "Val", "Val")],
)
def test_parts_without_train_are_no_classes(divided: Path, train: str, test: str, odd: str) -> None:
    (divided / "train").rename(divided / train)
    (divided / "test").rename(divided / test)
    words = f"{divided} has the folder '{odd}', but no train with a folder for each"
    assert words in refused(divided)
    assert f"or give {divided / odd} as the path for its images alone" in refused(divided)
    (divided / "train").mkdir()
    noise(1).save(divided / "train/1.png")
    assert words in refused(divided)


def test_parts_without_class_folders_are_no_classes(tmp_path: Path) -> None:
    folder = write_classes(tmp_path / "mine", classes=("test", "train"))
    assert f"{folder} has the folder 'test', but no train with a folder for" in refused(folder)


@pytest.mark.parametrize("classes", [("bus", "train"), ("Test", "bus", "val")])
def test_classes_may_be_called_like_splits(tmp_path: Path, classes: tuple[str, ...]) -> None:
    folder = write_classes(tmp_path / "mine", classes=classes)
    assert contents(load(folder), *SPLITS) == listed(folder)


LINKS = {
    "itself": ("ant/again", "."),
    "its class": ("ant/deep/again", ".."),
    "the root": ("bee/again", ".."),
    "above": ("bee/again", "../.."),
    "another class": ("bee/again", "../ant"),
    "a class twice": ("dog", "ant"),
}


@pytest.mark.parametrize("case", LINKS)
def test_a_link_to_where_the_walk_has_been_is_refused(flat: Path, case: str) -> None:
    place, target = LINKS[case]
    link = flat / place
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(target)
    message = refused(flat)
    real = (link.parent / target).resolve()
    assert f"data.mine.path: {link} leads to {real}, which " in message
    assert message.endswith("remove the link.")


def test_the_test_set_is_not_the_training_set(divided: Path) -> None:
    (divided / "val").symlink_to("train")
    message = refused(divided, test_images=None)
    assert f"{divided / 'val/ant'} leads to {divided / 'train/ant'}, which is read" in message


@pytest.mark.parametrize("place", ["ant/9.png", "dog", "ant/notes"])
def test_a_link_to_nothing_is_named(flat: Path, place: str) -> None:
    (flat / place).unlink(missing_ok=True)
    (flat / place).symlink_to("gone")
    assert f"{flat / place} is a link to nothing: remove it." in refused(flat)


def test_a_pipe_is_not_waited_for(flat: Path) -> None:
    os.mkfifo(flat / "bee/z.png")
    assert f"{flat / 'bee/z.png'} is neither a file nor a folder: remove it." in refused(flat)


@pytest.mark.parametrize("place", ["", "ant", "ant/deep"])
def test_a_folder_that_may_not_be_read_is_named(
    flat: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_classes(flat / "ant/deep", 1)
    original = os.scandir

    def scandir(path: Any) -> Any:
        if Path(path) == flat / place:
            raise PermissionError(13, "Permission denied", str(path))
        return original(path)

    monkeypatch.setattr(os, "scandir", scandir)
    message = refused(flat)
    assert f"{flat / place} cannot be read (Permission denied): give the right to read" in message


def test_files_that_are_no_images_are_counted(tmp_path: Path) -> None:
    folder = write_classes(tmp_path / "mine")
    assert not load_images(str(folder)).warnings
    (folder / "notes.txt").write_text("x")
    (folder / "ant" / "bee.svg").write_text("x")
    (folder / "ant" / ".hidden").write_text("x")
    words = "2 files are no images by their names and not read: bee.svg, notes.txt"
    assert load_images(str(folder)).warnings == (words,)
