"""How a check is graded."""

from __future__ import annotations

from arnas.evaluation.result import Status

SLACK, FEW = 0.01, 2
"""Share and number of images by which an attack may lag behind a weaker one before it fails: both
end in local optima of their own."""


def grade(*, fail: object = False, warn: object = False) -> Status:
    """Return the status of a check: the worse of what holds."""
    return "FAIL" if fail else "WARN" if warn else "PASS"
