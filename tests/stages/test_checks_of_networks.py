"""The checks that need several networks get the outcomes of the right network, seed and dataset."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from arnas.runtime.files import TensorFile
from arnas.stages.tables import _checks

NOTHING, ALL = torch.zeros(100, dtype=torch.uint8), torch.ones(100, dtype=torch.uint8)


def flags(correct: int, n: int = 100) -> Tensor:
    """Return n outcomes of which the last ones are robust."""
    return (torch.arange(n) >= n - correct).to(torch.uint8)


def outcome(
    model: str, dataset: str = "digits", seed: int = 0, loss: str = "pgd", robust: int = 50
) -> TensorFile:
    """Return a white-box outcome: of 100 images 90 are right and the last `robust` are robust."""
    tensors = {
        "selected.clean": flags(90),
        "selected.fgsm": flags(80),
        "selected.pgd20": flags(robust),
        "selected.autoattack": flags(0, 16),
        "last.pgd20": NOTHING,
        "curve": torch.zeros(2, 100, dtype=torch.uint8),
    }
    return TensorFile(
        tensors,
        {
            "dataset": {"name": dataset},
            "network": model,
            "seed": seed,
            "checkpoints": {"selected": {"loss": loss}},
            "checks": [{"id": "logits", "status": "PASS", "evidence": "fine", "advice": "x"}],
        },
    )


def checks_of(
    files: list[TensorFile], name: str, scores: dict[str, dict[str, Tensor]] | None = None
) -> list[dict[str, Any]]:
    """Return the rows of one check."""
    datasets = [file.description["dataset"]["name"] for file in files]
    blackbox = {
        dataset: TensorFile((scores or {}).get(dataset, {}), {"checks": {}}) for dataset in datasets
    }
    return [row for row in _checks(files, blackbox, {"plain", "wide"}) if row["check"] == name]


def test_black_box_outcomes_are_those_of_the_network_and_its_seed() -> None:
    """Square counts too; examples that were made on the network itself do not."""
    others = {
        "1.a_net.other": flags(48),
        "1.a_net.square": flags(30, 60),
        "1.a_net.a_net": NOTHING,
        "0.a_net.other": NOTHING,
        "11.a_net.other": NOTHING,
        "1.a_net2.other": NOTHING,
        "1.other.a_net": NOTHING,
    }
    scores = {"shapes": {"1.a_net.other": NOTHING}, "digits": others}

    def checked() -> tuple[str, str]:
        (row,) = checks_of([outcome("a_net", seed=1)], "blackbox_not_stronger", scores)
        return row["status"], row["evidence"]

    status, evidence = checked()
    assert status == "WARN"
    assert "2 of 100 images" in evidence and "the strongest of 2" in evidence
    others["1.a_net.square"] = flags(0, 60)
    assert checked()[0] == "FAIL", "of the first sixty images ten are robust in the white box"
    scores["digits"] = {"1.a_net.a_net": NOTHING}
    assert checked() == ("WARN", "no black-box attack was run")
    scores["digits"] = {"1.a_net.my_a_net": NOTHING}
    assert checked()[0] == "FAIL", "another network, though its name ends alike"
    scores["digits"] = {"1.a_net.other": ALL}
    assert checked()[0] == "PASS"


def test_the_white_box_is_the_union_over_the_selected_checkpoint() -> None:
    """The last checkpoint, the curve and an attack on some images are not part of it."""
    file = outcome("a_net", robust=100)
    file.tensors["selected.cw_inf"] = (torch.arange(100) < 10).to(torch.uint8)
    scores = {"digits": {"0.a_net.b": NOTHING}}
    (row,) = checks_of([file], "blackbox_not_stronger", scores)
    assert row["status"] == "PASS", "each of the attacks leaves images, all together none"


def test_each_dataset_and_seed_has_controls_of_its_own() -> None:
    files = [
        outcome("plain", "digits", 0, "natural", 10),
        outcome("wide", "digits", 0, "natural", 85),
        outcome("a_net", "digits", 0),
        outcome("plain", "digits", 1, "jsigr", 70),
        outcome("plain", "shapes", 0, "natural", 85),
        outcome("a_net", "mine", 0, "trades", 0),
    ]
    rows = checks_of(files, "control_falls")
    assert [(row["dataset"], row["seed"], row["status"]) for row in rows] == [
        ("digits", 0, "PASS"),
        ("digits", 0, "FAIL"),
        ("digits", 1, "WARN"),
        ("shapes", 0, "FAIL"),
        ("mine", 0, "WARN"),
    ]
    assert {(row["model"], row["training"]) for row in rows} == {("all", "")}
    assert "80.0 %" in rows[3]["evidence"], "FGSM breaks more here, so the union counts"
    assert "no undefended network" in rows[4]["evidence"], "a defended network is no control"


def test_the_checks_of_the_stages_come_first() -> None:
    rows = list(_checks([outcome("a_net")], {"digits": TensorFile({}, {"checks": {}})}, ()))
    assert [row["check"] for row in rows] == ["logits", "blackbox_not_stronger", "control_falls"]
    assert all(list(row) == list(rows[0]) for row in rows)
