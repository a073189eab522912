"""What the tests of the checks after the attack share."""

from __future__ import annotations

import pytest

from arnas.evaluation import probe_attacks, strength_checks


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take few directions and corners where it does not matter what they find."""
    monkeypatch.setattr(probe_attacks, "DIRECTIONS", 2)
    monkeypatch.setattr(strength_checks, "CORNERS", 3)
