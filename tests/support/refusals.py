"""What a user's mistake ends in: one sentence on one line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from arnas.runtime.errors import UserError


def refusal_of(call: Callable[..., Any], *arguments: Any, **named: Any) -> str:
    """Return the sentence that a call ends in."""
    with pytest.raises(UserError) as caught:
        call(*arguments, **named)
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".")
    return message
