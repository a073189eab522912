"""Small datasets that the tests of the data room share."""

from pathlib import Path

import numpy as np

from arnas.data.sources.registry import NpzOptions

SPLITS = ("train", "search_val", "val", "test")


def random_images(count: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, *shape), dtype=np.uint8)


def good_arrays(count: int = 80) -> dict[str, np.ndarray]:
    return {"images": random_images(count, 8, 8), "labels": np.arange(count) % 4}


def write_npz(path: Path, **changes: np.ndarray | None) -> Path:
    """Write the good arrays with `changes`; None leaves an array out."""
    arrays = {**good_arrays(), **changes}
    np.savez_compressed(path, **{key: value for key, value in arrays.items() if value is not None})
    return path


def npz_options(path: Path | str, **changes: object) -> NpzOptions:
    settings = {"test_images": 16, "val_images": 8, **changes}
    return NpzOptions(source="npz", path=str(path), **settings)
