"""Reading settings files, with every mistake reported in one sentence."""

from __future__ import annotations

import difflib
import os
import re
import reprlib
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from arnas.config.params import Params
from arnas.config.references import referenced_files
from arnas.config.renamed import new_name, new_place
from arnas.data.paths import user_file, user_folder
from arnas.data.sources.registry import SOURCES, ImageFolderOptions, NpzOptions
from arnas.runtime.errors import UserError, one_line

DEFAULT_PATH = Path("params.yaml")


class _StrictLoader(yaml.SafeLoader):
    """YAML that every engine reads alike: the numbers of YAML 1.2, no repeated keys."""


def _mapping(loader: _StrictLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    """Build a mapping, refusing repeated keys."""
    seen: set[Any] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, Hashable):
            raise UserError(f"{_place(key_node)}: a name is a block or a list; write a word.")
        if key in seen:
            raise UserError(f"{_place(key_node)}: {key!r} appears twice in one block; keep one.")
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


def _whole_number(loader: _StrictLoader, node: yaml.ScalarNode) -> int:
    """Build a whole number, refusing one that DVC's YAML parser reads differently."""
    value = loader.construct_yaml_int(node)
    digits = node.value.lstrip("+-")
    if ":" in digits or (digits[:1] == "0" and digits[1:].replace("_", "").isdecimal()):
        raise _read_differently(node, str(value))
    return value


def _number(loader: _StrictLoader, node: yaml.ScalarNode) -> float:
    """Build a number, refusing sexagesimal ones, which only PyYAML knows."""
    value: float = loader.construct_yaml_float(node)
    if ":" in node.value:
        raise _read_differently(node, str(value))
    return value


def _truth(loader: _StrictLoader, node: yaml.ScalarNode) -> bool:
    """Build true or false, refusing what DVC's YAML parser reads as text."""
    value = loader.construct_yaml_bool(node)
    if node.value.lower() not in {"true", "false"}:
        raise _read_differently(node, str(value).lower())
    return bool(value)


def _read_differently(node: yaml.ScalarNode, meaning: str) -> UserError:
    """Return the error for a value that has another meaning in YAML 1.2."""
    return UserError(
        f"{_place(node)}: '{node.value}' is {meaning} to Snakemake and not to DVC: write "
        f"{meaning} if you mean that, or put it in quotes."
    )


def _place(node: yaml.Node) -> str:
    """Return the file and the line of a node."""
    return f"{node.start_mark.name}, line {node.start_mark.line + 1}"


EXPONENT = re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$")
"""Numbers that YAML 1.2 and JSON write and PyYAML takes for text, such as 5e-05 and 1.5e3."""

_StrictLoader.add_implicit_resolver("tag:yaml.org,2002:float", EXPONENT, [*"+-0123456789"])
_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
_StrictLoader.add_constructor("tag:yaml.org,2002:int", _whole_number)
_StrictLoader.add_constructor("tag:yaml.org,2002:float", _number)
_StrictLoader.add_constructor("tag:yaml.org,2002:bool", _truth)


def params_path() -> Path:
    """Return the settings file: ``ARNAS_PARAMS``, by default ``params.yaml``."""
    return Path(os.environ.get("ARNAS_PARAMS") or DEFAULT_PATH)


def read_yaml(path: Path) -> Any:
    """Read a YAML or JSON file; a missing or unreadable one is a `UserError`."""
    return parse_yaml(read_text(path), str(path))


def read_text(path: Path) -> str:
    """Return the text of a settings file as it is, line ends included."""
    try:
        return path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        raise UserError(
            f"the settings file {path} is missing: run from the project's folder, or name another "
            "file in ARNAS_PARAMS."
        ) from None
    except OSError as error:
        raise UserError(f"{path} cannot be read as settings: {error.strerror}.") from None
    except UnicodeDecodeError as error:
        raise _unreadable(str(path), str(error)) from None


def parse_yaml(text: str, source: str) -> Any:
    """Return the values of a YAML or JSON text; `source` names it in errors.

    Raises
    ------
    UserError
        When it is no YAML, or YAML that the engines read differently.
    """
    try:
        loader = _StrictLoader(text)
        loader.name = source
        return loader.get_single_data()
    except RecursionError:
        raise _unreadable(source, "it is nested too deeply") from None
    except UserError:
        raise
    except Exception as error:  # also of dates, numbers and tags whose text does not fit them
        raise _unreadable(source, one_line(error)) from None


def _unreadable(source: str, reason: str) -> UserError:
    """Return the error for a text that is no YAML."""
    return UserError(f"{source} is not readable YAML: {reason}; correct it.")


def load_params(path: Path | None = None) -> Params:
    """Read and check the settings.

    Raises
    ------
    UserError
        With the field's path, the value found and what is allowed.
    """
    path = path or params_path()
    params = check_params(read_yaml(path), str(path))
    check_files(params)
    return params


def check_files(params: Params) -> None:
    """Raise unless the user's own files and modules that the run reads are there."""
    run = params.run
    for name in run.datasets:
        options = params.data[name]
        # os.path, as Path.is_file fails on names that are too long
        if isinstance(options, ImageFolderOptions):
            path, kind = user_folder(options.path), "folder"
            found = os.path.isdir(path)  # noqa: PTH112
        elif isinstance(options, NpzOptions):
            path, kind = user_file(options.path), "file"
            found = os.path.isfile(path)  # noqa: PTH113
        else:
            continue
        if not found:
            raise UserError(
                f"data.{name}.path is '{one_line(options.path)}', but there is no such {kind} "
                f"(looked for {one_line(path.absolute())}): correct the path, or drop {name} from "
                "run."
            )
    referenced_files([params.networks[name] for name in run.networks])
    referenced_files([params.searches[name] for name in run.searches])
    referenced_files(params.whitebox)


def check_params(raw: Any, source: str) -> Params:
    """Build `Params` from parsed YAML; `source` names it in errors."""
    if not isinstance(raw, Mapping):
        raise UserError(f"{source} holds {type(raw).__name__}, needed is a block of settings.")
    try:
        return Params.model_validate(raw)
    except ValidationError as error:
        raise UserError(f"{source}: {describe_errors(error, raw)}") from None


def describe_errors(error: ValidationError, raw: Any) -> str:
    """Return one sentence for the first of the validation's errors, and how many follow."""
    problems = error.errors()
    # An old name is why its new one is missing, so it is told first.
    renamed = next(filter(None, (_renamed(problem, raw) for problem in problems)), None)
    text = (renamed or _describe(problems[0], raw)).rstrip(".")
    more = len(problems) - 1
    if more:
        return f"{text} (and {more} more)."
    return text if text.endswith("?") else f"{text}."


def _renamed(problem: Any, raw: Any) -> str | None:
    """Return what to say of a setting with an old name or place, None of anything else."""
    if problem["type"] != "extra_forbidden":
        return None
    where, _ = _locate(problem["loc"], raw)
    path, new = one_line(where, 200), new_name(where)
    if new is None:
        return new_place(path)
    return (
        f"{path} is now called {new}: write that, or let `python -m arnas params upgrade FILE` "
        "write all new names into the file"
    )


def _describe(problem: Any, raw: Any) -> str:
    """Return the sentence of one error."""
    where, siblings = _locate(problem["loc"], raw)
    path = one_line(where, 200)
    kind, message = problem["type"], problem["msg"]
    if kind == "extra_forbidden":
        allowed = _allowed_keys(problem["loc"])
        close = difflib.get_close_matches(str(problem["loc"][-1]), allowed, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        return f"{path} is not a setting; allowed here are {', '.join(allowed)}{hint}"
    if kind == "missing":
        return f"{path} is missing: add it beside {', '.join(siblings) or 'the others'}"
    if kind.startswith("union_tag"):
        tags = ", ".join(SOURCES)
        if kind == "union_tag_not_found":
            return f"{path}.source is missing: allowed are {tags}"
        return f"{path}.source is {_SHORT.repr(problem['ctx']['tag'])}: allowed are {tags}"
    if kind == "value_error":
        inner = str(problem["ctx"]["error"])
        return f"{path}: {inner}" if path else inner
    value = problem["input"]
    if kind == "loss" and "ctx" in problem:  # of one setting in the block of a loss
        key = problem["ctx"]["key"]
        message = message.removeprefix(f"{key}: ")
        for part in key.split("."):
            listed = isinstance(value, list)
            path += f"[{part}]" if listed else f".{part}"
            value = value[int(part)] if listed else value.get(part)
    text = f"{path} is {_SHORT.repr(value)}: {message[0].lower()}{message[1:]}"
    if isinstance(value, str) and _is_number(value):
        text += f" ('{value}' is text to YAML: write {float(value):.10g} without quotes)"
    return text


_SHORT = reprlib.Repr()
"""Shows values of any size: aliases make a small file a huge value."""
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother = 2, 200, 200


def _is_number(text: str) -> bool:
    """Return whether Python reads the text as a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def _locate(loc: tuple[int | str, ...], raw: Any) -> tuple[str, list[str]]:
    """Return the dotted path of an error and the keys beside it.

    Pydantic puts names of union members into the location; those that are no keys of the file
    are left out.
    """
    parts: list[str] = []
    here = raw
    siblings: list[str] = []
    for number, key in enumerate(loc):
        last = number == len(loc) - 1
        if isinstance(here, Mapping) and (key in here or last):
            siblings = [str(k) for k in here]
            here = here.get(key)
            parts.append(str(key))
        elif isinstance(here, list) and isinstance(key, int) and key < len(here):
            here = here[key]
            parts.append(f"[{key}]")
    return ".".join(parts).replace(".[", "["), siblings


def _allowed_keys(loc: tuple[int | str, ...]) -> list[str]:
    """Return the settings that the block around an error's last key has."""
    from arnas.config.schema import fields_at

    return fields_at(loc[:-1])
