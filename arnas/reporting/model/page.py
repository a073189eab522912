"""The page of one network's evaluation: one HTML file that loads nothing from elsewhere."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from markupsafe import Markup
from PIL import Image
from torch import Tensor

from arnas.attacks.threat import parse_amount
from arnas.evaluation.result import BROKEN, ROBUST, EvalResult, Status, worst_class
from arnas.evaluation.statistics import Accuracy
from arnas.reporting.html import data_url, render_page
from arnas.reporting.style import PALETTE
from arnas.runtime.errors import UserError
from arnas.runtime.files import write_bytes

TEMPLATE, EVALUATION = "model/page.html.j2", "model/evaluation.html.j2"
EXAMPLES = 8
"""Images shown with their examples."""
CLASSES = 20
"""Most classes in the figure; of more, those with the lowest robust accuracy."""
STATUSES: tuple[Status, ...] = ("FAIL", "WARN", "SKIP", "PASS")
"""In the order of the page."""
ROBUST_COLOUR, WRONG_COLOUR = "#d9e2e8", "#3a3f45"


class Bar(NamedTuple):
    """A row of a figure."""

    name: str
    accuracies: tuple[Accuracy, ...]
    """The first is drawn as a bar, a second one as a mark."""
    marked: bool = False


class Point(NamedTuple):
    """A budget of the curve."""

    epsilon: str
    place: float
    """From 0 to 1, on a square-root scale."""
    accuracy: Accuracy


class Example(NamedTuple):
    """An image that an attack broke, as PNGs in URLs."""

    place: int
    """Among the images of the evaluation."""
    label: int
    predicted: str
    attack: str
    image: str
    example: str
    change: str


class OutcomeMap(NamedTuple):
    """The outcome of every image, as a picture."""

    url: str
    """PNG with one pixel for each image."""
    columns: int
    rows: int
    legend: tuple[tuple[str, str, int], ...]
    """Name, colour and number of images of each outcome."""


def write_page(
    path: Path,
    result: EvalResult,
    title: str,
    *,
    x: Tensor | None = None,
    predicted: Tensor | None = None,
) -> None:
    """Write the page of an evaluation, atomically; the same evaluation gives the same bytes.

    Parameters
    ----------
    result
        What to show; one read from a record has no examples, so none are shown.
    title
        Names the model.
    x
        The images that were attacked, float of shape (n, C, H, W) in [0, 1]; without them the page
        shows examples only.
    predicted
        int64 of shape (n,): the classes that the model gives to the examples.

    Raises
    ------
    UserError
        When the images are not those of the evaluation, or the file cannot be written.
    """
    # Names of folders may hold bytes that are no text.
    write_bytes(path, render(result, title, x, predicted).encode("utf-8", "replace"))


def render(
    result: EvalResult, title: str, x: Tensor | None = None, predicted: Tensor | None = None
) -> str:
    """Return the HTML of the page; parameters as for `write_page`."""
    body = render_evaluation(result, x=x, predicted=predicted)
    return render_page(TEMPLATE, title=title, result=result, body=body)


def render_evaluation(
    result: EvalResult, prefix: str = "", x: Tensor | None = None, predicted: Tensor | None = None
) -> Markup:
    """Return what a page shows of an evaluation, as HTML; `prefix` begins the ids of its places."""
    check_images(result, x, predicted)
    worst = worst_class(result)
    classes = [
        Bar(str(label), (robust, clean), label == worst)
        for label, (clean, robust) in result.per_class().items()
    ]
    lowest = sorted(classes, key=lambda bar: bar.accuracies[0].percent)[:CLASSES]
    statuses = [
        (status, [(n, check) for n, check in enumerate(result.checks, 1) if check.status == status])
        for status in STATUSES
    ]
    html = render_page(
        EVALUATION,
        prefix=prefix,
        result=result,
        failed=[check for check in result.checks if check.status == "FAIL"],
        after_attacks=[
            Bar("clean", (result.clean_accuracy,)),
            *(Bar(f"+ {name}", (found.robust_accuracy,)) for name, found in result.attacks.items()),
        ],
        curve=curve_points(result),
        classes=classes,
        shown_classes=[bar for bar in classes if bar in lowest],
        worst=next(bar for bar in classes if bar.marked),
        outcomes=outcome_map(result),
        examples=examples(result, x, predicted),
        amplified=_amplified(result, x),
        groups=[(status, items) for status, items in statuses if items],
        provenance=flat(result.provenance),
    )
    return Markup(html)


def check_images(result: EvalResult, x: Tensor | None, predicted: Tensor | None) -> None:
    """Raise unless images and predictions are as many, and of the size, as those evaluated."""
    wanted = tuple(result.x_adv.shape)
    if x is not None and wanted[0] and tuple(x.shape) != wanted:
        raise UserError(
            f"x has shape {tuple(x.shape)}, the examples have {wanted}: pass the images that were "
            "evaluated."
        )
    if predicted is not None and tuple(predicted.shape) != (result.n,):
        raise UserError(
            f"predicted has shape {tuple(predicted.shape)}: pass one class for each of the "
            f"{result.n} images."
        )


def broken_flags(result: EvalResult) -> Tensor:
    """Return which images were classified correctly and broken by an attack, bool of shape (n,)."""
    return (result.outcomes["clean"] == ROBUST) & ~result.robust_flags


def curve_points(result: EvalResult) -> list[Point]:
    """Return the curve with the places of its budgets, which grow with their square roots."""
    budgets = {epsilon: parse_amount(epsilon) for epsilon in result.curve}
    most = max(budgets.values(), default=0) or 1
    return [
        Point(epsilon, math.sqrt(budgets[epsilon] / most), result.curve[epsilon])
        for epsilon in sorted(budgets, key=budgets.__getitem__)
    ]


def outcome_map(result: EvalResult) -> OutcomeMap:
    """Return one pixel for each image, coloured by the first attack that broke it."""
    names = ["robust under every attack", "misclassified without an attack", *result.attacks]
    colours = [ROBUST_COLOUR, WRONG_COLOUR]
    colours += [PALETTE[place % len(PALETTE)] for place in range(len(result.attacks))]
    numbers = torch.zeros(result.n, dtype=torch.int64)
    in_order = [result.outcomes[name] for name in ("clean", *result.attacks)]
    for number, outcomes in reversed(list(enumerate(in_order, start=1))):
        numbers[outcomes == BROKEN] = number
    # Wide enough to fit between two paragraphs, from ten to some thousand images.
    columns = min(result.n, max(10, math.ceil(math.sqrt(4 * result.n))))
    rows = -(-result.n // columns)
    palette = np.array([[*bytes.fromhex(c[1:])] for c in [*colours, "#ffffff"]], dtype=np.uint8)
    cells = np.full(rows * columns, len(colours))
    cells[: result.n] = numbers.numpy()
    legend = tuple(
        (name, colour, int((numbers == number).sum()))
        for number, (name, colour) in enumerate(zip(names, colours, strict=True))
    )
    return OutcomeMap(_png_url(palette[cells.reshape(rows, columns)]), columns, rows, legend)


def examples(result: EvalResult, x: Tensor | None, predicted: Tensor | None) -> list[Example]:
    """Return the first images that were broken, with their examples; none if there are none."""
    if not result.x_adv.shape[0] or result.x_adv.shape[1] not in (1, 3):
        return []
    scale = _amplified(result, x)
    shown = []
    for place in broken_flags(result).nonzero().flatten().tolist()[:EXAMPLES]:
        example = result.x_adv[place].detach().cpu().float()
        broke = next(k for k in result.attacks if int(result.outcomes[k][place]) == BROKEN)
        image = change = ""
        if x is not None:
            clean = x[place].detach().cpu().float()
            image = _png_url(pixels(clean))
            change = _png_url(pixels(0.5 + scale * (example - clean)))
        shown.append(
            Example(
                place,
                int(result.labels[place]),
                "" if predicted is None else str(int(predicted[place])),
                broke,
                image,
                _png_url(pixels(example)),
                change,
            )
        )
    return shown


def _amplified(result: EvalResult, x: Tensor | None) -> float:
    """Return the factor that makes the largest change among the examples shown fill the greys."""
    places = broken_flags(result).nonzero().flatten()[:EXAMPLES]
    if x is None or not len(places) or not len(result.x_adv):
        return 1.0
    change = (result.x_adv[places].cpu().float() - x[places.to(x.device)].cpu().float()).abs()
    return 0.5 / max(float(change.max()), 1e-6)


def pixels(image: Tensor) -> np.ndarray:
    """Return an image as 8-bit pixels: uint8 of shape (H, W) or (H, W, 3).

    Takes floats of shape (C, H, W), C being 1 or 3; they are clipped to [0, 1] and rounded.
    """
    levels = (image.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    return levels[0] if len(levels) == 1 else levels.transpose(1, 2, 0)


def png_bytes(levels: np.ndarray) -> bytes:
    """Return uint8 pixels of shape (H, W) or (H, W, 3) as a PNG."""
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(levels)).save(stream, format="png")
    return stream.getvalue()


def _png_url(levels: np.ndarray) -> str:
    """Return the same as a URL that holds it."""
    return data_url(png_bytes(levels), "png")


def flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Return nested values as names with dots and texts, sorted by name."""
    rows: list[tuple[str, str]] = []
    for key in sorted(values, key=str):
        value = values[key]
        if isinstance(value, Mapping) and value:
            rows += flat(value, f"{prefix}{key}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            rows.append((f"{prefix}{key}", text))
    return rows
