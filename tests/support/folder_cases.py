"""Folders of images that the tests of the source `image_folder` write and read."""

import zlib
from pathlib import Path
from typing import Any

import numpy as np
from official_cases import refusal
from PIL import Image
from torchvision.datasets import ImageFolder

from arnas.data.load import load_dataset
from arnas.data.sources.registry import ImageFolderOptions
from arnas.data.splits import Splits

CLASSES = ("ant", "bee", "cat")


def noise(seed: int, width: int = 10, height: int = 10, mode: str = "RGB") -> Image.Image:
    shape = (height, width, 3)
    image = Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))
    return image.convert(mode)


def write_classes(folder: Path, count: int = 12, classes: tuple[str, ...] = CLASSES) -> Path:
    for number, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            path = folder / name / f"{i}.png"
            noise(zlib.crc32(f"{folder.name}/{number}/{i}".encode())).save(path)
    return folder


def options(path: Path | str, **changes: Any) -> ImageFolderOptions:
    settings = {"test_images": 9, "val_images": 6, "path": str(path), **changes}
    return ImageFolderOptions(source="image_folder", **settings)


def load(path: Path | str, **changes: Any) -> Splits:
    return load_dataset("mine", options(path, **changes))


def refused(path: Path | str, **changes: Any) -> str:
    return refusal(options(path, **changes))


def contents(splits: Splits, *names: str) -> dict[bytes, int]:
    images, labels = splits.subset(*names)
    stored = [image.permute(1, 2, 0).numpy().tobytes() for image in images]
    return dict(zip(stored, labels.tolist(), strict=True))


def listed(folder: Path) -> dict[bytes, int]:
    """Return what torchvision reads of a folder."""
    return {np.asarray(image).tobytes(): label for image, label in ImageFolder(str(folder))}
