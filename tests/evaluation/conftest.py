"""What the tests of the checks after the attack share."""

from __future__ import annotations

import pytest

from arnas.evaluation.checks import probes, strength


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take few directions and corners where it does not matter what they find."""
    monkeypatch.setattr(probes, "DIRECTIONS", 2)
    monkeypatch.setattr(strength, "CORNERS", 3)
