"""Pages and parts of pages that are made from the code, so that they cannot contradict it.

A page says ``<!-- made: settings -->`` where `MADE` has the text.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from percent_notebook import page as notebook_page

from arnas.attacks.registry import ATTACKS
from arnas.attacks.suites import build_suite
from arnas.cli import app
from arnas.config.schema import schema
from arnas.data.sources.registry import SOURCES
from arnas.evaluation.checks import CHECKS
from arnas.models.registry import MODELS, SIZES
from arnas.pipeline.plan import stage_versions
from arnas.reporting.run.cells import draw_cells
from arnas.reporting.run.tables import overview, read_table, to_markdown
from arnas.runtime.registered import REFERENCE_PATTERN
from arnas.spaces.published import GENOTYPES
from arnas.training.registry import LOSSES
from benchmarks.table import markdown

HERE = Path(__file__).parent
SIGNS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
BLOCKS = {
    "SpaceOptions": "a block with kinds and widths as in `searches.<name>.space`",
    "RecipeOptions": "a block with any of the settings of `retrain.<name>`",
}
"""Blocks that are told of elsewhere."""
WORDS = {
    "integer": "whole number",
    "boolean": "`true` or `false`",
    "null": "`null`",
    "string": "text",
    "^[a-z][a-z0-9_]*$": "name",
    "^[0-9a-f]{64}$": "64 hexadecimal digits",
    REFERENCE_PATTERN: "a function of your own",
}
"""Types and patterns of the settings' schema in words."""


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a Markdown table."""

    def line(values: Sequence[object]) -> str:
        return f"| {' | '.join(' '.join(str(v).split()).replace('|', '/') for v in values)} |"

    return "\n".join([line(head), line(["---"] * len(head)), *map(line, rows)]) + "\n"


def allowed(node: Mapping[str, Any]) -> str:  # noqa: PLR0911 -- a line for each kind
    """Return in words which values a setting may have."""
    if choice := node.get("enum", [node["const"]] if "const" in node else []):
        return ", ".join(f"`{value}`" for value in choice)
    if "properties" in node:
        own = ":" in node["properties"]["name"].get("pattern", "")
        return "a block with " + ("a name" if own else ", ".join(node["properties"]))
    if "$ref" in node:
        return BLOCKS[node["$ref"].rsplit("/", 1)[1]]
    if "anyOf" in node:
        if {member.get("type") for member in node["anyOf"]} == {"number", "string"}:
            return "distance"
        return " or ".join(allowed(member) for member in node["anyOf"])
    if node["type"] == "array":
        length = f" of {node['maxItems']}" if "maxItems" in node else ""
        return f"list{length}: {allowed(node['items'])}"
    words = WORDS.get(node.get("pattern", node["type"]), node["type"])
    return f"{words} {', '.join(f'{s} {node[k]:,}' for k, s in SIGNS.items() if k in node)}"


def settings() -> str:
    """Return a section for each block of the settings, with a row for each key."""
    root = schema()

    def resolved(node: Mapping[str, Any]) -> Mapping[str, Any]:
        return root["$defs"][node["$ref"].rsplit("/", 1)[1]] if "$ref" in node else node

    def section(path: str, node: Mapping[str, Any], note: str = "") -> Iterator[str]:
        if path:
            level = min(2 + path.count("."), 3)
            yield f"{'#' * level} `{path}`{note}\n\n{node['description']}\n"
        for entry in node.get("patternProperties", {}).values():
            for member in map(resolved, entry.get("oneOf", [entry])):
                source = member["properties"].get("source", {}).get("const")
                member_note = f" with `source: {source}`" if source else ""
                yield from section(f"{path}.<name>", member, member_note)
        rows, blocks = [], {}
        for key, value in node.get("properties", {}).items():
            target = resolved(value.get("items", value))
            if {"properties", "patternProperties"} & target.keys():
                blocks[f"{path}.{key}".strip(".") + "[]" * ("items" in value)] = target
            else:
                default = value.get("default", "needed")
                text = default if isinstance(default, str) else json.dumps(default)
                shown = f"`{text}`" if "default" in value else text
                rows.append([f"`{key}`", allowed(value), shown, value.get("description", "")])
        if rows:
            yield table(["setting", "allowed", "default", "meaning"], rows)
        for inner, target in blocks.items():
            yield from section(inner, target)

    return "\n".join(section("", root))


def commands(stages: bool) -> str:
    """Return a section for each command that is a stage, or for each one that is not."""
    root: Any = typer.main.get_command(app)
    found = dict(root.commands)
    for group in [name for name, command in found.items() if hasattr(command, "commands")]:
        found |= {f"{group} {name}": inner for name, inner in found.pop(group).commands.items()}
    parts = []
    for name, command in found.items():
        if (name in stage_versions()) != stages:
            continue
        usage = " ".join(
            ["python -m arnas", name, *command.collect_usage_pieces(typer.Context(command))]
        )
        rows = [
            [f"`{' '.join(p.opts)}`", "yes" if p.required else "no", getattr(p, "help", "")]
            for p in command.params
        ]
        parts.append(f"### `{name}`\n\n{command.help}\n\n```console\n$ {usage}\n```\n")
        parts += [table(["argument", "needed", "meaning"], rows)] if rows else []
    return "\n".join(parts)


def zoo() -> str:
    """Return the models with their sizes at 10 classes and 3x32x32 pixels."""
    rows = []
    for name, entry in MODELS.items():
        size = [f"{count:,}" for count in SIZES[name]]
        rows.append([f"`{name}`", *size, entry.channels, entry.cells or "-", entry.citation])
    return table(["model", "parameters", "MACs", "channels", "cells", "source"], rows)


def losses() -> str:
    """Return the training losses."""
    rows = []
    for name, entry in LOSSES.items():
        fields = entry.settings.model_fields
        own = ", ".join(f"`{key}: {fields[key].default}`" for key in fields if key != "name")
        defended = "yes" if entry.defended else "no"
        rows.append(
            [f"`{name}`", entry.label, own, entry.passes, defended, entry.selects, entry.citation]
        )
    head = ["loss", "name", "settings", "forward passes of a step, attack apart", "defended"]
    return table([*head, "checkpoint chosen by accuracy", "source"], rows)


def accuracies() -> str:
    """Return the committed accuracies of the default run."""
    path = HERE.parent / "results/tables/digits/whitebox.csv"
    return to_markdown(overview(read_table(path)).drop(columns=["seed", "epsilon"]))


def speed() -> str:
    """Return the committed table of the benchmark."""
    path = HERE.parent / "benchmarks/results/latest.json"
    return markdown(json.loads(path.read_text(encoding="utf-8")))


def growth() -> str:
    """Return how time and memory grew with every size, and what a step at full size takes."""
    path = HERE.parent / "benchmarks/results/growth.json"
    found = json.loads(path.read_text(encoding="utf-8"))
    rows = []
    for name, points in found["growth"].items():
        sizes = ", ".join(f"{point['size']}" for point in points)
        times = ", ".join(f"{point['seconds'] / points[0]['seconds']:.1f}" for point in points)
        memory = ", ".join(f"{point['memory'] / 1e6:.0f}" for point in points)
        rows.append([name, sizes, times, memory])
    steps = [
        [
            row["work"],
            row["batch"],
            *(
                [f"{row['seconds']:.1f}", f"{row['memory'] / 1e9:.1f}"]
                if row["seconds"] is not None
                else [row["note"], "-"]
            ),
        ]
        for row in found["steps"]
    ]
    return "\n\n".join(
        [
            table(["size", "values", "time, first = 1", "memory, MB"], rows),
            table(["step at CIFAR-10's size", "batch", "seconds", "peak memory, GB"], steps),
        ]
    )


def checks() -> str:
    """Return a table of the checks for each time at which they are made."""
    heads = {
        "model": "Before the attacks, of the model and the images:",
        "attacks": "After the attacks, of what they left:",
        "run": "In the pipeline, of the splits and of several networks:",
    }
    rows: dict[str, list[list[str]]] = {phase: [] for phase in heads}
    for number, entry in enumerate(CHECKS.values(), start=1):
        status = entry.fail
        if entry.tier == "expensive":
            status += " Attacks the model itself."
        rows[entry.phase].append([str(number), f"`{entry.id}`", status, entry.citation])
    head = ["", "check", "when it fails or warns", "source"]
    return "\n".join(f"{text}\n\n{table(head, rows[phase])}" for phase, text in heads.items())


MADE: dict[str, Callable[[], str]] = {
    "settings": settings,
    "stages": functools.partial(commands, stages=True),
    "commands": functools.partial(commands, stages=False),
    "models": zoo,
    "losses": losses,
    "attacks": lambda: table(
        ["attack", "what it is", "source"],
        [[f"`{name}`", entry.settings, entry.citation] for name, entry in ATTACKS.items()],
    ),
    "checks": checks,
    "suite": lambda: table(
        ["attack", "what it is", "source"],
        [
            [f"`{name}`", part.settings, part.citation]
            for name, part in build_suite("standard", "linf", classes=10).components.items()
        ],
    ),
    "sources": lambda: table(
        ["source", "synthetic", "citation"],
        [[f"`{k}`", "yes" if s.synthetic else "no", s.citation] for k, s in SOURCES.items()],
    ),
    "accuracies": accuracies,
    "speed": speed,
    "growth": growth,
}
"""Name to the text that stands in for it."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages and drawings that have no file."""
    notebook = (HERE / "tutorial.py").read_text(encoding="utf-8")
    files.append(File.generated(config, "tutorial/interactive.md", content=notebook_page(notebook)))
    with TemporaryDirectory() as folder:
        draw_cells(Path(folder) / "cells.svg", GENOTYPES["arnas"].genotype)
        drawing = (Path(folder) / "cells.svg").read_bytes()
    files.append(File.generated(config, "assets/arnas-cells.svg", content=drawing))
    growth = (HERE.parent / "benchmarks/results/growth.svg").read_bytes()
    files.append(File.generated(config, "assets/growth.svg", content=growth))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """Fill in what is made from the code, with links to what it cites."""

    def made(found: re.Match[str]) -> str:
        link = r"[arXiv \1](https://arxiv.org/abs/\1)"
        return re.sub(r"arXiv (\d{4}\.\d{5})", link, MADE[found[1]]())

    return re.sub(r"<!-- made: (\w+) -->", made, markdown)
