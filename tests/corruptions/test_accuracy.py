"""Accuracy on corrupted images against counting by hand, and what a table may be called."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache

import pytest
import torch
from scipy.stats import binomtest
from torch import Tensor, nn

from arnas.corruptions.accuracy import (
    CorruptionTable,
    corruption_accuracy,
    mean_accuracy,
    mean_corruption_error,
)
from arnas.corruptions.corrupt import CORRUPTIONS, corrupt
from arnas.data.sources.shapes import draw_shapes
from arnas.runtime.errors import UserError

EVERY = list(CORRUPTIONS)


class Brightest(nn.Module):
    """Names the channel with the largest mean, of images and of nothing else.

    It has layers that behave differently in training.
    """

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.drop = nn.BatchNorm2d(3), nn.Dropout()
        self.seen: list[tuple[int, ...]] = []
        self.awake = 0
        self.light = 0.0

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(tuple(x.shape))
        self.light += float(x.double().sum())
        self.awake += self.training or self.norm.training or self.drop.training
        assert x.min() >= 0 and x.max() <= 1
        return self.drop(self.norm(x)).mean(dim=(2, 3))


def images(count: int = 8) -> tuple[Tensor, Tensor]:
    """Return images as uint8 and their brightest channels, a few of them wrong."""
    x = torch.from_numpy(draw_shapes(count, 32, 0)[0])
    y = x.double().mean(dim=(2, 3)).argmax(1)
    y[:2] = (y[:2] + 1) % 3
    return x, y


def table(
    names: Sequence[str] | None = None, severities: Sequence[int] = (1, 2, 3, 4, 5), **more: object
) -> CorruptionTable:
    x, y = images()
    settings = {"batch_size": 3, "seed": 0, **more}
    return corruption_accuracy(Brightest(), x, y, names=names, severities=severities, **settings)


@cache
def whole() -> CorruptionTable:
    return table()


def test_every_cell_is_counted_by_hand() -> None:
    x, y = images()
    indices = torch.arange(40, 48)
    found = corruption_accuracy(Brightest(), x, y, batch_size=3, seed=5, indices=indices)
    assert list(found.accuracies) == EVERY
    assert found.severities == (1, 2, 3, 4, 5)
    assert (found.clean.correct, found.clean.n) == (6, 8)
    right = []
    for name in EVERY:
        for severity in range(1, 6):
            seen = corrupt(x, name, severity, 5, indices).double().mean(dim=(2, 3)).argmax(1)
            assert torch.equal(found.outcomes[name][severity - 1], (seen == y).to(torch.uint8))
            cell = found.accuracies[name][severity]
            assert (cell.correct, cell.n) == (int((seen == y).sum()), 8)
            right.append(cell.percent)
    assert found.mean.percent == pytest.approx(sum(right) / 70)
    assert 0 < found.mean.low < found.mean.percent < found.mean.high < 100
    assert found.by_corruption()["fog"] == pytest.approx(sum(right[40:45]) / 5)


def test_floats_and_bytes_are_judged_alike() -> None:
    (x, y), models = images(), [Brightest(), Brightest()]
    tables = [
        corruption_accuracy(model, given, y, batch_size=4, seed=0, names=["snow"])
        for model, given in zip(models, (x, x.float() / 255), strict=True)
    ]
    assert torch.equal(*(found.outcomes["snow"] for found in tables))
    assert models[0].light == models[1].light
    by_hand = [x, *(corrupt(x, "snow", severity, 0) for severity in range(1, 6))]
    levels = sum(int(made.long().sum()) for made in by_hand)
    assert models[0].light == pytest.approx(levels / 255, rel=1e-6)


def test_the_model_comes_out_as_it_went_in() -> None:
    model = Brightest()
    model.drop.eval()
    modes = [module.training for module in model.modules()]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    x, y = images()
    corruption_accuracy(model, x, y, batch_size=3, seed=0, names=["fog"], severities=[2])
    assert model.awake == 0
    assert model.seen == [(3, 3, 32, 32), (3, 3, 32, 32), (2, 3, 32, 32)] * 2
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize(("correct", "n"), [(0, 7), (3, 7), (7, 7), (412, 1000)])
def test_the_interval_of_a_mean_is_that_of_wilson_for_whole_images(correct: int, n: int) -> None:
    wilson = binomtest(correct, n).proportion_ci(confidence_level=0.95, method="wilson")
    found = mean_accuracy(correct / n, n)
    assert found.low == pytest.approx(100 * wilson.low, abs=1e-9)
    assert found.high == pytest.approx(100 * wilson.high, abs=1e-9)
    assert (found.percent, found.n) == (pytest.approx(100 * correct / n), n)


def test_mce_is_relative_to_the_reference() -> None:
    own = whole()
    errors = {name: 100 - percent for name, percent in own.by_corruption().items()}
    assert min(errors.values()) > 0
    assert own.mce is None and "reference" in str(own.mce_absent)
    halves = {name: min(2 * error, 100) for name, error in errors.items()}
    by_hand = sum(errors[name] / halves[name] for name in EVERY) / 14
    found = table(reference={**halves, "frost": 0.0})
    assert found.mce == pytest.approx(100 * by_hand) and found.mce_absent is None
    assert mean_corruption_error(errors, errors) == pytest.approx(100)
    assert mean_corruption_error({"fog": 30, "snow": 20}, {"fog": 60, "snow": 80}) == 37.5


def test_mce_needs_the_whole_table() -> None:
    reference = dict.fromkeys(EVERY, 50.0)
    for part in (table(["fog"], reference=reference), table(EVERY, [1], reference=reference)):
        assert part.mce is None
        assert "all 14 corruptions at all 5 severities" in str(part.mce_absent)


def test_a_table_is_called_what_it_is() -> None:
    assert whole().suite == "corruptions-14"
    part = table(["snow", "fog", "snow"], [5, 1])
    assert part.suite == "part of corruptions-14: 2 of 14 corruptions, severities 1, 5"
    assert not part.complete
    assert part.severities == (1, 5) and part.outcomes["fog"].shape == (2, 8)


def test_the_json_says_it_all_but_the_outcomes() -> None:
    found = whole()
    values = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert values["suite"] == "corruptions-14"
    assert values["left_out"] == ["frost"]
    assert values["constants"] == "those of CIFAR-10-C"
    assert (values["n"], values["seed"], values["mce"]) == (8, 0, None)
    assert values["corruptions"]["snow"]["3"] == found.accuracies["snow"][3]._asdict()
    assert values["mean"]["percent"] == found.mean.percent


def test_progress_is_reported() -> None:
    said: list[tuple[int, int, str]] = []
    table(["fog", "snow"], [1, 4], report=lambda *what: said.append(what))
    assert [(done, total) for done, total, _ in said] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert said[0][2].startswith("snow 1: ") and said[3][2].startswith("fog 4: ")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"names": ["frost"]}, "'frost'"),
        ({"names": []}, "names is empty"),
        ({"severities": []}, "severities is empty"),
        ({"severities": [0]}, "severities holds 0"),
        ({"indices": torch.arange(3)}, "one index for each of the 8"),
        ({"reference": {"fog": 50.0}}, "no error for gaussian_noise"),
        ({"reference": dict.fromkeys(EVERY, 0.5)}, "look like shares"),
        ({"reference": {**dict.fromkeys(EVERY, 50.0), "fog": 0.0}}, "error of 0 for fog"),
        ({"reference": {**dict.fromkeys(EVERY, 50.0), "fog": float("nan")}}, "nan for fog"),
    ],
)
def test_what_cannot_be_meant(more: dict[str, object], said: str) -> None:
    with pytest.raises(UserError) as error:
        table(**more)
    assert said in str(error.value)
    assert str(error.value).endswith(".") and "\n" not in str(error.value)


def test_images_that_do_not_fit() -> None:
    model, (x, y) = Brightest(), images()
    for images_, labels, said in (
        (x[:, :1, :8, :8], y, "8 x 8"),
        (x, y[:3], "one label for each"),
        (x[:0], y[:0], "at least one image"),
    ):
        with pytest.raises(UserError, match=said):
            corruption_accuracy(model, images_, labels, batch_size=4, seed=0)
    assert not model.seen
