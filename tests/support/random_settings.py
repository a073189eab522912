"""Random settings that are valid, drawn from the JSON schema, and mistakes to put into them."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

from hypothesis import strategies as st

from arnas.config.schema import schema
from arnas.spaces.published import GENOTYPES, ROBNETS

SCHEMA = schema()
Settings = dict[str, Any]
Path = tuple[str | int, ...]

LARGEST: dict[str, float] = {
    "channels": 3,
    "cells": 6,
    "batch_size": 40,
    "test_images": 60,
    "val_images": 60,
    "search_val_fraction": 0.9,
    "images": 220,
    "image_size": 9,
    "epochs": 4,
    "schedule_epochs": 20,
    "crop_padding": 20,
    "widths": 3,
}
"""By key, so that everything is built in a moment; other numbers reach 50."""
SMALLEST: dict[str, float] = {
    "test_images": 10,
    "val_images": 10,
    "images": 200,
    "search_val_fraction": 0.1,
}
"""By key: what the schema cannot say, as that each class needs an image."""
AMOUNTS = [0, 0.01, 0.1, "8/255", "0.05", "16px", "1/8", 1]
KEYS_OF_AMOUNTS = {"epsilon", "step_size", "epsilon_curve"}
NEED_LARGE_IMAGES = {"densenet121", "small_cnn", "vgg16_bn"}
NAME = r"[a-z][a-z0-9_]{0,9}"
RESERVED = {"tables", "all", "square"}


def resolved(node: Settings) -> Settings:
    while "$ref" in node:
        node = SCHEMA["$defs"][node["$ref"].rsplit("/", 1)[1]]
    return node


def definition(name: str) -> Settings:
    found: Settings = SCHEMA["$defs"][name]
    return found


def values(node: Settings, key: str = "") -> st.SearchStrategy[Any]:
    """Return a strategy for what a part of the schema allows; `key` is the setting's name."""
    node = resolved(node)
    if key in KEYS_OF_AMOUNTS and node.get("type") != "array":
        return st.sampled_from(AMOUNTS)
    if "const" in node or "enum" in node:
        return st.sampled_from(node.get("enum", [node.get("const")]))
    if "anyOf" in node:
        return st.one_of([values(member, key) for member in node["anyOf"] if not is_own(member)])
    kinds: dict[str, Callable[[], st.SearchStrategy[Any]]] = {
        "integer": lambda: numbers(node, key),
        "number": lambda: numbers(node, key),
        "object": lambda: blocks(node),
        "array": lambda: st.lists(
            values(node["items"], key),
            min_size=node.get("minItems", 0),
            max_size=node.get("maxItems", 4),
        ),
        "string": lambda: st.from_regex(node.get("pattern", ""), fullmatch=True),
        "boolean": st.booleans,
        "null": st.none,
    }
    return kinds[node["type"]]()


def is_own(node: Settings) -> bool:
    """Return whether a part of the schema is a reference to a user's own code."""
    name = node.get("properties", {}).get("name", node)
    return ":" in name.get("pattern", "")


def numbers(node: Settings, key: str) -> st.SearchStrategy[Any]:
    """Return a strategy for numbers within the schema's bounds and those of this file."""
    low = max(node.get("minimum", node.get("exclusiveMinimum", 0)), SMALLEST.get(key, 0))
    high = min(node.get("maximum", node.get("exclusiveMaximum", math.inf)), LARGEST.get(key, 50))
    if node["type"] == "integer":
        low += "exclusiveMinimum" in node and low == node["exclusiveMinimum"]
        high -= "exclusiveMaximum" in node and high == node["exclusiveMaximum"]
        return st.integers(int(low), int(high))
    return st.floats(
        low,
        high,
        exclude_min=low == node.get("exclusiveMinimum"),
        exclude_max=high == node.get("exclusiveMaximum"),
    )


def blocks(node: Settings) -> st.SearchStrategy[Settings]:
    """Return a strategy for blocks with all needed settings and some of the others."""
    fields = {key: values(child, key) for key, child in node.get("properties", {}).items()}
    needed = {key: fields.pop(key) for key in node.get("required", [])}
    found = st.fixed_dictionaries(needed, optional=fields)
    return found.filter(lambda b: not b.get("protected") or b.get("costs") is None)


def block(name: str) -> st.SearchStrategy[Settings]:
    return blocks(definition(name))


@st.composite
def valid_settings(draw: st.DrawFn, npz: str) -> Settings:
    """Return settings that must be accepted; `npz` is the path of a user's own file.

    Within blocks the schema decides; between them, and where one setting bounds another, this does.
    """
    names = draw(st.lists(st.from_regex(NAME, fullmatch=True).filter(lambda n: n not in RESERVED),
                          min_size=9, max_size=9, unique=True))  # fmt: skip
    run_name, datasets, networks, searches = names[0], names[1:4], names[4:7], names[7:]
    settings: Settings = {"name": run_name}
    settings["data"] = {
        datasets[0]: draw(block("DigitsOptions")),
        datasets[1]: draw(block("ShapesOptions")),
        datasets[2]: draw(own_files(npz)),
    }
    settings["threat"] = {name: draw(block("ThreatOptions")) for name in datasets}
    settings["supernet"] = draw(supernets())
    settings["searches"] = {n: draw(searching(settings["supernet"])) for n in searches}
    settings["networks"] = {name: draw(zoo_networks()) for name in networks}
    settings["retrain"] = {name: draw(recipes()) for name in datasets}
    settings["whitebox"] = draw(attacking(datasets))
    settings["blackbox"] = draw(block("BlackboxOptions"))
    settings["report"] = draw(block("ReportOptions"))
    settings["run"] = draw(running(datasets, networks, searches))
    return settings


@st.composite
def supernets(draw: st.DrawFn) -> Any:
    """Return a supernet whose cosine is ahead by less than its length."""
    supernet = draw(block("SupernetOptions"))
    weights = supernet.get("weights", {})
    if "schedule_lead" in weights:
        weights["schedule_lead"] %= weights.get("schedule_epochs", 50)
    return supernet


def own_files(npz: str) -> st.SearchStrategy[Settings]:
    fixed = {"source": "npz", "path": npz}
    return block("NpzOptions").map(
        lambda found: {k: v for k, v in found.items() if k not in {"sha256", "num_classes"}} | fixed
    )


@st.composite
def running(draw: st.DrawFn, datasets: list[str], networks: list[str], searches: list[str]) -> Any:
    """Return a grid with at least one network to train."""

    def some(names: list[str], least: int = 0) -> list[str]:
        return draw(st.lists(st.sampled_from(names), unique=True, min_size=least))

    return {
        "datasets": draw(st.permutations(datasets)),
        "search_dataset": draw(st.sampled_from(datasets)),
        "searches": some(searches),
        "searches_on": some(datasets),
        "networks": some(networks, 1),
        "networks_on": some(datasets, 1),
        "seeds": draw(st.lists(st.integers(0, 10**18 - 1), min_size=1, max_size=3, unique=True)),
    }


@st.composite
def searching(draw: st.DrawFn, supernet: Settings) -> Any:
    """Return a search whose kinds all stand somewhere, and whose epochs fit the schedule."""
    search = draw(block("SearchOptions"))
    if "primitives" in search["space"]:
        names = definition("SearchSpaceOptions")["properties"]["primitives"]["default"]
        some = st.lists(st.sampled_from(names), min_size=1, unique=True)
        search["space"]["primitives"] = draw(some)
    supernet["cells"] = 6  # then every stage has a cell of its own
    first, second = search["adversarial"], search["multiobjective"]
    first.setdefault("epochs", 1)
    second["epochs"] = second.get("epochs", 0) + (first["epochs"] == 0)
    total = first["epochs"] + second["epochs"]
    first["warmup_epochs"] = min(first.get("warmup_epochs", 0), first["epochs"])
    weights = supernet.setdefault("weights", {})
    weights["schedule_epochs"] = max(weights.get("schedule_epochs", 50), total)
    search["network"]["recipe"] = draw(st.none() | own_recipes())
    search["derive"] = {"epoch": draw(st.one_of(st.just("last"), st.integers(0, total)))}
    return search


@st.composite
def zoo_networks(draw: st.DrawFn) -> Any:
    """Return a network of a size that is built in a moment, laid out with cells that it has."""
    network = draw(block("NetworkOptions"))
    network["channels"] = draw(st.integers(2, 4))
    network.pop("cells", None)
    network.pop("space", None)
    network["recipe"] = draw(st.none() | own_recipes())
    if network["model"] in NEED_LARGE_IMAGES:
        network["model"] = "mobilenet_v2"
    if network["model"] in ROBNETS and network["model"] != "robnet_free":
        network["cells"] = draw(st.integers(3, 5))
    if network["model"] in GENOTYPES:
        network["cells"] = draw(st.integers(3, 5))
        kinds = ["accurate", "robust"] if network["model"] == "arnas" else ["normal"]
        if draw(st.booleans()):
            space = draw(block("SpaceOptions"))
            space["kinds"] = draw(st.lists(st.sampled_from(kinds), min_size=3, max_size=3))
            network["space"] = space
    return network


def own_recipes() -> st.SearchStrategy[Settings]:
    """Return a strategy for what fits any dataset's recipe."""
    bounds = {"epochs", "schedule", "milestones", "warmup_epochs", "selection", "attack"}
    return block("RecipeOptions").map(lambda b: {k: v for k, v in b.items() if k not in bounds})


@st.composite
def recipes(draw: st.DrawFn) -> Any:
    recipe = draw(block("RetrainOptions"))
    epochs = recipe.setdefault("epochs", 3)
    recipe["warmup_epochs"] = min(recipe.get("warmup_epochs", 0), epochs)
    if "attack" in recipe:
        warmup = recipe["attack"].get("epsilon_warmup_epochs", 0)
        recipe["attack"]["epsilon_warmup_epochs"] = min(warmup, epochs - 1)
    recipe["milestones"] = []
    if recipe.get("schedule") != "cosine" and epochs > 1:
        milestones = st.lists(st.integers(1, epochs - 1), unique=True)
        recipe["milestones"] = sorted(draw(milestones))
    if "selection" in recipe:
        ends = draw(st.lists(st.integers(1, epochs), min_size=2, max_size=2))
        recipe["selection"]["first_epoch"] = min(ends)
        recipe["selection"]["last_epoch"] = draw(st.sampled_from([None, max(ends)]))
    return recipe


@st.composite
def attacking(draw: st.DrawFn, datasets: list[str]) -> Any:
    attacks = draw(block("WhiteboxOptions").filter(lambda b: "autoattack_datasets" not in b))
    for key in ("attacks", "last_attacks"):
        attacks[key] = list(dict.fromkeys(attacks.get(key, [])))
    attacks["epsilon_curve"] = draw(st.sampled_from([[0, 0.1, 1], ["8px"], [0, "1/2"]]))
    attacks["autoattack_datasets"] = draw(
        st.none() | st.lists(st.sampled_from(datasets), unique=True)
    )
    return attacks


def leaves(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Yield every setting with its path, blocks and lists too, the whole apart."""
    if path:
        yield path, value
    inner: Any = ()
    if isinstance(value, dict):
        inner = value.items()
    elif isinstance(value, list):
        inner = enumerate(value)
    yield from itertools.chain.from_iterable(leaves(item, (*path, key)) for key, item in inner)


def replaced(settings: Settings, path: Path, value: Any) -> Settings:
    """Return the settings with another value at a path; `...` takes it away."""
    changed: Any = copy.deepcopy(settings)
    here = changed
    for key in path[:-1]:
        here = here[key]
    if value is ...:
        del here[path[-1]]
    else:
        here[path[-1]] = value
    return changed  # type: ignore[no-any-return]


def dotted(path: Path) -> str:
    """Return a path as messages write it."""
    text = ".".join(f"[{key}]" if isinstance(key, int) else key for key in path)
    return text.replace(".[", "[")


def chosen(node: Settings, value: Any) -> Settings:
    """Return the member of a choice that a value of valid settings belongs to."""
    members = [member for member in map(resolved, node["anyOf"]) if member.get("type") != "null"]
    if isinstance(value, dict):
        members = [member for member in members if "properties" in member]
        name = {"const": value.get("name"), "type": "string"}
        members.sort(key=lambda member: member["properties"].get("name") != name)
    return members[0]


def node_at(path: Path, settings: Settings) -> Settings:
    """Return what the schema says of the setting at a path of valid settings."""
    node: Settings = SCHEMA
    here: Any = settings
    for key in path:
        node = resolved(node)
        if "discriminator" in node:
            node = resolved({"$ref": node["discriminator"]["mapping"][here["source"]]})
        if "anyOf" in node:
            node = chosen(node, here)
        here = here[key]
        if isinstance(key, int):
            node = node["items"]
        elif key in node.get("properties", {}):
            node = node["properties"][key]
        else:
            node = next(iter(node["patternProperties"].values()))
    return resolved(node)
