"""Figures of what was measured. Each draws one result table and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from arnas.reporting.format import UNION, estimate
from arnas.reporting.style import GREY, MARKERS, PALETTE, assigned, nothing, panels

SMALLEST, LARGEST = 30.0, 260.0
"""Areas of the markers, in square points, of no and of the most multiply-accumulates."""


def over_seeds(rows: pd.DataFrame) -> str:
    """Return what the figures of several seeds are, as the end of a title; nothing for one seed."""
    count = rows["seed"].nunique()
    return f", mean ± sd of {count} seeds" if count > 1 else ""


def tradeoff(whitebox: pd.DataFrame, models: pd.DataFrame) -> Figure:
    """Draw clean against robust accuracy of the selected checkpoints; areas are MACs."""
    chosen = whitebox[whitebox["checkpoint"] == "selected"]
    groups = list(chosen.groupby("dataset", sort=False))
    colour, marker = assigned(chosen["model"], PALETTE), assigned(chosen["model"], MARKERS)
    figure, axes = panels(len(groups), 3.3)
    for panel, (dataset, here) in zip(axes, groups, strict=True):
        sizes = models[models["dataset"] == dataset].groupby("model")["macs"].first()
        for number, (name, rows) in enumerate(here.groupby("model", sort=False)):
            model = str(name)
            x, x_low, x_high, _ = estimate(rows[rows["attack"] == "clean"])
            y, y_low, y_high, _ = estimate(rows[rows["attack"] == UNION])
            share = float(sizes[model]) / float(sizes.max())
            panel.errorbar(
                x,
                y,
                xerr=[[x - x_low], [x_high - x]],
                yerr=[[y - y_low], [y_high - y]],
                color=colour[model],
                linewidth=1,
                capsize=2,
            )
            panel.scatter(
                x,
                y,
                s=SMALLEST + (LARGEST - SMALLEST) * share,
                color=colour[model],
                marker=marker[model],
                alpha=0.75,
                label=f"{model}: {float(sizes[model]) / 1e6:.2f} M MACs",
                zorder=3 + number,
            )
        panel.set_title(f"{dataset}{over_seeds(here)}")
        panel.set_xlabel("clean accuracy, percent")
        panel.set_ylabel("robust accuracy, percent")
        panel.set_ylim(-3, 103)
        panel.margins(x=0.12)
        panel.legend(
            loc="upper center",
            bbox_to_anchor=(0.5, -0.2),
            ncols=2,
            markerscale=0.6,
            columnspacing=1.2,
            handletextpad=0.3,
        )
    return figure


def epsilon_curve(curve: pd.DataFrame) -> Figure:
    """Draw accuracy against epsilon, with intervals where there is one seed."""
    groups = list(curve.groupby("dataset", sort=False))
    colour, marker = assigned(curve["model"], PALETTE), assigned(curve["model"], MARKERS)
    figure, axes = panels(len(groups), 2.9)
    for panel, (dataset, here) in zip(axes, groups, strict=True):
        budgets = dict(zip(here["epsilon"], here["budget"].astype(float), strict=True))
        texts, values = list(budgets), list(budgets.values())
        for name, rows in here.groupby("model", sort=False):
            model = str(name)
            points = [estimate(rows[rows["epsilon"] == text]) for text in texts]
            mean, low, high, _ = zip(*points, strict=True)
            panel.fill_between(values, low, high, color=colour[model], alpha=0.12, linewidth=0)
            panel.plot(
                values, mean, color=colour[model], marker=marker[model], markersize=4, label=model
            )
        panel.set_xscale("function", functions=(np.sqrt, np.square))
        # Amounts without needless zeros.
        short = [text if "/" in text or "px" in text else f"{float(text):g}" for text in texts]
        panel.set_xticks(values, short, rotation=45)
        panel.set_xlim(0, max(values) * 1.03)
        panel.set_ylim(-3, 103)
        counts = " or ".join(map(str, sorted(set(here["n"]))))
        panel.set_title(f"{dataset}, {counts} images{over_seeds(here)}")
        panel.set_xlabel("epsilon (square-root scale)")
        panel.set_ylabel("accuracy, percent")
        panel.legend(loc="upper right")
    return figure


def blackbox(table: pd.DataFrame) -> Figure:
    """Draw, for each dataset, the accuracy of every target on every source's examples."""
    datasets = list(table.groupby("dataset", sort=False))
    heights = [0.9 + 0.42 * here["model"].nunique() for _, here in datasets]
    figure, axes = panels(len(datasets), sum(heights) / len(datasets), heights=heights)
    for panel, (dataset, here) in zip(axes, datasets, strict=True):
        targets = list(dict.fromkeys(here["model"]))
        sources = [*targets, "square"]
        groups = here.groupby(["model", "source"])["accuracy"]
        means, deviations = groups.mean(), groups.std()
        several = here["seed"].nunique() > 1
        grid = np.array([[means[target, source] for source in sources] for target in targets])
        panel.imshow(grid, cmap="YlGnBu", vmin=0, vmax=100, aspect="auto")
        for (row, column), value in np.ndenumerate(grid):
            text = f"{value:.1f}"
            if several:
                text += f"\n±{deviations[targets[row], sources[column]]:.1f}"
            panel.text(
                column,
                row,
                text,
                ha="center",
                va="center",
                color="white" if value > 60 else "black",
                fontweight="bold" if row == column else "normal",
            )
        panel.set_xticks(range(len(sources)), [_wrapped(source) for source in sources])
        panel.set_yticks(range(len(targets)), [_wrapped(target) for target in targets])
        panel.tick_params(length=0, labelsize=7.5)
        panel.grid(visible=False)
        panel.spines[:].set_visible(False)
        panel.set_title(f"{dataset}: accuracy in percent{over_seeds(here)}")
        panel.set_xlabel("examples made on")
        panel.set_ylabel("shown to")
    return figure


def _wrapped(name: str) -> str:
    """Return a name over two lines where it has a joint."""
    return name.replace("_", "\n", 1)


def learning_curves(training: pd.DataFrame, whitebox: pd.DataFrame) -> Figure:
    """Draw clean and robust accuracy on training and validation images, epoch by epoch."""
    cells = list(training.groupby(["dataset", "model"], sort=False))
    figure, axes = panels(len(cells), 1.75, columns=2)
    look: dict[str, tuple[str, Literal[":", "-"]]] = {
        "train_clean": ("#0072b2", ":"),
        "val_clean": ("#0072b2", "-"),
        "train_robust": ("#d55e00", ":"),
        "val_robust": ("#d55e00", "-"),
    }
    chosen = whitebox[whitebox["checkpoint"] == "selected"]
    for number, (panel, ((dataset, model), here)) in enumerate(zip(axes, cells, strict=True)):
        for _, rows in here.groupby("seed"):
            for column, (colour, line) in look.items():
                panel.plot(rows["epoch"], rows[column], color=colour, linestyle=line, linewidth=1.3)
        same = (chosen["dataset"] == dataset) & (chosen["model"] == model)
        for epoch in sorted(set(chosen[same]["epoch"])):
            panel.axvline(epoch, color=GREY, linewidth=0.8, linestyle="--")
        panel.set_title(f"{model}\non {dataset}", fontsize=8.5)
        panel.set_ylim(-3, 103)
        if number % 2 == 0:
            panel.set_ylabel("percent")
        if number >= len(cells) - 2:
            panel.set_xlabel("epoch")
    keys = [
        Line2D([], [], color=colour, linestyle=line, label=column.replace("_", ", "))
        for column, (colour, line) in look.items()
    ]
    keys.append(Line2D([], [], color=GREY, linestyle="--", label="selected"))
    figure.legend(handles=keys, loc="outside lower center", ncols=3)
    return figure


def examples(
    table: pd.DataFrame,
    images: Mapping[str, np.ndarray],
    attacked: Mapping[tuple[str, str], np.ndarray],
    budgets: Mapping[str, float],
) -> Figure:
    """Draw test images, their perturbations and what each network said of the result.

    Parameters
    ----------
    table
        Table ``examples.csv``.
    images
        Dataset to its first test images, floats in [0, 1] of shape (N, C, H, W).
    attacked
        (dataset, model) to the same images as attacked on that model.
    budgets
        Dataset to the largest perturbation of a pixel, which is shown as full red or blue.
    """
    if table.empty:
        return nothing("no example images")
    strips: list[tuple[str, Any, Sequence[str], Sequence[bool]]] = []
    for dataset, here in table.groupby("dataset", sort=False):
        clean = images[str(dataset)]
        first = here[here["model"] == here["model"].iloc[0]]
        labels = [str(label) for label in first["label"]]
        strips.append((f"{dataset}:\nclean", clean, labels, [True] * len(labels)))
        for name, rows in here.groupby("model", sort=False):
            x_adv = attacked[str(dataset), str(name)]
            strips.append((f"{name}:\nadded", (x_adv - clean) / budgets[str(dataset)], (), ()))
            said = [
                f"{row.adversarial_class} ({row.adversarial_confidence:.0f} %)"
                for row in rows.itertuples()
            ]
            correct = list(rows["adversarial_class"] == rows["label"])
            strips.append((f"{name}:\nsays", x_adv, said, correct))
    columns = max(len(strip[1]) for strip in strips)
    figure, axes = panels(len(strips) * columns, 0.72, columns=columns)
    for panel in axes:
        panel.axis("off")
    for row, (name, pictures, texts, right) in enumerate(strips):
        for column, picture in enumerate(pictures):
            panel = axes[row * columns + column]
            _picture(panel, picture, signed=not texts)
            if texts:
                panel.set_title(
                    texts[column],
                    loc="center",
                    fontsize=6.5,
                    fontweight="normal",
                    color="black" if right[column] else "#c00000",
                    pad=2,
                )
        axes[row * columns].text(
            -0.12,
            0.5,
            name,
            transform=axes[row * columns].transAxes,
            ha="right",
            va="center",
            fontsize=6.5,
        )
    return figure


def _picture(panel: Any, picture: np.ndarray, signed: bool) -> None:
    """Show one image of shape (C, H, W): pixels in [0, 1], or changes in [-1, 1]."""
    if picture.shape[0] == 1:
        limits = {"cmap": "RdBu_r", "vmin": -1} if signed else {"cmap": "gray", "vmin": 0}
        panel.imshow(picture[0], vmax=1, interpolation="nearest", **limits)
    else:
        shown = picture.transpose(1, 2, 0)
        shown = np.clip((shown + 1) / 2 if signed else shown, 0, 1)
        panel.imshow(shown, interpolation="nearest")
