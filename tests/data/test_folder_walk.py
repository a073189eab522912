"""The walk through a folder of images: it ends, reads nothing twice and passes over no image."""

import os
from pathlib import Path
from typing import Any

import pytest
from folder_cases import contents, listed, load, noise, refused, write_classes

from arnas.data.splits import SPLITS


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


def only_held_out(mine: Path) -> str:
    (mine / "train").rename(mine / "val")
    return "test"


def large(mine: Path) -> str:
    (mine / "train").rename(mine / "Train")
    (mine / "test").rename(mine / "TEST")
    return "TEST"


def large_beside_a_class(mine: Path) -> str:
    (mine / "train").rename(mine / "ant")
    (mine / "test").rename(mine / "Val")
    return "Val"


def train_without_classes(mine: Path) -> str:
    (mine / "train").rename(mine / "val")
    (mine / "train").mkdir()
    noise(1).save(mine / "train/1.png")
    return "test"


@pytest.mark.parametrize("act", [only_held_out, large, large_beside_a_class, train_without_classes])
def test_parts_without_train_are_no_classes(divided: Path, act: Any) -> None:
    odd = act(divided)
    message = refused(divided)
    assert f"{divided} has the folder '{odd}', but no train with a folder for each" in message


def test_parts_without_class_folders_are_no_classes(tmp_path: Path) -> None:
    folder = write_classes(tmp_path / "mine", classes=("test", "train"))
    assert f"{folder} has the folder 'test', but no train with a folder for" in refused(folder)


def test_classes_may_be_called_like_splits(tmp_path: Path) -> None:
    folder = write_classes(tmp_path / "mine", classes=("Test", "bus", "val"))
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
