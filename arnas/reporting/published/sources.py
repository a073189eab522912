"""What others have printed: the numbers of ``published.yaml``, read and checked."""

from __future__ import annotations

from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from arnas.attacks.threat import Amount, Norm
from arnas.models.registry import MODELS
from arnas.runtime.errors import UserError, one_line
from arnas.runtime.files import check_form

PUBLISHED = Path(__file__).with_name("published.yaml")
Dataset = Literal["cifar10", "cifar100", "svhn", "tiny_imagenet"]
Attack = Literal["clean", "fgsm", "pgd20", "pgd100", "cw_inf", "apgd_ce", "autoattack"]
Checkpoint = Literal["held_out", "last", "best_on_test", "unknown"]


class Strict(BaseModel):
    """A block of the file: no other keys are allowed, and no value is converted."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class AttackDetails(Strict):
    """What a source says of an iterative attack."""

    steps: int | None = Field(default=None, ge=1)
    """Gradient steps; null where the name says it, or where it is not stated."""
    step: Amount | None = None
    """Length of a step in input units; null where it is not stated."""


class Entry(Strict):
    """The accuracies of one network in one source."""

    model: str
    """A name of the model registry."""
    channels: int | None = Field(default=None, ge=1)
    """Initial channels; null for the registry's size."""
    cells: int | None = Field(default=None, ge=1)
    """Number of cells; null for the registry's size."""
    dataset: Dataset
    training: Literal["pgd", "trades", "mart", "natural", "unknown"]
    """The loss; entries with `unknown` are never compared."""
    remark: str = ""
    """What else to know before comparing; shown among the differences."""
    accuracy: dict[Attack, float] = Field(min_length=1)
    """Attack to percent, as read in the source or in a text that quotes it."""

    @model_validator(mode="after")
    def _is_plausible(self) -> Self:
        """Refuse unknown models and values that are no percentages."""
        if self.model not in MODELS:
            raise ValueError(f"model is {self.model!r}: allowed are {', '.join(MODELS)}")
        for attack, value in self.accuracy.items():
            if not 0 < value < 100:
                raise ValueError(f"{attack} is {value:g}: allowed are percentages within 0 to 100")
        return self

    def key(self) -> tuple[Any, ...]:
        """Return what identifies the network: dataset, loss, model, channels and cells."""
        return (self.dataset, self.training, *size(self.model, self.channels, self.cells))


class Source(Strict):
    """A source with its protocol."""

    tag: str = Field(min_length=1)
    """Short and unique; stands in the tables."""
    title: str = Field(min_length=1)
    reference: str = Field(min_length=1)
    """An arXiv number, a repository, or what else there is."""
    read_in: str = Field(min_length=1)
    """Where the accuracies were read."""
    norm: Norm = "linf"
    epsilon: Amount | None
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
    networks: list[Entry] = Field(min_length=1)

    @model_validator(mode="after")
    def _has_no_duplicates(self) -> Self:
        """Refuse two values of one network under one attack."""
        keys = Counter(
            (*entry.key(), attack) for entry in self.networks for attack in entry.accuracy
        )
        if twice := [key for key, count in keys.items() if count > 1]:
            raise ValueError(f"{self.tag} has two values of {' '.join(map(str, twice[0]))}")
        return self


class Published(Strict):
    """All sources."""

    sources: list[Source]

    @model_validator(mode="after")
    def _tags_differ(self) -> Self:
        """Refuse a tag that stands twice."""
        tags = Counter(source.tag for source in self.sources)
        if twice := [tag for tag, count in tags.items() if count > 1]:
            raise ValueError(f"two sources have the tag {twice[0]!r}: rename one")
        return self

    def entries(self) -> list[tuple[Source, Entry]]:
        """Return every network with its source."""
        return [(source, entry) for source in self.sources for entry in source.networks]


@cache
def load_published(path: Path = PUBLISHED) -> Published:
    """Read and check the published numbers.

    Raises
    ------
    UserError
        When the file is no YAML, or an entry does not have the form of this module's models.
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
    return model, channels or entry.channels, cells or entry.cells
