"""Defaults that results rest on do not change silently.

Fingerprints leave out settings at their defaults, so that a new setting makes no result stale. A
changed default would then mix old and new results: raise the versions of the stages that read it,
and record the defaults with ``ARNAS_GOLDEN=write python -m pytest tests/stages/test_defaults.py``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import arnas.config.params
from arnas.pipeline.plan import stage_versions
from arnas.runtime.options import Options

LEDGER = Path(__file__).with_name("defaults.json")
assert arnas.config.params.Params, "imported for the option models it assembles"


def option_models(base: type[Options] = Options) -> Iterator[type[Options]]:
    for model in base.__subclasses__():
        if model.__module__.startswith("arnas."):
            yield model
        yield from option_models(model)


def defaults() -> dict[str, Any]:
    """Return ``Model.field`` to its default, as JSON, for every field that has one."""
    found = {}
    for model in option_models():
        for name, field in model.model_fields.items():
            if not field.is_required():
                value = field.get_default(call_default_factory=True)
                plain = value.model_dump(mode="json") if isinstance(value, Options) else value
                found[f"{model.__name__}.{name}"] = json.loads(json.dumps(plain))
    return found


def test_a_changed_default_raises_a_version() -> None:
    now = {"versions": stage_versions(), "defaults": defaults()}
    if os.environ.get("ARNAS_GOLDEN") == "write":
        LEDGER.write_text(json.dumps(now, indent=1, sort_keys=True) + "\n")
    recorded = json.loads(LEDGER.read_text())
    changed = {
        key: (value, now["defaults"].get(key))
        for key, value in recorded["defaults"].items()
        if now["defaults"].get(key) != value
        and not isinstance(value, dict)  # nested models have entries of their own
    }
    assert not changed, "raise the versions of the stages that read these, then record, see above"
    assert now["versions"] == recorded["versions"], "record the defaults beside the new versions"


def test_every_default_is_recorded() -> None:
    assert set(json.loads(LEDGER.read_text())["defaults"]) == set(defaults()), "record them"
