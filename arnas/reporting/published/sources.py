"""What others have printed: the numbers of ``published.yaml``, read and checked.

Values known from memory only are counted, never shown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from arnas.attacks.threat import Amount, Norm, parse_amount
from arnas.models.registry import MODELS
from arnas.runtime.errors import UserError, one_line
from arnas.runtime.files import check_form

PUBLISHED = Path(__file__).with_name("published.yaml")
Dataset = Literal["cifar10", "cifar100", "svhn", "tiny_imagenet"]
Attack = Literal["clean", "fgsm", "pgd20", "pgd100", "cw_inf", "apgd_ce", "autoattack"]
Checkpoint = Literal["held_out", "last", "best_on_test", "unknown"]


class Strict(BaseModel):
    """What stands in the file: nothing else is allowed, nothing changes. They are no settings."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class AttackDetails(Strict):
    """What a source says of an iterative attack."""

    steps: int | None = Field(default=None, ge=1)
    """Gradient steps; null where the name says it, or where it is not stated."""
    step: Amount | None = None
    """Length of a step in input units; null where it is not stated."""


class Entry(Strict):
    """The values of one network in one source."""

    model: str
    """A name of the model registry."""
    channels: int | None = Field(default=None, ge=1)
    """Initial channels; null for the registry's size."""
    cells: int | None = Field(default=None, ge=1)
    """Number of cells; null for the registry's size."""
    dataset: Dataset
    """A source of images."""
    training: Literal["pgd", "trades", "mart", "natural", "unknown"]
    """The loss; `unknown` ones are never compared."""
    remark: str = ""
    """What else to know before comparing; shown among the flags."""
    seen: dict[Attack, float] = Field(default_factory=dict)
    """Attack to percent, as read in the source or in a text that quotes it."""
    memory: dict[Attack, float] = Field(default_factory=dict)
    """Attack to percent, as recalled; never shown."""

    @model_validator(mode="after")
    def _is_plausible(self) -> Entry:
        """Refuse unknown models, what is no percentage, and a value that stands twice."""
        if self.model not in MODELS:
            raise ValueError(f"model is {self.model!r}: allowed are {', '.join(MODELS)}")
        values = [*self.seen.items(), *self.memory.items()]
        for attack, value in values:
            if not 0 < value < 100:
                raise ValueError(f"{attack} is {value:g}: allowed are percentages within 0 to 100")
        if not values:
            raise ValueError("neither seen nor memory has a value: give one, or leave it out")
        if both := self.seen.keys() & self.memory.keys():
            raise ValueError(f"{min(both)} stands in seen and in memory: keep one")
        return self

    def key(self) -> tuple[Any, ...]:
        """Return what names the network, with its size filled in."""
        return (self.dataset, self.training, *size(self.model, self.channels, self.cells))


class Source(Strict):
    """A source with its protocol."""

    tag: str = Field(min_length=1)
    """Short and unique; stands in the tables."""
    title: str = Field(min_length=1)
    reference: str = Field(min_length=1)
    """An arXiv number, a repository, or what else there is."""
    read_in: str = Field(min_length=1)
    """Where the `seen` values were read."""
    norm: Norm = "linf"
    epsilon: str | None
    """As printed; null where it is not stated."""
    recipe: str = Field(min_length=1)
    """The training in a few words."""
    epochs: int | None = Field(ge=1)
    checkpoint: Checkpoint
    extra_data: str = "none"
    """Images besides the training set."""
    attacks: dict[Attack, AttackDetails] = Field(default_factory=dict)
    loss_weight: dict[Literal["trades", "mart"], float] = Field(default_factory=dict)
    """Weight of the divergence in a loss; without one it is not stated."""
    values: list[Entry] = Field(min_length=1)

    @model_validator(mode="after")
    def _is_consistent(self) -> Source:
        """Refuse an unreadable epsilon, and a network that stands twice."""
        if self.epsilon is not None:
            try:
                parse_amount(self.epsilon)
            except UserError as error:
                raise ValueError(str(error)) from None
        found = [(*e.key(), attack) for e in self.values for attack in (*e.seen, *e.memory)]
        twice = [key for key, count in Counter(found).items() if count > 1]
        if twice:
            raise ValueError(f"{self.tag} has two values of {' '.join(map(str, twice[0]))}")
        return self


class Published(Strict):
    """All sources."""

    sources: list[Source]

    @model_validator(mode="after")
    def _tags_differ(self) -> Published:
        """Refuse a tag that stands twice."""
        tags = Counter(source.tag for source in self.sources)
        if twice := [tag for tag, count in tags.items() if count > 1]:
            raise ValueError(f"two sources have the tag {twice[0]!r}: rename one")
        return self

    def seen(self) -> Iterator[tuple[Source, Entry]]:
        """Yield the entries that may be shown, each with its source."""
        for source in self.sources:
            for entry in source.values:
                if entry.seen:
                    yield source, entry

    def recalled(self) -> int:
        """Return how many values are known from memory only."""
        return sum(len(entry.memory) for source in self.sources for entry in source.values)


@cache
def load_published(path: Path = PUBLISHED) -> Published:
    """Read and check the published numbers.

    Raises
    ------
    UserError
        When the file is no YAML, or an entry is not as the models of this module ask.
    """
    try:
        content = {"sources": yaml.safe_load(path.read_text(encoding="utf-8"))}
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(
            f"{path} is not readable YAML ({one_line(error)}): correct it, or restore it from git."
        ) from None
    check_form(path, content, Published, "correct it, or restore it from git")
    return Published.model_validate(content)


def size(model: str, channels: int | None, cells: int | None) -> tuple[str, int, int | None]:
    """Return a registry name with its channels and cells, the registry's where none are given."""
    entry = MODELS[model]
    return (
        model,
        entry.channels if channels is None else channels,
        entry.cells if cells is None else cells,
    )
