"""Settings that Snakemake resolved, stored for the stages that it starts."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from arnas.config.load import EXPONENT, check_files, check_params, parse_yaml, read_yaml
from arnas.runtime.errors import one_sentence
from arnas.runtime.files import canonical_json, sha256_bytes, write_bytes

FOLDER = Path(".arnas/params")


def check_yaml(path: Path) -> None:
    """Check that a settings file is strict YAML before Snakemake reads it with its own parser."""
    with one_sentence():
        read_yaml(path)


def use_checkout(folder: Path) -> None:
    """Let the processes that this one starts import the package of a checkout, if it is one.

    They run in the user's folder, which need not be the checkout.
    """
    if (folder / "arnas").is_dir():
        paths = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
        os.environ["PYTHONPATH"] = os.pathsep.join(paths)


def hand_off(config: dict[str, Any], overrides: Mapping[str, Any]) -> str:
    """Check resolved settings, store them and return the path for ``ARNAS_PARAMS``.

    Snakemake passes nested values of ``--config`` as text, which is parsed as YAML here and put
    into `config`, as are numbers of its settings files that it takes for text, such as 5e-05. The
    file is named by its content, so that concurrent runs with different overrides do not share it.
    A mistake ends the process with one sentence and exit code 2.
    """
    with one_sentence():
        _retype(config, overrides)
        config |= _typed(config, EXPONENT)
        check_files(check_params(config, "settings"))
    text = canonical_json(config)
    path = FOLDER / f"{sha256_bytes(text.encode())[:16]}.json"
    if not path.is_file() or path.read_bytes() != text.encode():
        write_bytes(path, text.encode())
    return str(path)


def _retype(config: dict[str, Any], overrides: Mapping[str, Any]) -> None:
    """Read the text values of `config` that `overrides` has too as YAML, in place."""
    for key, value in overrides.items():
        if isinstance(value, Mapping) and isinstance(config.get(key), dict):
            _retype(config[key], value)
        else:
            config[key] = _typed(value)


def _typed(value: Any, only: re.Pattern[str] = re.compile("")) -> Any:
    """Return a value with every text in it, or those that match a pattern, read as YAML."""
    if isinstance(value, str) and only.match(value):
        return parse_yaml(value, f"--config {value!r}")
    if isinstance(value, Mapping):
        return {key: _typed(item, only) for key, item in value.items()}
    if isinstance(value, list):
        return [_typed(item, only) for item in value]
    return value
