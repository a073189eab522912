"""Published accuracies beside ours, and how their protocol differs from ours."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import pandas as pd

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

STEPS = {"pgd20": 20, "pgd100": 100}
"""Attacks whose names say how many steps they have."""
CLOSE = 1e-9
"""Distances in input units that differ by less are one."""
COLUMNS = (
    "dataset",
    "model",
    "published_model",
    "training",
    "checkpoint",
    "attack",
    "epsilon",
    "n",
    "seeds",
    "ours",
    "sd",
    "published",
    "difference",
    "source",
    "recipe",
    "protocol",
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
    """What the files of a run say of one of its trained networks."""

    source: str
    """Where the images come from: a name of the data sources."""
    model: str
    """A name of the model registry, which need not be what the run calls the network."""
    channels: int
    cells: int | None
    epochs: int | None
    attacks: Mapping[str, str]
    """Attack to its settings in words."""


def network(
    model: Mapping[str, Any], origin: Mapping[str, Any], outcomes: Mapping[str, Any]
) -> Network | None:
    """Return the facts of a network; None for one that nobody else can have published.

    That is one with a genotype of the run's own, or in another layout than the published one.

    Parameters
    ----------
    model, origin
        Description and provenance of its selected checkpoint.
    outcomes
        Description of its white-box outcomes.
    """
    name, space, epochs = model.get("model"), model.get("space"), origin.get("epochs")
    if not isinstance(name, str) or name not in MODELS:
        return None
    if space is not None and (
        name not in GENOTYPES or space != GENOTYPES[name].space.model_dump(mode="json")
    ):
        return None
    attacks = outcomes.get("attacks")
    return Network(
        str(outcomes["dataset"].get("source")),
        *size(name, model.get("channels"), model.get("cells")),
        epochs if isinstance(epochs, int) else None,
        {
            attack: str(said.get("settings"))
            for attack, said in (attacks if isinstance(attacks, dict) else {}).items()
            if isinstance(said, dict)
        },
    )


class Walk(NamedTuple):
    """Steps of one of our iterative attacks."""

    steps: int
    divisor: int
    """A step is epsilon divided by this."""


def walk(settings: str) -> Walk | None:
    """Read ``20 steps of epsilon/4 ...``; None for attacks without steps of a fixed length."""
    found = re.match(r"(\d+) steps of epsilon/(\d+) ", settings)
    return Walk(int(found[1]), int(found[2])) if found else None


def compare(
    whitebox: pd.DataFrame, networks: Mapping[tuple[str, str], Network], published: Published
) -> pd.DataFrame:
    """Return each accuracy of ours beside every published one of the same network.

    The same are the source of the images, the registry's model, its size and the loss. Where a
    source reports the last epoch, ours of the last epoch is compared, if it was measured.

    Parameters
    ----------
    whitebox
        Table ``whitebox.csv``.
    networks
        Dataset and network, as the run calls them, to facts; without those of `network` None.
    published
        What others have printed.

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
        facts = networks.get((dataset, model))
        if facts is None:
            continue
        key = (facts.source, own["training"].iloc[0], facts.model, facts.channels, facts.cells)
        for source, entry in published.seen():
            if entry.key() != key:
                continue
            remarks = [entry.remark] if entry.remark else []
            if (dataset, model) in unreliable:
                remarks.append("a check of ours failed")
            for attack, value in entry.seen.items():
                for row in _measured(own[own["attack"] == attack], source):
                    flags = differences(row, facts, source, attack) + remarks
                    found = {
                        "published_model": _named(facts),
                        "ours": row["mean"],
                        "published": value,
                        "difference": round(row["mean"] - value, DECIMALS),
                        "source": f"{source.tag} ({source.reference})",
                        "recipe": source.recipe,
                        "protocol": "; ".join(flags),
                    }
                    rows.append({**row, **found})
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _measured(own: pd.DataFrame, source: Source) -> list[dict[str, Any]]:
    """Return our rows of an attack for the checkpoint that fits the source's best."""
    fitting = "last" if source.checkpoint == "last" else "selected"
    if fitting not in set(own["checkpoint"]):
        fitting = "selected"
    rows = own[own["checkpoint"] == fitting].to_dict("records")
    return [{str(key): value for key, value in row.items()} for row in rows]


def _named(facts: Network) -> str:
    """Return a model with its size where that is not the registry's."""
    if (facts.model, facts.channels, facts.cells) == size(facts.model, None, None):
        return facts.model
    cells = "" if facts.cells is None else f", {facts.cells} cells"
    return f"{facts.model}, {facts.channels} channels{cells}"


def differences(
    row: Mapping[str, Any], facts: Network, source: Source, attack: Attack
) -> list[str]:
    """Return in a few words each how a source's protocol differs from that of a row of ours.

    Parameters
    ----------
    row
        Of the summary: training, norm, epsilon, n, seeds and checkpoint.
    """
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
    elif source.epochs != facts.epochs:
        flags.append(f"{source.epochs} epochs, ours {facts.epochs or 'not stated'}")
    if (loss := row["training"]) in ("trades", "mart"):
        weight = source.loss_weight.get(loss)
        stated = "not stated" if weight is None else f"{weight:g}"
        flags.append(f"weight of {loss} {stated}, ours in the settings of retrain")
    if source.extra_data != "none":
        flags.append(f"extra data: {source.extra_data}")
    flags += _steps(facts, source, attack, budget)
    n, official = int(row["n"]), OFFICIAL[facts.source].test
    if n != official:
        flags.append(f"ours on {n:,} of {official:,} test images")
    if row["seeds"] == 1:
        flags.append("ours of one seed")
    return flags


def _steps(facts: Network, source: Source, attack: Attack, budget: float) -> list[str]:
    """Return how the steps of an iterative attack differ; `budget` is our epsilon as a number."""
    ours = walk(facts.attacks.get(attack, ""))
    if ours is None:
        return []
    flags = []
    details = source.attacks.get(attack, AttackDetails())
    steps = details.steps or STEPS.get(attack)
    if steps is None:
        flags.append("number of steps not stated")
    elif steps != ours.steps:
        flags.append(f"{steps} steps, ours {ours.steps}")
    length = budget / ours.divisor
    if details.step is None:
        flags.append("length of steps not stated")
    elif abs(parse_amount(details.step) - length) > CLOSE:
        flags.append(f"steps of {details.step}, ours epsilon/{ours.divisor} = {length:.5f}")
    return flags
