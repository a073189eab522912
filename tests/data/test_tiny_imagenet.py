"""Tiny-ImageNet from a small tree and its zip, read by the real code; every damage is named."""

import dataclasses
import io
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from official_cases import address, md5, refusal, send_file, serving
from PIL import Image
from torchvision.datasets import ImageFolder

from arnas.data.load import load_dataset
from arnas.data.sources.registry import TinyImageNetOptions
from arnas.data.sources.tiny_imagenet import LARGEST_FILE, TINY_IMAGENET
from arnas.data.splits import Splits

WNIDS = ["n03000000", "n01000000", "n02000000"]
"""Not sorted, as in the real file."""
TRAIN, TEST = 8, 9


def jpeg(seed: int, size: tuple[int, int] = (64, 64), mode: str = "RGB") -> bytes:
    """Return a JPEG that differs from those of other seeds."""
    shape = size[::-1] if mode == "L" else (*size[::-1], 3)
    small = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(small).save(stream, "JPEG")
    return stream.getvalue()


class Tiny:
    """A tree of three classes, 8 training images each and 9 for validation; some are grey."""

    def __init__(self, root: Path) -> None:
        self.root, self.folder = root, root / "tiny-imagenet-200"
        self.zip = root / "tiny-imagenet-200.zip"
        for number, wnid in enumerate(WNIDS):
            images = self.folder / "train" / wnid / "images"
            images.mkdir(parents=True)
            (images.parent / f"{wnid}_boxes.txt").write_text("boxes\n")
            for i in range(TRAIN):
                data = jpeg(100 * number + i, mode="L" if i == 3 else "RGB")
                (images / f"{wnid}_{i + 7}.JPEG").write_bytes(data)
        (self.folder / "val/images").mkdir(parents=True)
        (self.folder / "test/images").mkdir(parents=True)
        (self.folder / "test/images/test_0.JPEG").write_bytes(b"never read")
        lines = []
        for i in range(TEST):
            (self.folder / f"val/images/val_{i + 5}.JPEG").write_bytes(jpeg(1000 + i))
            lines.append(f"val_{i + 5}.JPEG\t{WNIDS[i % 3]}\t0\t32\t44\t62\n")
        (self.folder / "val/val_annotations.txt").write_text("".join(lines))
        (self.folder / "wnids.txt").write_text("\n".join(WNIDS) + "\n")

    def pack(self, monkeypatch: pytest.MonkeyPatch, folders: bool = True, **more: bytes) -> None:
        """Put the zip in the folder's place; `more` has further members by name."""
        with zipfile.ZipFile(self.zip, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in sorted(self.folder.rglob("*")):
                if folders or path.is_file():
                    archive.write(path, path.relative_to(self.root))
            for name, data in more.items():
                archive.writestr(name, data)
        shutil.rmtree(self.folder)
        self.use(monkeypatch)

    def use(self, monkeypatch: pytest.MonkeyPatch, url: str = "http://127.0.0.1:9/nothing") -> None:
        """Let the reader know the zip and the counts."""
        checksum = md5(self.zip) if self.zip.exists() else "0" * 32
        remote = dataclasses.replace(TINY_IMAGENET.zip, md5=checksum, url=url)
        counts = {"classes": 3, "train_images": TRAIN, "test_images": TEST}
        form = dataclasses.replace(TINY_IMAGENET, zip=remote, **counts)
        monkeypatch.setattr("arnas.data.sources.tiny_imagenet.TINY_IMAGENET", form)

    def options(self, **changes: Any) -> TinyImageNetOptions:
        settings = {"source": "tiny_imagenet", "root": str(self.root), "download": False}
        return TinyImageNetOptions(**{**settings, "val_images": 6, **changes})

    def load(self, **changes: Any) -> Splits:
        return load_dataset("mine", self.options(**changes))

    def refusal(self) -> str:
        return refusal(self.options())


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tiny:
    made = Tiny(tmp_path / "root")
    made.use(monkeypatch)
    return made


def test_the_real_counts_are_known() -> None:
    form = TINY_IMAGENET
    assert (form.classes, form.train_images, form.test_images, form.side) == (200, 500, 10_000, 64)
    assert form.zip.md5 == "90528d7ca1a48142e341f4ef8d21d0de"


def test_training_images_are_those_that_torchvision_lists(tiny: Tiny) -> None:
    splits = tiny.load(split="contiguous")
    train = splits.subset("train", "search_val", "val")
    listed = ImageFolder(str(tiny.folder / "train"))
    expected = {np.asarray(image).tobytes(): label for image, label in listed}
    found = [image.permute(1, 2, 0).numpy().tobytes() for image in train.images]
    assert dict(zip(found, train.labels.tolist(), strict=True)) == expected
    assert len(expected) == 3 * TRAIN
    assert train.labels.tolist() == [0, 1, 2] * TRAIN, "the classes in turn"
    info = splits.info
    assert (info.num_classes, info.image_size, info.in_channels) == (3, 64, 3)


def test_validation_images_are_the_test_set_in_the_order_of_their_annotations(tiny: Tiny) -> None:
    test = tiny.load().subset("test")
    assert len(test.labels) == TEST
    for i, (image, label) in enumerate(zip(*test, strict=True)):
        path = tiny.folder / f"val/images/val_{i + 5}.JPEG"
        assert np.array_equal(image.permute(1, 2, 0).numpy(), np.asarray(Image.open(path)))
        assert label == sorted(WNIDS).index(WNIDS[i % 3])
    assert torch.equal(tiny.load(test_images=4).subset("test").images, test.images[:4])


def test_grey_images_get_three_equal_channels(tiny: Tiny) -> None:
    images = tiny.load().images
    grey = (images == images[:, :1]).flatten(1).all(1)
    assert int(grey.sum()) == len(WNIDS)


@pytest.mark.parametrize("folders", [True, False], ids=["with folders", "without folders"])
def test_the_zip_is_read_as_the_folder_and_not_unpacked(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folders: bool
) -> None:
    """Whether its folders have members or not; members outside its folder are left alone."""
    before = tiny.load()
    outside = {"../evil.txt": b"evil", f"{tmp_path}/evil.txt": b"evil", "evil.txt": b"evil"}
    tiny.pack(monkeypatch, folders, **outside)
    files = sorted(tmp_path.rglob("*"))
    after = tiny.load()
    assert torch.equal(after.images, before.images)
    assert torch.equal(after.labels, before.labels)
    assert sorted(tmp_path.rglob("*")) == files
    assert [path.name for path in tiny.root.iterdir()] == [tiny.zip.name]


def test_a_damaged_zip_is_never_opened(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.pack(monkeypatch)
    right = md5(tiny.zip)
    tiny.zip.write_bytes(tiny.zip.read_bytes()[:-50])
    message = tiny.refusal()
    assert f"{tiny.zip}, which is damaged" in message
    assert right in message


def test_the_zip_is_fetched(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    before = tiny.load()
    tiny.pack(monkeypatch)
    with serving(send_file) as server:
        away = tiny.root.parent / "served.zip"
        tiny.use(monkeypatch, url=address(server, away))
        tiny.zip.rename(away)
        assert torch.equal(tiny.load(download=True).images, before.images)
    assert tiny.zip.is_file()


def test_nothing_at_all_names_the_zip(tiny: Tiny) -> None:
    shutil.rmtree(tiny.root)
    message = tiny.refusal()
    assert f"needs tiny-imagenet-200.zip in {tiny.root}, and download is false" in message
    assert TINY_IMAGENET.home in message


def test_a_file_in_the_place_of_the_folder(tiny: Tiny) -> None:
    shutil.rmtree(tiny.folder)
    tiny.folder.write_text("")
    assert f"{tiny.folder}, which is a file" in tiny.refusal()


# Damage

FIRST = f"train/{WNIDS[0]}/images/{WNIDS[0]}_7.JPEG"
ANNOTATIONS = "val/val_annotations.txt"


def put(path: str, content: bytes) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / path).write_bytes(content)

    return change


def cut(path: str, size: int) -> Callable[[Path], None]:
    return lambda folder: put(path, folder.joinpath(path).read_bytes()[:-size])(folder)


def drop(path: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        found = folder / path
        shutil.rmtree(found) if found.is_dir() else found.unlink()

    return change


def lines(change: Callable[[list[str]], list[str]]) -> Callable[[Path], None]:
    def rewrite(folder: Path) -> None:
        path = folder / ANNOTATIONS
        path.write_text("".join(change(path.read_text().splitlines(keepends=True))))

    return rewrite


def folder_instead(folder: Path) -> None:
    drop(ANNOTATIONS)(folder)
    (folder / ANNOTATIONS).mkdir()


DAMAGE = {
    "truncated image": (cut(FIRST, 200), FIRST, "truncated"),
    "empty image": (put(FIRST, b""), FIRST, "it is empty"),
    "text as image": (put(FIRST, b"hello"), FIRST, "its format is unknown"),
    "small image": (put(FIRST, jpeg(0, (32, 64))), FIRST, "it has 32x64 pixels, needed are 64x64"),
    "huge file": (put(FIRST, bytes(LARGEST_FILE + 1)), FIRST, f"allowed, which are {LARGEST_FILE}"),
    "missing image": (drop(FIRST), f"train/{WNIDS[0]}/images", "it has 7 images, needed are 8"),
    "missing class": (drop(f"train/{WNIDS[1]}"), f"train/{WNIDS[1]}/images", "it has 0 images"),
    "extra image": (
        put(f"train/{WNIDS[0]}/images/x.JPEG", b""),
        f"train/{WNIDS[0]}/images",
        "it has 9 images, needed are 8",
    ),
    "extra class": (
        lambda folder: folder.joinpath("train/n09999999").mkdir(),
        "train/n09999999",
        "wnids.txt does not list it",
    ),
    "missing wnids": (drop("wnids.txt"), "wnids.txt", "it is missing"),
    "fewer wnids": (
        put("wnids.txt", f"{WNIDS[0]}\n{WNIDS[1]}\n".encode()),
        "wnids.txt",
        "it lists 2 classes, needed are 3",
    ),
    "path as wnid": (
        put("wnids.txt", b"../../etc\nn01000000\nn02000000\n"),
        "wnids.txt",
        "'../../etc' is no WordNet id",
    ),
    "missing annotations": (drop(ANNOTATIONS), ANNOTATIONS, "it is missing"),
    "missing annotation": (
        lines(lambda found: found[:-1]),
        ANNOTATIONS,
        "it says nothing of val_13.JPEG",
    ),
    "annotation of nothing": (
        lines(lambda found: [*found, f"val_99.JPEG\t{WNIDS[0]}\n"]),
        "val/images/val_99.JPEG",
        "it is missing",
    ),
    "annotated twice": (lines(lambda found: [*found, found[0]]), ANNOTATIONS, "is odd"),
    "unknown class": (
        lines(lambda found: [found[0].replace(WNIDS[0], "n0"), *found[1:]]),
        ANNOTATIONS,
        "its line 'val_5.JPEG n0 0 32 44 62' is odd",
    ),
    "one word": (lines(lambda found: ["val_5.JPEG\n", *found[1:]]), ANNOTATIONS, "is odd"),
    "missing test image": (
        drop("val/images/val_5.JPEG"),
        "val/images",
        "it has 8 images, needed are 9",
    ),
    "sorted by hand": (drop("val/images"), "val/images", "it has 0 images, needed are 9"),
    "folder as file": (folder_instead, ANNOTATIONS, "Is a directory"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damage_in_the_folder_and_in_a_zip_with_the_right_checksum_is_named(
    tiny: Tiny, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    damage, place, reason = DAMAGE[case]
    damage(tiny.folder)
    message = tiny.refusal()
    assert message.startswith(f"data.mine: {tiny.folder}/{place} ") and reason in message
    if damage is not folder_instead:
        tiny.pack(monkeypatch)
        message = tiny.refusal()
        assert message.startswith(f"data.mine: {tiny.zip}/{place} ") and reason in message


@pytest.mark.parametrize(
    ("method", "place"),
    [
        ("open", "val/images/val_6.JPEG"),
        ("open", "wnids.txt"),
        ("iterdir", "train"),
        ("iterdir", "val/images"),
    ],
)
def test_what_may_not_be_read_is_named(
    tiny: Tiny, method: str, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = getattr(Path, method)

    def refusing(path: Path, *mode: Any) -> Any:
        if path == tiny.folder / place:
            raise PermissionError(13, "Permission denied", str(path))
        return original(path, *mode)

    monkeypatch.setattr(Path, method, refusing)
    assert tiny.refusal() == (
        f"data.mine: {tiny.folder}/{place} cannot be read (Permission denied): give the right to "
        "read it."
    )
