"""Published accuracies beside ours, and how their protocol differs from ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import pandas as pd

from arnas.attacks.registry import ATTACKS
from arnas.attacks.threat import parse_amount
from arnas.data.sources.registry import OFFICIAL
from arnas.models.registry import MODELS
from arnas.reporting.published.sources import (
    Attack,
    AttackDetails,
    Checkpoint,
    Published,
    Source,
    size,
)
from arnas.reporting.run.tables import DECIMALS, summary
from arnas.spaces.published import GENOTYPES
from arnas.training.options import RetrainOptions
from arnas.training.registry import LossOptions

NAMED_STEPS = ("pgd20", "pgd100")
"""Attacks whose names say how many steps they have."""
LOSS_WEIGHTS = {"trades": "beta", "mart": "weight"}
"""Losses with a weight that sources state, and the setting that holds it."""
CLOSE = 1e-9
"""Distances in input units that differ by less are equal."""
COLUMNS = (
    *("dataset", "model", "published_model", "training", "checkpoint", "attack", "epsilon"),
    *("n", "seeds", "ours", "sd", "published", "difference", "source", "recipe", "protocol"),
)
"""Columns of the table, also when it has no rows."""
CHOICE: dict[Checkpoint, str] = {
    "held_out": "chosen on held-out images",
    "last": "of the last epoch",
    "best_on_test": "best on test images",
    "unknown": "not stated",
}
"""How a source's checkpoint was chosen, in words."""
OURS: dict[str, Checkpoint] = {"selected": "held_out", "last": "last"}
"""How each checkpoint of a run was chosen."""


@dataclass(frozen=True)
class Network:
    """One of a run's trained networks, as far as others may have published it."""

    source: str
    """Where the images come from: a name of the data sources."""
    model: str
    """A name of the model registry, which need not be what the run calls the network."""
    channels: int
    cells: int | None
    recipe: RetrainOptions
    loss: LossOptions


def network(
    description: Mapping[str, Any], source: str, recipe: RetrainOptions, loss: LossOptions
) -> Network | None:
    """Return what identifies a network; None for one that nobody else can have published.

    That is one with a genotype of the run's own, or in another layout than the published one.

    Parameters
    ----------
    description
        Of its selected checkpoint.
    source
        The data source of its images.
    """
    name, space = description.get("model"), description.get("space")
    if not isinstance(name, str) or name not in MODELS:
        return None
    if space is not None and (
        name not in GENOTYPES or space != GENOTYPES[name].space.model_dump(mode="json")
    ):
        return None
    sizes = size(name, description.get("channels"), description.get("cells"))
    return Network(source, *sizes, recipe, loss)


def compare(
    whitebox: pd.DataFrame, networks: Mapping[tuple[str, str], Network], published: Published
) -> pd.DataFrame:
    """Return each accuracy of ours beside every published one of the same network.

    The source of the images, the registry's model, its size and the loss must agree. Where a
    source reports the last epoch, ours of the last epoch is compared, if it was measured.

    Parameters
    ----------
    whitebox
        Table ``whitebox.csv``.
    networks
        Dataset and network, as the run calls them, to what identifies the network.

    Returns
    -------
    pd.DataFrame
        `COLUMNS`; ``ours`` is the mean over seeds, ``sd`` the sample standard deviation,
        ``difference`` ours minus published in points, ``protocol`` what differs, in words.
    """
    if whitebox.empty:
        return pd.DataFrame(columns=list(COLUMNS))
    failed = whitebox[whitebox["status"] != "ok"]
    unreliable = set(zip(failed["dataset"], failed["model"], strict=True))
    rows = []
    for keys, own in summary(whitebox).groupby(["dataset", "model"], sort=False):
        dataset, model = (str(key) for key in keys)
        ours = networks.get((dataset, model))
        if ours is None:
            continue
        key = (ours.source, own["training"].iloc[0], ours.model, ours.channels, ours.cells)
        for source, entry in published.entries():
            if entry.key() != key:
                continue
            remarks = [entry.remark] if entry.remark else []
            if (dataset, model) in unreliable:
                remarks.append("a check of ours failed")
            for attack, value in entry.accuracy.items():
                for row in _measured(own[own["attack"] == attack], source):
                    found = {
                        "published_model": _model_and_size(ours),
                        "ours": row["mean"],
                        "published": value,
                        "difference": round(row["mean"] - value, DECIMALS),
                        "source": f"{source.tag} ({source.reference})",
                        "recipe": source.recipe,
                        "protocol": "; ".join(differences(row, ours, source, attack) + remarks),
                    }
                    rows.append(row | found)
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _measured(own: pd.DataFrame, source: Source) -> list[dict[str, Any]]:
    """Return our rows of an attack for the checkpoint that fits the source's best."""
    fitting = "last" if source.checkpoint == "last" else "selected"
    if fitting not in set(own["checkpoint"]):
        fitting = "selected"
    return cast("list[dict[str, Any]]", own[own["checkpoint"] == fitting].to_dict("records"))


def _model_and_size(ours: Network) -> str:
    """Return a model with its size where that is not the registry's."""
    if (ours.model, ours.channels, ours.cells) == size(ours.model, None, None):
        return ours.model
    cells = "" if ours.cells is None else f", {ours.cells} cells"
    return f"{ours.model}, {ours.channels} channels{cells}"


def differences(row: Mapping[str, Any], ours: Network, source: Source, attack: Attack) -> list[str]:
    """Return in a few words each how a source's protocol differs from that of a summary row."""
    flags = []
    budget = parse_amount(row["epsilon"])
    if source.norm != row["norm"]:
        flags.append(f"norm {source.norm}, ours {row['norm']}")
    if source.epsilon is None:
        flags.append("epsilon not stated")
    elif abs(parse_amount(source.epsilon) - budget) > CLOSE:
        flags.append(f"epsilon {source.epsilon}, ours {row['epsilon']}")
    own = OURS[str(row["checkpoint"])]
    if source.checkpoint != own:
        flags.append(f"checkpoint {CHOICE[source.checkpoint]}, ours {CHOICE[own]}")
    if source.epochs is None:
        flags.append("epochs not stated")
    elif source.epochs != ours.recipe.epochs:
        flags.append(f"{source.epochs} epochs, ours {ours.recipe.epochs}")
    if (name := LOSS_WEIGHTS.get(loss := row["training"])) is not None:
        weight, own_weight = source.loss_weight.get(loss), getattr(ours.loss, name)
        if weight is None:
            flags.append(f"weight of {loss} not stated")
        elif weight != own_weight:
            flags.append(f"weight of {loss} {weight:g}, ours {own_weight:g}")
    if source.extra_data != "none":
        flags.append(f"extra data: {source.extra_data}")
    flags += _steps(source, attack, budget)
    n, official = int(row["n"]), OFFICIAL[ours.source].test
    if n != official:
        flags.append(f"ours on {n:,} of {official:,} test images")
    if row["seeds"] == 1:
        flags.append("ours of one seed")
    return flags


def _steps(source: Source, attack: Attack, budget: float) -> list[str]:
    """Return how the steps of an iterative attack differ; `budget` is our epsilon as a number."""
    own = ATTACKS.get(attack)
    if own is None or own.steps in (None, 1) or own.step_size_over_epsilon is None:
        return []
    flags = []
    theirs = source.attacks.get(attack, AttackDetails())
    steps = theirs.steps or (own.steps if attack in NAMED_STEPS else None)
    if steps is None:
        flags.append("number of steps not stated")
    elif steps != own.steps:
        flags.append(f"{steps} steps, ours {own.steps}")
    length = budget * own.step_size_over_epsilon
    if theirs.step is None:
        flags.append("length of steps not stated")
    elif abs(parse_amount(theirs.step) - length) > CLOSE:
        flags.append(
            f"steps of {theirs.step}, ours {own.step_size_over_epsilon:g} epsilon = {length:.5f}"
        )
    return flags
