"""Settings under attack: 500 random ones, of which the valid ones work and the others are named."""

from __future__ import annotations

import itertools
import math
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from random_settings import Settings, dotted, leaves, node_at, replaced, valid_settings
from torch import nn

from arnas.config.load import check_params, load_params
from arnas.config.params import Params
from arnas.data.batches import epoch_batches
from arnas.data.load import load_dataset
from arnas.data.sources.registry import SPLITS
from arnas.models.registry import build_model
from arnas.pipeline.jobs import find_job, planned_jobs
from arnas.runtime.errors import UserError
from arnas.search.state import new_state

NPZ = str(Path(tempfile.gettempdir(), f"arnas_fuzz_{os.getpid()}.npz"))
COUNTS = {"few": (8, 4, 1), "all": (100, 40, 2)}
"""Numbers of cases: valid ones, those of each kind of mistake, and those of each odd spelling."""
few_or_all = pytest.mark.parametrize("size", ["few", pytest.param("all", marks=pytest.mark.long)])
Draw = Callable[[st.SearchStrategy[Any]], Any]


def cases(count: int) -> Any:
    return settings(
        max_examples=count,
        derandomize=True,
        deadline=None,
        database=None,
        phases=[Phase.generate],  # settings are read without being made smaller
        suppress_health_check=list(HealthCheck),
    )


@pytest.fixture(autouse=True, scope="module")
def own_file() -> Iterator[None]:
    """A file of the user's own in four classes."""
    images = np.random.default_rng(0).integers(0, 256, (300, 9, 9, 3), dtype=np.uint8)
    np.savez(NPZ, images=images, labels=np.arange(300) % 4)
    yield
    Path(NPZ).unlink()


# Valid settings


@few_or_all
def test_valid_settings_build_a_plan_a_batch_and_a_network(size: str) -> None:
    @given(valid_settings(NPZ), st.data())
    @cases(COUNTS[size][0])
    def check(content: Settings, data: st.DataObject) -> None:
        build(content, data)

    check()


def build(content: Settings, data: st.DataObject) -> None:
    """Build what a run begins with."""
    params = check_params(content, "settings")
    check_the_plan(params)
    dataset = data.draw(st.sampled_from(params.run.networks_on))
    splits = load_dataset(dataset, params.data[dataset])
    assert all(splits.counts()[split] > 0 for split in SPLITS)
    recipe, info = params.retrain[dataset], splits.info
    train = splits.subset("train", "search_val")
    batch = next(epoch_batches(train, info.scale, recipe.batch_size, recipe.augment, ("a test",)))
    side = info.image_size
    assert batch.x.shape == (
        min(recipe.batch_size, len(train.labels)),
        info.in_channels,
        side,
        side,
    )
    assert 0 <= float(batch.x.min()) <= float(batch.x.max()) <= 1
    sizes: Any = {"num_classes": info.num_classes, "in_channels": info.in_channels}
    network: nn.Module
    if data.draw(st.booleans()):
        search = params.searches[data.draw(st.sampled_from(sorted(params.searches)))]
        device = torch.device("cpu")
        network = new_state(params.supernet, search.space, seed=0, device=device, **sizes).supernet
    else:
        options = params.networks[data.draw(st.sampled_from(sorted(params.networks)))]
        sizes |= {"image_size": side, "channels": options.channels, "cells": options.cells}
        network = build_model(options.model, space=options.space, **sizes)
    with torch.no_grad():
        assert network(batch.x[:2]).shape == (len(batch.x[:2]), info.num_classes)


def check_the_plan(params: Params) -> None:
    """Count the cells of the grid, look at their paths, and ask for each by its command line."""
    run, found = params.run, planned_jobs(params)
    counts = Counter(instance.stage.command for instance in found)
    trained = len(run.networks) * len(run.networks_on) + len(run.searches) * len(run.searches_on)
    assert counts["data"] == counts["blackbox"] == len(run.datasets)
    assert counts["derive"] == len(run.searches) * len(run.seeds)
    assert counts["retrain"] == counts["whitebox"] == trained * len(run.seeds)
    paths = [path for i in found for path in [*i.outputs.values(), i.manifest]]
    assert len(set(paths)) == len(paths)
    for path in paths:
        assert params.name in path.parts[:3] and path.parts[0] == "results"
        assert ".." not in path.parts
        assert max(map(len, path.parts)) < 120
    for instance in found:
        assert find_job(instance.stage.command, instance.axes, params) == instance


# Mistakes in the values

TRAVERSALS = ["../../x", "/etc/passwd", "a/b", "a\\b", "..", ".", "", "a\n", "a b", "A", "ä", "a.b",
              "-x", "1a", "a" * 101, "a\0", "~", "$HOME", "x;rm", "\u202ea"]  # fmt: skip
UNITS = [8, 255, "8", "8.0", "2/1", "300px", -0.1, "-1/255", math.nan, math.inf, "8/0", "eight",
         "1e400", "", "8 / 255 px px", None, True, [0.1]]  # fmt: skip
WRONG: dict[str, list[Any]] = {
    "integer": ["3", 2.5, None, [], {}, True, "1e3", -(10**30), math.nan],
    "number": ["0.1", None, [], {}, True, "1e-3", math.inf, math.nan, "0x1p3"],
    "boolean": [1, 0, "true", None, [], "on"],
    "string": [3, 0.5, None, True, [], {}],
    "array": ["fgsm", 3, None, {}, True],
    "object": [[], "text", 3, None, True],
}


def choose(draw: Draw, content: Settings, wanted: Any) -> tuple[Any, Any]:
    return draw(st.sampled_from([item for item in leaves(content) if wanted(*item)]))  # type: ignore[no-any-return]


def kind_of(path: Any, content: Settings) -> str | None:
    node = node_at(path, content)
    return None if "null" in str(node) and "anyOf" in node else node.get("type")


def wrong_type(draw: Draw, content: Settings) -> tuple[Settings, str]:
    path, _ = choose(draw, content, lambda path, _: kind_of(path, content) in WRONG)
    value = draw(st.sampled_from(WRONG[str(kind_of(path, content))]))
    return replaced(content, path, value), dotted(path)


def unknown_key(draw: Draw, content: Settings) -> tuple[Settings, str]:
    path, _ = choose(draw, content, lambda path, _: "properties" in node_at(path, content))
    key = draw(st.sampled_from(["zzz", "epoch_", "Epochs", "__class__", "a/b", "learning-rate"]))
    return replaced(content, (*path, key), 1), f"{dotted(path)}.{key}"


def missing_key(draw: Draw, content: Settings) -> tuple[Settings, str]:
    def needed(path: Any, _: Any) -> bool:
        node = node_at(path[:-1], content)
        if "discriminator" in node:
            return False
        return path[-1] in node.get("required", [])

    path, _ = choose(draw, content, needed)
    return replaced(content, path, ...), dotted(path)


BOUNDS = {"minimum": -1, "exclusiveMinimum": 0, "maximum": 1, "exclusiveMaximum": 0}


def out_of_range(draw: Draw, content: Settings) -> tuple[Settings, str]:
    path, _ = choose(draw, content, lambda path, _: node_at(path, content).keys() & BOUNDS)
    node = node_at(path, content)
    bound = draw(st.sampled_from(sorted(node.keys() & BOUNDS)))
    beyond = node[bound] + BOUNDS[bound]
    far = beyond + draw(st.sampled_from([0, 1, 10**6])) * (1 if "ax" in bound else -1)
    return replaced(content, path, far), dotted(path)


def wrong_unit(draw: Draw, content: Settings) -> tuple[Settings, str]:
    where = [(("threat", name, "epsilon"), f"threat.{name}") for name in content["threat"]]
    for name in content["retrain"]:
        path = ("retrain", name, "attack", "step_size")
        content["retrain"][name].setdefault("attack", {})
        where.append((path, dotted(path)))
    for name in content["threat"]:
        content["threat"][name]["norm"] = "linf"
    path, shown = draw(st.sampled_from(where))
    return replaced(content, path, draw(st.sampled_from(UNITS))), shown


def swapped_blocks(draw: Draw, content: Settings) -> tuple[Settings, str]:
    blocks = ["run", "supernet", "whitebox", "blackbox", "report", "name"]
    content = {**content, "blackbox": {"steps": 3}, "report": {"example_images": 3}}
    one, other = draw(st.sampled_from(list(itertools.combinations(blocks, 2))))
    changed = {**content, one: content[other], other: content[one]}
    first = next(key for key in Params.model_fields if key in {one, other})
    return changed, first


def bad_name(draw: Draw, content: Settings) -> tuple[Settings, str]:
    name = draw(st.sampled_from(TRAVERSALS))
    block = draw(
        st.sampled_from(["name", "data", "threat", "searches", "networks", "retrain", "run"])
    )
    if block == "name":
        return {**content, "name": name}, "name"
    if block == "run":
        key = draw(st.sampled_from(["datasets", "searches", "networks", "searches_on"]))
        return replaced(content, ("run", key), [*content["run"][key], name]), f"run.{key}"
    entry = next(iter(content[block].values()))
    return {**content, block: {**content[block], name: entry}}, f"{block}."


def unknown_reference(draw: Draw, content: Settings) -> tuple[Settings, str]:
    """Names that are names, but of nothing."""
    key = draw(st.sampled_from(["datasets", "searches", "networks", "searches_on", "networks_on"]))
    return replaced(content, ("run", key), [*content["run"][key], "nobody_knows"]), "run"


KINDS = {
    function.__name__: function
    for function in (
        wrong_type,
        unknown_key,
        missing_key,
        out_of_range,
        wrong_unit,
        swapped_blocks,
        bad_name,
        unknown_reference,
    )
}


def refused(action: Any) -> str:
    """Return the one line of the `UserError` in which something ends."""
    with pytest.raises(UserError) as caught:
        action()
    message = str(caught.value)
    assert message.isprintable(), repr(message)
    assert len(message) < 1500, message
    assert message.endswith((".", "?")), message
    return message


def names(message: str, path: str) -> bool:
    """Return whether a message starts with the path, or with a block and then names the rest.

    A value that does not fit another is said of their block.
    """
    if message.startswith(f"settings: {path}"):
        return True
    block, _, key = path.rpartition(".")
    return message.startswith(f"settings: {block}: ") and key.partition("[")[0] in message


@few_or_all
@pytest.mark.parametrize("kind", KINDS)
def test_mistakes_are_named_by_their_path(kind: str, size: str) -> None:
    @given(valid_settings(NPZ), st.data())
    @cases(COUNTS[size][1])
    def check(content: Settings, data: st.DataObject) -> None:
        changed, path = KINDS[kind](data.draw, content)
        message = refused(lambda: check_params(changed, "settings"))
        assert names(message, path), (path, message)

    check()


# Mistakes in how they are written

ODD = ["010", "+07", "1:30", "0_1", "on", "off", "yes", "No", "1e-3", "1e5x", "0o17", "0x_", "0b_",
       ".inf", ".nan", "~", "2020-13-45", "2020-01-01", "!!binary aGk=", "!!set {a}", "&a [*a]",
       "[1, 2", "{a: b", "'", "*nothing", "!!int x", "? [a]", "!custom 3", "!!timestamp x",
       "!!python/object/apply:os.system ['touch sprung']", "!!python/name:os.system", "\t", "%",
       "9" * 5000, "[" * 1000 + "]" * 1000, "{? [a]: b}", "{a: 1, a: 2}", "\x07", "@", "`",
       "!!float x", "!!bool perhaps", "!!null x", "{<<: 3}", "!!pairs x", "!!omap [a]"]  # fmt: skip


@few_or_all
@pytest.mark.parametrize("odd", ODD, ids=lambda odd: repr(odd)[:20])
def test_odd_yaml_is_named_by_its_path_or_its_line(odd: str, size: str, tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"

    @given(valid_settings(NPZ), st.data())
    @cases(COUNTS[size][2])
    def check(content: Settings, data: st.DataObject) -> None:
        path, _ = choose(
            data.draw, content, lambda path, _: kind_of(path, content) in {"integer", "object"}
        )
        text = yaml.safe_dump(replaced(content, path, "ODDITY"), sort_keys=False, width=10**6)
        line = next(n for n, row in enumerate(text.splitlines(), 1) if "ODDITY" in row)
        file.write_text(text.replace("ODDITY", odd))
        message = refused(lambda: load_params(file))
        starts = (f"{file}: {dotted(path)}", f"{file}, line {line}: ", f"{file} is not readable Y")
        assert message.startswith(starts), (path, line, message)

    check()
    assert list(tmp_path.iterdir()) == [file]
    assert not Path("sprung").exists()
