"""Titles and captions of the report's figures, for the HTML report and for Snakemake's alike."""

from __future__ import annotations

from typing import NamedTuple


class Caption(NamedTuple):
    """What stands above and below a figure."""

    title: str
    text: str
    table: str
    """The result table that the figure draws."""


CAPTIONS: dict[str, Caption] = {
    "tradeoff": Caption(
        "Clean accuracy, robust accuracy and cost",
        "Accuracy on clean images and under the union of the attacks, for the selected "
        "checkpoints. The larger a marker, the more multiply-accumulates an image costs. Bars are "
        "Wilson 95 % intervals, or the standard deviation over several seeds.",
        "whitebox.csv, models.csv",
    ),
    "epsilon_curve": Caption(
        "Accuracy against epsilon",
        "APGD with growing budgets on the first test images. An image that a budget breaks counts "
        "as broken at every larger one. Without gradient masking the accuracy reaches 0 where "
        "epsilon allows every image.",
        "curve.csv",
    ),
    "blackbox": Caption(
        "Black-box and transfer attacks",
        "Accuracy of each network (row) on PGD examples made on the network of the column, and "
        "under Square, which sees outputs only and ran on the first test images. Bold: examples "
        "made on the network itself. A black-box accuracy below the white-box one would be a sign "
        "of masked gradients.",
        "blackbox.csv",
    ),
    "learning_curves": Caption(
        "Learning curves",
        "Accuracy after every epoch, clean (blue) and under PGD (orange), on the validation images "
        "(solid) and on the first training images (dotted). A dotted orange line that leaves the "
        "solid one is robust overfitting. Dashed: the epoch that was selected.",
        "training.csv",
    ),
    "gamma": Caption(
        "Weight of the natural gradient in the search",
        "Gamma, the share of the natural gradient in the min-norm combination of the natural and "
        "the weighted adversarial gradient, at every architecture step of the second stage.",
        "gamma.csv",
    ),
    "alphas": Caption(
        "Architecture parameters through the search",
        "Softmax weight of each operation: the mean over the 14 edges of a cell (line) and the "
        "range from the lowest to the highest edge (band), before the first epoch and after each. "
        "All start near one seventh.",
        "alphas.csv",
    ),
    "operations": Caption(
        "Operations by depth",
        "Share of each operation among the operations of each cell, from the input (top) to the "
        "output.",
        "operations.csv",
    ),
    "examples": Caption(
        "Adversarial examples and predictions",
        "The first test images, not chosen. For each dataset: the clean images with their labels; "
        "then for each network the perturbation, amplified so that epsilon is full red (brighter) "
        "or full blue (darker), and the adversarial example with the predicted class and its "
        "confidence, in red where it is wrong. For colour images, grey is no change.",
        "examples.csv",
    ),
}
