"""What the tables say, in sentences. Every number comes from a result table."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence

import pandas as pd

from arnas.attacks.registry import attack_label
from arnas.reporting.format import UNION, estimate, join


def summarise(
    tables: Mapping[str, pd.DataFrame],
    searches: Sequence[str],
    search_dataset: str,
    controls: Container[str],
) -> list[str]:
    """Return the results of a run in a few sentences, for each dataset and for the checks.

    `controls` are the networks that are not defended.
    """
    whitebox, models, blackbox = (tables[name] for name in ("whitebox", "models", "blackbox"))
    selected = whitebox[whitebox["checkpoint"] == "selected"]
    sentences: list[str] = []
    for name, rows in selected.groupby("dataset", sort=False):
        dataset = str(name)
        origin = "found elsewhere, trained anew here" if dataset != search_dataset else ""
        origins = dict.fromkeys(searches, f" ({origin or 'found by this run'})")
        sentences += _robustness(dataset, rows, origins, controls)
        sentences += _other_attacks(rows, blackbox[blackbox["dataset"] == dataset], controls)
        sizes = models[models["dataset"] == dataset]
        if sizes["parameters"].nunique() > 1:
            sentences.append(
                f"These networks differ in size: {_range(sizes['parameters'])} parameters and "
                f"{_range(sizes['macs'])} multiply-accumulates."
            )
    return [*sentences, _checks(tables["checks"])]


def _robustness(
    dataset: str, rows: pd.DataFrame, origins: dict[str, str], controls: Container[str]
) -> Iterator[str]:
    """Yield what one dataset's accuracies say of the defended networks and of the controls."""
    robust = rows[rows["attack"] == UNION]
    n, norm, epsilon = (robust[key].iloc[0] for key in ("n", "norm", "epsilon"))
    undefended = robust["model"].map(lambda model: model in controls).astype(bool)
    defended = robust[~undefended]
    means = defended.groupby("model", sort=False)["accuracy"].mean()
    order = [str(model) for model in means.sort_values(ascending=False).index]
    if order:
        texts = [
            f"{model}{origins.get(model, '')} {estimate(defended[defended['model'] == model])}"
            for model in order
        ]
        yield (
            f"Robust accuracy on {dataset} ({norm} epsilon {epsilon}, {n} test images, union of "
            f"the attacks that ran on all of them): {join(texts)}."
        )
    else:
        yield f"On {dataset} no network was trained adversarially."
    if len(order) > 1:
        yield _ranking(defended, order)
    for control, found in robust[undefended].groupby("model", sort=False):
        clean = rows[(rows["attack"] == "clean") & (rows["model"] == control)]
        yield (
            f"The accuracy of the undefended control {control} drops from {estimate(clean)} to "
            f"{estimate(found)} under attack."
        )


def _other_attacks(
    rows: pd.DataFrame, blackbox: pd.DataFrame, controls: Container[str]
) -> Iterator[str]:
    """Yield what attacks on fewer images and black-box attacks add."""
    auto = rows[rows["attack"] == "autoattack"]
    if len(auto):
        texts = [f"{m} {estimate(found)}" for m, found in auto.groupby("model", sort=False)]
        yield f"{attack_label('autoattack')}, on {auto['n'].iloc[0]} images: {join(texts)}."
    if blackbox.empty:
        return
    defended = blackbox["model"].map(lambda model: model not in controls)
    others = blackbox[(blackbox["model"] != blackbox["source"]) & defended]
    if len(others):
        pairs = others.groupby(["model", "source"], sort=False)["accuracy"]
        means = pairs.agg(accuracy="mean", sd="std", seeds="count").reset_index()
        worst = means.sort_values("accuracy", kind="stable").iloc[0]
        spread = f" ± {worst['sd']:.1f} % ({worst['seeds']} seeds)" if worst["seeds"] > 1 else " %"
        attack = "Square" if worst["source"] == "square" else f"PGD on {worst['source']}"
        yield (
            f"The strongest black-box attack on a defended network is {attack}: "
            f"{worst['model']} keeps {worst['accuracy']:.1f}{spread}."
        )


def _range(values: pd.Series[int]) -> str:
    """Return the smallest and the largest of some numbers in words."""
    low, high = int(values.min()), int(values.max())
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _ranking(defended: pd.DataFrame, order: list[str]) -> str:
    """Say whether the interval of the best network overlaps with those of the others."""
    found = {model: estimate(defended[defended["model"] == model]) for model in order}
    first, *others = order
    close = [model for model in others if found[model].high >= found[first].low]
    apart = [model for model in others if model not in close]
    if not close:
        return f"The interval of {first} lies above those of all others."
    text = f"The intervals of {join([first, *close])} overlap, which does not rank them"
    return (
        f"{text}; {join(apart)} {'lies' if len(apart) == 1 else 'lie'} below."
        if apart
        else f"{text}."
    )


def _checks(checks: pd.DataFrame) -> str:
    """Return how many checks passed, and which networks have a failed one."""
    counts = checks["status"].value_counts()
    texts = [f"{counts.get(status, 0)} {status}" for status in ("PASS", "WARN", "FAIL", "SKIP")]
    text = f"{len(checks)} checks of the evaluation: {', '.join(texts)}"
    failed = checks[checks["status"] == "FAIL"]
    if len(failed):
        names = [f"{row.model} on {row.dataset}" for row in failed.itertuples()]
        text += f"; do not rely on the accuracies of {join(list(dict.fromkeys(names)))}"
    return f"{text}."
