"""Folders of images that several test files read."""

from __future__ import annotations

from pathlib import Path

import pytest
from folder_cases import write_classes


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    return write_classes(tmp_path / "mine")


@pytest.fixture
def divided(tmp_path: Path) -> Path:
    write_classes(tmp_path / "mine/train")
    write_classes(tmp_path / "mine/test", 3)
    return tmp_path / "mine"
