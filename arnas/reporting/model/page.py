"""The page of one evaluation: one HTML file that loads nothing from elsewhere."""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image
from torch import Tensor

from arnas.attacks.threat import parse_amount
from arnas.evaluation.checks.base import Check, Status
from arnas.evaluation.record import worst_class
from arnas.evaluation.result import BROKEN, ROBUST, EvalResult
from arnas.evaluation.statistics import Accuracy
from arnas.reporting.run.style import PALETTE
from arnas.runtime.errors import UserError
from arnas.runtime.files import write_bytes

TEMPLATE = "evaluation.html.j2"
EXAMPLES = 8
"""Images shown with their examples."""
CLASSES = 20
"""Most classes in the figure; of more, those with the lowest robust accuracy."""
STATUSES: tuple[Status, ...] = ("FAIL", "WARN", "SKIP", "PASS")
"""In the order of the page."""
STOOD_COLOUR, WRONG_COLOUR = "#d9e2e8", "#3a3f45"
NAME_LENGTH = 22
"""Most letters of a name in a figure; tables have it whole."""


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
    """An image that fell, as PNGs in URLs."""

    place: int
    """Among the images of the evaluation."""
    label: str
    predicted: str
    attack: str
    image: str
    example: str
    change: str


class Fate(NamedTuple):
    """What became of some of the images."""

    name: str
    colour: str
    images: int


class Fates(NamedTuple):
    """What became of every image."""

    url: str
    """PNG with one pixel for each."""
    columns: int
    rows: int
    legend: tuple[Fate, ...]


@dataclass(frozen=True)
class Pictures:
    """What the page shows of images, which an `EvalResult` does not hold."""

    x: Tensor | None = None
    """The images that were attacked: float of shape (n, C, H, W) in [0, 1]."""
    predicted: Tensor | None = None
    """int64 of shape (n,): what the model says of each example."""
    class_names: Sequence[str] = ()


def write_page(
    path: Path,
    assessment: EvalResult,
    title: str,
    *,
    x: Tensor | None = None,
    predicted: Tensor | None = None,
    class_names: Sequence[str] = (),
) -> None:
    """Write the page of an evaluation, atomically; the same evaluation gives the same bytes.

    Parameters
    ----------
    path
        Ends in ``.html``.
    assessment
        What to show; one read from a record has no examples, so none are shown.
    title
        Names the model.
    x
        The images that were attacked, float of shape (n, C, H, W) in [0, 1]; without them the page
        shows examples only.
    predicted
        int64 of shape (n,): the classes that the model gives to the examples.
    class_names
        Label to name; classes beyond it are shown by number.

    Raises
    ------
    UserError
        When the images are not those of the evaluation, or the file cannot be written.
    """
    html = render(assessment, title, Pictures(x, predicted, class_names))
    # Names of folders may hold bytes that are no text.
    write_bytes(path, html.encode("utf-8", "replace"))


def render(assessment: EvalResult, title: str, pictures: Pictures | None = None) -> str:
    """Return the HTML of the page; parameters as for `write_page`."""
    pictures = pictures or Pictures()
    check_pictures(assessment, pictures.x, pictures.predicted)
    environment = Environment(
        loader=PackageLoader("arnas.reporting.model", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["short"] = _short
    classes = class_bars(assessment, pictures.class_names)
    return environment.get_template(TEMPLATE).render(
        title=title,
        assessment=assessment,
        failed=[check for check in assessment.checks if check.status == "FAIL"],
        course=[
            Bar("clean", (assessment.clean_accuracy,)),
            *(Bar(f"+ {name}", (found.standing,)) for name, found in assessment.attacks.items()),
        ],
        curve=curve_points(assessment),
        classes=classes,
        shown_classes=_lowest(classes),
        worst=next(bar for bar in classes if bar.marked),
        fates=fates(assessment),
        examples=examples(assessment, pictures),
        amplified=_amplified(assessment, pictures.x),
        groups=check_groups(assessment.checks),
        provenance=flat(assessment.provenance),
    )


def check_pictures(assessment: EvalResult, x: Tensor | None, predicted: Tensor | None) -> None:
    """Raise unless images and predictions are as many, and of the size, as those evaluated.

    Raises
    ------
    UserError
        With both shapes.
    """
    wanted = tuple(assessment.x_adv.shape)
    if x is not None and wanted[0] and tuple(x.shape) != wanted:
        raise UserError(
            f"x has shape {tuple(x.shape)}, the examples have {wanted}: hand over the images that "
            "were evaluated."
        )
    if predicted is not None and tuple(predicted.shape) != (assessment.n,):
        raise UserError(
            f"predicted has shape {tuple(predicted.shape)}: needed is one class for each of "
            f"{assessment.n} images."
        )


def fallen(assessment: EvalResult) -> Tensor:
    """Return which images were classified correctly and fell to an attack, bool of shape (n,)."""
    return (assessment.outcomes["clean"] == ROBUST) & ~assessment.robust_flags


def broken_by(assessment: EvalResult, place: int) -> str:
    """Return the attack that the image at a place fell to first, or nothing if it did not."""
    for name in assessment.attacks:
        if int(assessment.outcomes[name][place]) == BROKEN:
            return name
    return ""


def class_name(label: int, names: Sequence[str]) -> str:
    """Return the name of a class, or its number where it has none."""
    return str(names[label]) if 0 <= label < len(names) else str(label)


def class_bars(assessment: EvalResult, names: Sequence[str]) -> list[Bar]:
    """Return robust and clean accuracy of each class; the worst one is marked."""
    worst = worst_class(assessment)
    return [
        Bar(class_name(label, names), (robust, clean), label == worst)
        for label, (clean, robust) in assessment.per_class().items()
    ]


def _lowest(bars: Sequence[Bar]) -> list[Bar]:
    """Return the classes that the figure has room for, in their order."""
    order = sorted(range(len(bars)), key=lambda place: (bars[place].accuracies[0].percent, place))
    return [bars[place] for place in sorted(order[:CLASSES])]


def curve_points(assessment: EvalResult) -> list[Point]:
    """Return the curve with the places of its budgets, which grow with their square roots."""
    budgets = {epsilon: parse_amount(epsilon) for epsilon in assessment.curve}
    most = max(budgets.values(), default=0) or 1
    return [
        Point(epsilon, math.sqrt(budgets[epsilon] / most), assessment.curve[epsilon])
        for epsilon in sorted(budgets, key=budgets.__getitem__)
    ]


def fates(assessment: EvalResult) -> Fates:
    """Return a picture with one pixel for each image, coloured by what it fell to first."""
    names = ["withstands everything", "misclassified without an attack", *assessment.attacks]
    colours = [STOOD_COLOUR, WRONG_COLOUR]
    colours += [PALETTE[place % len(PALETTE)] for place in range(len(assessment.attacks))]
    fate = torch.zeros(assessment.n, dtype=torch.int64)
    for number, outcomes in reversed(list(enumerate(_in_order(assessment), start=1))):
        fate[outcomes == BROKEN] = number
    # Wide enough to fit between two paragraphs, from ten to some thousand images.
    columns = min(assessment.n, max(10, math.ceil(math.sqrt(4 * assessment.n))))
    rows = -(-assessment.n // columns)
    palette = np.array([_rgb(colour) for colour in colours] + [(255, 255, 255)], dtype=np.uint8)
    cells = np.full(rows * columns, len(colours))
    cells[: assessment.n] = fate.numpy()
    legend = tuple(
        Fate(name, colour, int((fate == number).sum()))
        for number, (name, colour) in enumerate(zip(names, colours, strict=True))
    )
    return Fates(png_url(palette[cells.reshape(rows, columns)]), columns, rows, legend)


def _in_order(assessment: EvalResult) -> list[Tensor]:
    """Return the outcomes without an attack and of each attack."""
    return [assessment.outcomes[name] for name in ("clean", *assessment.attacks)]


def _rgb(colour: str) -> tuple[int, int, int]:
    """Return the three parts of a colour such as #0072b2."""
    red, green, blue = bytes.fromhex(colour[1:])
    return red, green, blue


def examples(assessment: EvalResult, pictures: Pictures) -> list[Example]:
    """Return the first images that fell, with their examples; none if there are no examples."""
    if not assessment.x_adv.shape[0] or assessment.x_adv.shape[1] not in (1, 3):
        return []
    scale = _amplified(assessment, pictures.x)
    found = []
    for place in fallen(assessment).nonzero().flatten().tolist()[:EXAMPLES]:
        example = assessment.x_adv[place].detach().cpu().float()
        image = change = ""
        if pictures.x is not None:
            clean = pictures.x[place].detach().cpu().float()
            image = png_url(pixels(clean))
            change = png_url(pixels(0.5 + scale * (example - clean)))
        predicted = ""
        if pictures.predicted is not None:
            predicted = class_name(int(pictures.predicted[place]), pictures.class_names)
        found.append(
            Example(
                place,
                class_name(int(assessment.labels[place]), pictures.class_names),
                predicted,
                broken_by(assessment, place),
                image,
                png_url(pixels(example)),
                change,
            )
        )
    return found


def _amplified(assessment: EvalResult, x: Tensor | None) -> float:
    """Return the factor that makes the largest change among the examples shown fill the greys."""
    places = fallen(assessment).nonzero().flatten()[:EXAMPLES]
    if x is None or not len(places) or not len(assessment.x_adv):
        return 1.0
    change = (assessment.x_adv[places].cpu().float() - x[places.to(x.device)].cpu().float()).abs()
    return 0.5 / max(float(change.max()), 1e-6)


def pixels(image: Tensor) -> np.ndarray:
    """Return an image as 8-bit pixels, rounded, not truncated.

    Parameters
    ----------
    image
        float of shape (C, H, W) in [0, 1], of 1 or 3 channels; what lies outside is clipped.

    Returns
    -------
    numpy.ndarray
        uint8 of shape (H, W) or (H, W, 3).
    """
    levels = (image.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    return levels[0] if len(levels) == 1 else levels.transpose(1, 2, 0)


def png_bytes(levels: np.ndarray) -> bytes:
    """Return uint8 pixels of shape (H, W) or (H, W, 3) as a PNG."""
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(levels)).save(stream, format="png")
    return stream.getvalue()


def png_url(levels: np.ndarray) -> str:
    """Return the same as a URL that holds it."""
    return "data:image/png;base64," + base64.b64encode(png_bytes(levels)).decode()


def check_groups(checks: Sequence[Check]) -> list[tuple[Status, list[tuple[int, Check]]]]:
    """Return the checks with their numbers by status, the worst first; only statuses that occur."""
    groups = [
        (status, [(n, check) for n, check in enumerate(checks, 1) if check.status == status])
        for status in STATUSES
    ]
    return [(status, found) for status, found in groups if found]


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


def _short(name: str, most: int = NAME_LENGTH) -> str:
    """Return a name that fits into a figure."""
    return name if len(name) <= most else f"{name[: most - 1]}…"
