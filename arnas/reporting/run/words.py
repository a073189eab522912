"""What the tables say, in sentences. Every number comes from a result table."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from arnas.reporting.run.figures import accuracy_of
from arnas.reporting.run.tables import UNION

LABELS = {
    "clean": "clean",
    "fgsm": "FGSM",
    "pgd20": "PGD-20",
    "pgd100": "PGD-100",
    "cw_inf": "CW-inf",
    "apgd_ce": "APGD-CE",
    "autoattack": "AutoAttack",
    UNION: "union",
}
"""How the report writes the names of attacks."""


def shown(rows: pd.DataFrame) -> str:
    """Return an accuracy with its interval, or its mean and deviation over seeds."""
    mean, low, high = accuracy_of(rows)
    if len(rows) == 1:
        return f"{mean:.1f} % [{low:.1f}, {high:.1f}]"
    return f"{mean:.1f} ± {high - mean:.1f} % ({len(rows)} seeds)"


def join(parts: Sequence[str]) -> str:
    """Return parts as an enumeration in words."""
    if len(parts) < 2:
        return "".join(parts)
    return f"{', '.join(parts[:-1])} and {parts[-1]}"


def in_short(
    whitebox: pd.DataFrame,
    models: pd.DataFrame,
    blackbox: pd.DataFrame,
    checks: pd.DataFrame,
    searches: Sequence[str],
    search_dataset: str,
) -> list[str]:
    """Return the answer of a run in a few sentences, for each dataset and for the checks."""
    chosen = whitebox[whitebox["checkpoint"] == "selected"]
    sentences = []
    for name, here in chosen.groupby("dataset", sort=False):
        dataset = str(name)
        others = blackbox[blackbox["dataset"] == dataset]
        sentences += _dataset(dataset, here, others, searches, dataset != search_dataset)
        sizes = models[models["dataset"] == dataset]
        if sizes["parameters"].nunique() > 1:
            sentences.append(
                f"These networks have {_range(sizes['parameters'])} parameters and "
                f"{_range(sizes['macs'])} multiply-accumulates: they are not of one size."
            )
    return [*sentences, _verdict(checks)]


def _dataset(
    dataset: str,
    here: pd.DataFrame,
    blackbox: pd.DataFrame,
    searches: Sequence[str],
    transferred: bool,
) -> list[str]:
    """Return what one dataset's accuracies say."""
    robust = here[here["attack"] == UNION]
    n, norm, epsilon = (robust[key].iloc[0] for key in ("n", "norm", "epsilon"))
    defended = robust[robust["training"] != "natural"]
    order = defended.groupby("model", sort=False)["accuracy"].mean().sort_values(ascending=False)
    texts = []
    for model in order.index:
        origin = ""
        if model in searches:
            origin = (
                " (found elsewhere, trained anew here)" if transferred else " (found by this run)"
            )
        texts.append(f"{model}{origin} {shown(defended[defended['model'] == model])}")
    sentences = [
        f"On {dataset}, {norm} epsilon {epsilon}, this share of {n} test images withstands every "
        f"attack that ran on all of them: {join(texts)}."
        if texts
        else f"On {dataset} no network was trained adversarially."
    ]
    if len(order) > 1:
        sentences.append(_ranking(defended, list(map(str, order.index))))
    for control, rows in robust[robust["training"] == "natural"].groupby("model", sort=False):
        model = str(control)
        clean = here[(here["attack"] == "clean") & (here["model"] == model)]
        sentences.append(
            f"The undefended control {model} falls from {shown(clean)} to {shown(rows)}, so the "
            "attacks work."
        )
    auto = here[here["attack"] == "autoattack"]
    if len(auto):
        texts = [f"{m} {shown(r)}" for m, r in auto.groupby("model", sort=False)]
        sentences.append(f"AutoAttack, on {auto['n'].iloc[0]} images: {join(texts)}.")
    across = blackbox[blackbox["model"] != blackbox["source"]] if len(blackbox) else blackbox
    across = across[across["training"] != "natural"] if len(across) else across
    if len(across):
        pairs = across.groupby(["model", "source"], sort=False)["accuracy"]
        means = pairs.agg(accuracy="mean", sd="std", seeds="count").reset_index()
        worst = means.sort_values("accuracy", kind="stable").iloc[0]
        kept = f"{worst['accuracy']:.1f}"
        kept += f" ± {worst['sd']:.1f} % ({worst['seeds']} seeds)" if worst["seeds"] > 1 else " %"
        how = "Square" if worst["source"] == "square" else f"PGD on {worst['source']}"
        sentences.append(
            f"Without seeing the network, {how} comes closest to breaking a defended one: "
            f"{worst['model']} keeps {kept}."
        )
    return sentences


def _range(values: pd.Series[int]) -> str:
    """Return the smallest and the largest of some numbers in words."""
    low, high = int(values.min()), int(values.max())
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _ranking(defended: pd.DataFrame, order: list[str]) -> str:
    """Say whether the intervals of the first network and the others lie apart."""
    _, low, _ = accuracy_of(defended[defended["model"] == order[0]])
    close = [
        model for model in order[1:] if accuracy_of(defended[defended["model"] == model])[2] >= low
    ]
    apart = [model for model in order[1:] if model not in close]
    first = order[0]
    if not close:
        return f"The interval of {first} lies above those of all others."
    names = join([first, *close])
    text = f"The intervals of {names} overlap, so these figures do not rank them"
    return f"{text}; {join(apart)} lies below." if apart else f"{text}."


def _verdict(checks: pd.DataFrame) -> str:
    """Return how the checks went."""
    counts = checks["status"].value_counts()
    passed, warned, failed = (int(counts.get(key, 0)) for key in ("PASS", "WARN", "FAIL"))
    text = f"Of {len(checks)} checks of the evaluation itself, {passed} pass"
    if warned:
        text += f", {warned} warn"
    text += f" and {failed} fail" if failed else " and none fails"
    bad = checks[checks["status"] == "FAIL"]
    if failed:
        names = join([f"{r.model} on {r.dataset}" for r in bad.itertuples()])
        text += f": do not rely on the figures of {names}"
    return f"{text}."
